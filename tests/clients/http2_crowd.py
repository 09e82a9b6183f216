"""A client of HTTP/2 that asks for much and reads little, in frames of its own.

TO is a pair of address and port. It is told lines, and answers each with one:

ask PATH COUNT FIELDS   so many requests, each with so many fields; answered when the peer has them
reset COUNT             takes the last ones back; answered when the peer knows
heads COUNT             waits for so many answers to have begun, in all
full                    waits until the peer may send no more of any body
"""

import os
import socket
import sys
import threading

DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = 8
# RFC 9113, section 6.9.2: that of the connection, which is never enlarged.
WINDOW = 65535

connection = socket.create_connection(TO)  # noqa: F821
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
seen = threading.Condition()
heads = data = pongs = 0


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def exactly(count):
    read = b""
    while len(read) < count:
        more = connection.recv(count - len(read))
        if not more:
            sys.stderr.write("the peer has closed the connection\n")
            # Whoever waits would wait for ever.
            os._exit(1)
        read += more
    return read


def listen():
    global heads, data, pongs
    while True:
        head = exactly(9)
        payload = exactly(int.from_bytes(head[:3], "big"))
        kind, flags = head[3], head[4]
        if kind == SETTINGS and not flags & ACK:
            connection.sendall(frame(SETTINGS, ACK, 0, b""))
        with seen:
            heads += kind == HEADERS
            data += len(payload) if kind == DATA else 0
            pongs += kind == PING
            seen.notify_all()


def wait(until):
    with seen:
        seen.wait_for(until)


def synchronize():
    before = pongs
    connection.sendall(frame(PING, 0, 0, bytes(8)))
    wait(lambda: pongs > before)


def text(value):
    # RFC 7541, section 5.1: a number of seven bits, and more.
    rest = len(value) - 127
    if rest < 0:
        return bytes([len(value)]) + value
    out = b"\x7f"
    while rest >= 128:
        out += bytes([rest % 128 + 128])
        rest //= 128
    return out + bytes([rest]) + value


# RFC 7541, appendix A: 2 is GET, 6 is http, 4 is the path, 1 the authority. The first entry of the
# table that is learned is 62.
BEGIN = bytes([0x82, 0x86]) + b"\x01" + text(b"echo")
LEARN = b"\x40" + text(b"x") + text(b"y")

connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
threading.Thread(target=listen, daemon=True).start()
print("ready", flush=True)
number = 1
for line in sys.stdin:
    word, *rest = line.split()
    if word == "ask":
        path, count, fields = rest[0].encode(), int(rest[1]), int(rest[2])
        out = b""
        for _ in range(count):
            block = BEGIN + b"\x04" + text(path)
            block += LEARN if number == 1 else b""
            out += frame(HEADERS, END_STREAM | END_HEADERS, number, block + b"\xbe" * fields)
            number += 2
        connection.sendall(out)
        synchronize()
    elif word == "reset":
        last = range(number - 2 * int(rest[0]), number, 2)
        connection.sendall(b"".join(frame(RST_STREAM, 0, n, CANCEL.to_bytes(4, "big")) for n in last))
        synchronize()
    elif word == "heads":
        wait(lambda: heads >= int(rest[0]))
    elif word == "full":
        wait(lambda: data >= WINDOW)
    print("done", flush=True)
