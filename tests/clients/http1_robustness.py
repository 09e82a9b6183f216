"""What a server of HTTP/1.1 must make of requests that are malformed, rare, or cut into pieces
(RFC 9112). Each case has a connection of its own. Prints what went wrong.

usage: http1_robustness.py HOST PORT
"""

import errno
import json
import re
import socket
import sys
import time

ADDRESS = (sys.argv[1], int(sys.argv[2]))


def ask(line="GET /a HTTP/1.1", *fields, host="Host: echo", body=""):
    lines = [line, *([host] if host else []), *fields, "", ""]
    return ("\r\n".join(lines) + body).encode("latin-1")


LAST = ask("GET /status/299 HTTP/1.1", "Connection: close")


def said(data, pieces=None):
    """The statuses of what comes back until the connection ends."""
    with socket.create_connection(ADDRESS, timeout=10) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        got = b""
        try:
            for piece in pieces or [data]:
                peer.sendall(piece)
            peer.shutdown(socket.SHUT_WR)
            while part := peer.recv(65536):
                got += part
        except OSError as error:
            # A shutdown of what was reset already is no ConnectionError.
            if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
                raise
    # Whatever is in a body, a status line is at the beginning of a line.
    return [int(status) for status in re.findall(rb"(?:^|\r\n|\})HTTP/1\.[01] (\d{3}) ", got)]


def answered(got):
    return got == [200]


def both(got):
    return got == [200, 299]


def refused(got):
    """An error of the client's, which it gets to see; and nothing after it."""
    return len(got) == 1 and (400 <= got[0] < 500 or got[0] == 505)


def refused_or_left(got):
    """The client has ended: an answer is not asked for."""
    return not got or refused(got)


def refused_or_answered(got):
    """Implementations differ, and nobody is harmed."""
    return refused(got) or answered(got)


CASES = [
    ("a request", ask(), answered),
    ("two requests at once", ask() + LAST, both),
    ("a lower-case method", ask("get /a HTTP/1.1"), refused_or_answered),
    ("a method that nobody knows", ask("FROBNICATE /a HTTP/1.1"), answered),
    ("a long method", ask("M" * 2000 + " /a HTTP/1.1"), refused_or_answered),
    ("an empty line before", b"\r\n" + ask(), answered),
    ("two empty lines before", b"\r\n\r\n" + ask(), answered),
    ("fields without a value", ask("GET /a HTTP/1.1", "X-A:", "X-B: "), answered),
    ("bytes beyond ASCII in a value", ask("GET /a HTTP/1.1", "X-A: \xc3\xa9"), answered),
    ("a tab in a value", ask("GET /a HTTP/1.1", "X-A: a\tb"), answered),
    ("the absolute form", ask("GET http://echo/a HTTP/1.1"), answered),
    ("the asterisk form", ask("OPTIONS * HTTP/1.1"), answered),
    ("HTTP/1.0", ask("GET /a HTTP/1.0"), answered),
    ("HTTP/1.0 that is kept", ask("GET /a HTTP/1.0", "Connection: keep-alive") + LAST, both),
    ("HTTP/1.0 that is not", ask("GET /a HTTP/1.0") + LAST, answered),
    ("the same length twice", ask("POST /a HTTP/1.1", "Content-Length: 1", "Content-Length: 1", body="a") + LAST, both),
    ("chunks with extensions", ask("POST /a HTTP/1.1", "Transfer-Encoding: chunked", body="1;a=b\r\na\r\n0\r\n\r\n") + LAST, both),
    ("chunks with trailers", ask("POST /a HTTP/1.1", "Transfer-Encoding: chunked", body="1\r\na\r\n0\r\nX-T: u\r\n\r\n") + LAST, both),
    ("leading zeros of a chunk", ask("POST /a HTTP/1.1", "Transfer-Encoding: chunked", body="0001\r\na\r\n000\r\n\r\n") + LAST, both),
    ("a hundred fields", ask("GET /a HTTP/1.1", *[f"X-{n}: a" for n in range(95)]) + LAST, both),
    ("a head of 15 KiB", ask("GET /a HTTP/1.1", *["X-A: " + "a" * 1000] * 15) + LAST, both),
    ("a head of 30 KiB", ask("GET /a HTTP/1.1", *["X-A: " + "a" * 1000] * 30) + LAST, both),
    # What is no request.
    ("nothing but a word", b"hello\r\n\r\n", refused),
    ("no version", ask("GET /a"), refused),
    ("HTTP/0.9", b"GET /a\r\n", refused),
    ("HTTP/1.2", ask("GET /a HTTP/1.2"), refused),
    ("HTTP/3.0", ask("GET /a HTTP/3.0"), refused),
    ("http in lower case", ask("GET /a http/1.1"), refused),
    ("two blanks", ask("GET  /a HTTP/1.1"), refused),
    ("a blank in the target", ask("GET /a b HTTP/1.1"), refused),
    ("a control byte in the target", ask("GET /a\x01 HTTP/1.1"), refused),
    ("a control byte in the method", ask("GE\x01T /a HTTP/1.1"), refused),
    ("a blank before the colon", ask("GET /a HTTP/1.1", "X-A : b"), refused),
    ("a blank in a name", ask("GET /a HTTP/1.1", "X A: b"), refused),
    ("no colon", ask("GET /a HTTP/1.1", "X-A"), refused),
    ("no name", ask("GET /a HTTP/1.1", ": b"), refused),
    ("a field before the first line ends", ask("GET /a HTTP/1.1 X-A: b"), refused),
    ("a folded line", ask("GET /a HTTP/1.1", "X-A: b", " c"), refused),
    ("a folded first line", ask("GET /a HTTP/1.1", " X-A: b", host=""), refused),
    ("a zero in a value", ask("GET /a HTTP/1.1", "X-A: a\0b"), refused),
    ("a carriage return in a value", ask("GET /a HTTP/1.1", "X-A: a\rb"), refused),
    ("a carriage return at the end of a line", ask("GET /a HTTP/1.1", "X-A: a\r"), refused),
    ("a length with a sign", ask("POST /a HTTP/1.1", "Content-Length: +1", body="a"), refused),
    ("a negative length", ask("POST /a HTTP/1.1", "Content-Length: -1", body="a"), refused),
    ("a length that is none", ask("POST /a HTTP/1.1", "Content-Length: one", body="a"), refused),
    ("a hexadecimal length", ask("POST /a HTTP/1.1", "Content-Length: 0x1", body="a"), refused),
    ("a length beyond 2^64", ask("POST /a HTTP/1.1", "Content-Length: 99999999999999999999", body="a"), refused),
    ("two lengths", ask("POST /a HTTP/1.1", "Content-Length: 1", "Content-Length: 2", body="ab"), refused),
    ("two lengths in one field", ask("POST /a HTTP/1.1", "Content-Length: 1, 2", body="ab"), refused),
    ("an unknown coding", ask("POST /a HTTP/1.1", "Transfer-Encoding: mangled", body="a"), refused),
    ("chunks that are not the last coding", ask("POST /a HTTP/1.1", "Transfer-Encoding: chunked, gzip", body="0\r\n\r\n"), refused),
    ("chunks of HTTP/1.0", ask("POST /a HTTP/1.0", "Transfer-Encoding: chunked", body="0\r\n\r\n"), refused),
    ("three hundred fields", ask("GET /a HTTP/1.1", *[f"X-{n}: a" for n in range(300)]), refused),
    ("a head of 100 KiB", ask("GET /a HTTP/1.1", *["X-A: " + "a" * 1000] * 100), refused),
    ("a target of 100 KiB", ask("GET /" + "a" * 100_000 + " HTTP/1.1"), refused),
    ("a head of 8 MiB", ask("GET /a HTTP/1.1", *["X-A: " + "a" * 1000] * 8 * 1024), refused),
    ("a head without an end", ask("GET /a HTTP/1.1", "X-A: b")[:-2], refused_or_left),
]

# A body that is broken after a good head: the server must not see it as whole, and nothing after it is
# a request.
BROKEN = [
    ("no size", "x\r\na\r\n0\r\n\r\n"),
    ("a size with a sign", "+1\r\na\r\n0\r\n\r\n"),
    ("a size with a prefix", "0x1\r\na\r\n0\r\n\r\n"),
    ("a size beyond 2^64", "fffffffffffffffff\r\na\r\n0\r\n\r\n"),
    ("more than the size says", "1\r\nab\r\n0\r\n\r\n"),
    ("no line feed after the size", "1\ra\r\n0\r\n\r\n"),
    ("an end that is missing", "1\r\na\r\n"),
    ("an extension of 100 KiB", "1;" + "a" * 100_000 + "\r\na\r\n0\r\n\r\n"),
]


def failures():
    for name, data, is_right in CASES:
        if not is_right(got := said(data)):
            yield f"{name}: {got}"
    for name, body in BROKEN:
        got = said(ask("POST /broken HTTP/1.1", "Transfer-Encoding: chunked", body=body) + LAST)
        if 200 in got or 299 in got:
            yield f"chunks with {name}: {got}"
    # However it is cut, it is the same.
    whole = ask("POST /a?b=c HTTP/1.1", "Content-Length: 5", "Connection: keep-alive", body="hello") + \
        ask("POST /a HTTP/1.1", "Transfer-Encoding: chunked", body="5\r\nhello\r\n0\r\n\r\n") + ask() + LAST
    for cut in range(1, len(whole)):
        if (got := said(whole, [whole[:cut], whole[cut:]])) != [200, 200, 200, 299]:
            yield f"cut at {cut}: {got}"
    if (got := said(whole, [bytes([byte]) for byte in whole])) != [200, 200, 200, 299]:
        yield f"cut at every byte: {got}"
    # Many that say nothing to the end are no reason to serve others late.
    slow = [socket.create_connection(ADDRESS, timeout=10) for _ in range(200)]
    for peer in slow:
        peer.sendall(b"GET /a HTTP/1.1\r\nHost: ec")
    began = time.monotonic()
    if (got := said(ask() + LAST)) != [200, 299] or time.monotonic() - began > 5:
        yield f"beside slow ones: {got} after {time.monotonic() - began} s"
    for peer in slow:
        peer.close()


print(json.dumps({"cases": len(CASES) + len(BROKEN) + 3, "failures": list(failures())}))
