"""A server of FTP at port 21, with four ports for passive connections."""

import logging
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer


class Handler(FTPHandler):
    passive_ports = range(30000, 30004)

    def on_disconnect(self):
        with open(sys.argv[1] + "/../log", "a", encoding="utf-8") as log:
            print("gone", self.username, file=log)


logging.basicConfig(level=logging.WARNING)
Handler.authorizer = DummyAuthorizer()
for name in ["user", "waiting"]:
    Handler.authorizer.add_user(name, "secret", sys.argv[1], perm="elradfmwMT")
# Of a wrong password it waits by default; the answer is what is compared.
Handler.auth_failed_timeout = 0
FTPServer(("0.0.0.0", 21), Handler).serve_forever()
