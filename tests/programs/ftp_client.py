"""A client of FTP: says what it gets."""

import ftplib
import hashlib
import io
import sys

HOST, CASE = sys.argv[1:]


def login(passive, password="secret", user="user"):
    ftp = ftplib.FTP(HOST, timeout=20)
    ftp.set_pasv(passive)
    print(ftp.getwelcome())
    print(ftp.login(user, password))
    return ftp


def files(is_passive):
    ftp = login(is_passive)
    print(sorted(ftp.nlst()))
    for name in ["large", "numbers"]:
        digest = hashlib.sha256()
        print(ftp.retrbinary(f"RETR {name}", digest.update), digest.hexdigest())
    data = bytes(range(256)) * 10_000
    print(ftp.storbinary("STOR new", io.BytesIO(data)), ftp.size("new"))
    back = io.BytesIO()
    print(ftp.retrbinary("RETR new", back.write), back.getvalue() == data)
    print(ftp.delete("new"))
    try:
        ftp.retrbinary("RETR missing", print)
    except ftplib.error_perm as error:
        print(error)
    print("client", ftp.sock.getsockname()[0], "server", ftp.sock.getpeername())
    print(ftp.quit())


def passive():
    files(True)


def active():
    files(False)


def wrong_password():
    login(True, "wrong")


def refused():
    login(True)


def waits():
    ftp = login(True, user="waiting")
    connection = ftp.transfercmd("RETR huge")
    got = connection.recv(1000)
    print("waits", len(got) > 0, flush=True)
    print("answer", ftp.getline(), flush=True)


try:
    globals()[CASE]()
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(1)
