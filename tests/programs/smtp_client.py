"""A client of SMTP: says what it gets."""

import smtplib
import sys

HOST, CASE = sys.argv[1:]


def connect():
    smtp = smtplib.SMTP(HOST, 25, local_hostname="client.example", timeout=20)
    print(smtp.ehlo())
    return smtp


def mails():
    smtp = connect()
    print(smtp.login("user", "secret"))
    for size in [10, 1000, 100_000]:
        text = "From: a@example.com\r\nSubject: some\r\n\r\n" + ("x" * 70 + "\r\n.\r\n") * (size // 10)
        print(smtp.sendmail("a@example.com", ["b@example.com", "nobody@example.com"], text))
    print(smtp.docmd("NONSENSE"))
    print(smtp.quit())


def wrong_password():
    connect().login("user", "wrong")


def refused():
    connect()


def waits():
    smtp = connect()
    print(smtp.mail("a@example.com"), smtp.rcpt("b@example.com"))
    print("waits", flush=True)
    print(smtp.getreply(), flush=True)


try:
    globals()[CASE]()
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(1)
