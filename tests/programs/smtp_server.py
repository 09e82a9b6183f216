"""A server of SMTP at port 25, with a user, that says what it has got."""

import asyncio
import hashlib

from aiosmtpd.smtp import SMTP, AuthResult


class Server(SMTP):
    def connection_lost(self, error):
        if self.envelope and self.envelope.rcpt_tos:
            print("gone in the middle", flush=True)
        super().connection_lost(error)


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 there is no such recipient"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        digest = hashlib.sha256(envelope.content).hexdigest()
        print("mail", session.peer[0], envelope.mail_from, envelope.rcpt_tos, len(envelope.content), digest, flush=True)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"user", b"secret"), handled=False)


async def main():
    def make():
        return Server(
            Handler(), hostname="server.example", authenticator=authenticate, auth_require_tls=False
        )

    server = await asyncio.get_running_loop().create_server(make, "0.0.0.0", 25)
    await server.serve_forever()


asyncio.run(main())
