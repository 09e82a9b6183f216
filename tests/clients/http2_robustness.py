"""What a server of HTTP/2 must make of peers that break the protocol, frame by frame (RFC 9113), and of
those that only look as if they did. Each case has a connection of its own. Prints what went wrong.

usage: http2_robustness.py HOST PORT
"""

import json
import socket
import struct
import sys

import hpack

ADDRESS = (sys.argv[1], int(sys.argv[2]))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 1, 1, 4, 8, 32
# Error codes, section 7.
NO_ERROR, PROTOCOL, INTERNAL, FLOW, SETTINGS_TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, \
    CONNECT, CALM = range(12)

GET = [(":method", "GET"), (":scheme", "http"), (":authority", "echo"), (":path", "/a")]
POST = [(":method", "POST")] + GET[1:]


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def fields(pairs):
    """Fields as literals without indexing: names are sent as they are, whatever they are."""
    out = b""
    for name, value in pairs:
        name, value = name.encode(), value.encode()
        assert len(name) < 127 and len(value) < 127
        out += b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    return out


def ask(pairs=GET, stream=1, flags=END_STREAM | END_HEADERS):
    return frame(HEADERS, flags, stream, fields(pairs))


def word(number):
    return struct.pack(">I", number)


def setting(key, value):
    return struct.pack(">HI", key, value)


class Peer:
    """A connection, and what has come on it."""

    def __init__(self, opening=PREFACE + frame(SETTINGS)):
        self.socket = socket.create_connection(ADDRESS, timeout=10)
        self.send(opening)
        self.buffer, self.decoder = b"", hpack.Decoder()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # What it says about it is read.

    def read(self, length):
        while len(self.buffer) < length:
            try:
                data = self.socket.recv(65536)
            except (ConnectionError, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise
                return None
            if not data:
                return None
            self.buffer += data
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def frames(self):
        while (head := self.read(9)) is not None:
            length, kind, flags, stream = int.from_bytes(head[:3], "big"), head[3], head[4], \
                int.from_bytes(head[5:], "big") & 0x7FFFFFFF
            payload = self.read(length)
            if payload is None:
                return
            if kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK))
            yield kind, flags, stream, payload

    def outcome(self, stream=1):
        """What comes of a stream: ("status", N), ("reset", code), ("away", code) or ("closed",)."""
        for kind, _flags, of, payload in self.frames():
            if kind == HEADERS:
                status = dict(self.decoder.decode(payload)).get(":status")
                if of == stream and not status.startswith("1"):
                    return "status", int(status)
            elif kind == RST_STREAM and of == stream:
                return "reset", int.from_bytes(payload, "big")
            elif kind == GOAWAY and (code := int.from_bytes(payload[4:8], "big")) != NO_ERROR:
                return "away", code
        return ("closed",)

    def next(self, wanted):
        """The payload of the next frame of a kind, if it is an acknowledgement where there are any."""
        for kind, flags, _stream, payload in self.frames():
            if kind == wanted and (kind not in (SETTINGS, PING) or flags & ACK):
                return payload
        return None


def connection_error(*codes):
    """The connection ends, with one of these codes if it is said with which. The library h2 says
    PROTOCOL_ERROR for all that is malformed, where the standard has more exact words."""
    return lambda got: got[0] == "closed" or got[0] == "away" and got[1] in (PROTOCOL, *codes)


def stream_error(*codes):
    """The stream ends, or the connection (section 5.4.2 allows it); or the request is answered as a bad
    one (section 8.1.1)."""
    return lambda got: got[0] == "closed" or got[0] in ("reset", "away") and got[1] in (PROTOCOL, *codes) \
        or got[0] == "status" and 400 <= got[1] < 500


def answered(got):
    return got == ("status", 200)


def huge_header_block(count):
    return frame(HEADERS, END_STREAM, 1, fields(GET)) + b"".join(
        frame(CONTINUATION, 0, 1, fields([(f"x-{n}", "y" * 100)] * 100)) for n in range(count))


def rapid_reset(count):
    return b"".join(ask(stream=2 * n + 1) + frame(RST_STREAM, 0, 2 * n + 1, word(CANCEL))
                    for n in range(count))


# Name, what is sent after the preface and empty settings, and what is to come of stream 1.
CASES = [
    ("a request", ask(), answered),
    ("fields in two frames", frame(HEADERS, END_STREAM, 1, fields(GET[:2]))
     + frame(CONTINUATION, END_HEADERS, 1, fields(GET[2:])), answered),
    ("padding", frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, b"\5" + fields(GET) + b"\0" * 5), answered),
    ("a priority within headers", frame(HEADERS, END_STREAM | END_HEADERS | PRIORITIZED, 1,
                                        word(0) + b"\x10" + fields(GET)), answered),
    ("a body", ask(POST, flags=END_HEADERS) + frame(DATA, END_STREAM, 1, b"hello"), answered),
    ("an empty DATA at the end", ask(POST, flags=END_HEADERS) + frame(DATA, END_STREAM, 1), answered),
    ("trailers", ask(POST, flags=END_HEADERS) + frame(DATA, 0, 1, b"a")
     + frame(HEADERS, END_STREAM | END_HEADERS, 1, fields([("x-t", "y")])), answered),
    ("a frame of an unknown type", frame(0x77, 0xFF, 0, b"what") + ask(), answered),
    ("a setting of an unknown key", frame(SETTINGS, 0, 0, setting(0x77, 1)) + ask(), answered),
    ("PRIORITY of an idle stream", frame(PRIORITY, 0, 5, word(0) + b"\x10") + ask(), answered),
    ("a window of one byte", frame(SETTINGS, 0, 0, setting(4, 1)) + ask(), answered),
    ("neither :authority nor host", ask([f for f in GET if f[0] != ":authority"]), answered),
    ("no :authority but host", ask([f for f in GET if f[0] != ":authority"] + [("host", "echo")]), answered),
    ("cookies in pieces", ask(GET + [("cookie", "a=b"), ("cookie", "c=d")]), answered),
    ("te: trailers", ask(GET + [("te", "trailers")]), answered),
    ("the reserved bit", frame(HEADERS, END_STREAM | END_HEADERS, 0x80000001, fields(GET)), answered),
    # Section 4: frames.
    ("a frame longer than allowed", frame(DATA, 0, 1, b"x" * 20000), connection_error(SIZE, PROTOCOL)),
    ("headers longer than allowed", ask(GET + [("x", "y" * 100)] * 160), connection_error(SIZE)),
    ("a broken header block", frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"),
     connection_error(COMPRESSION)),
    ("an index that there is not", frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\xc6"), connection_error(COMPRESSION)),
    ("a table larger than allowed", frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x3f\xff\xff\x03" + fields(GET)),
     connection_error(COMPRESSION)),
    ("another frame among fields", frame(HEADERS, END_STREAM, 1, fields(GET)) + frame(PING, 0, 0, b"x" * 8),
     connection_error(PROTOCOL)),
    ("fields of another stream among fields", frame(HEADERS, END_STREAM, 1, fields(GET[:2]))
     + frame(CONTINUATION, END_HEADERS, 3, fields(GET[2:])), connection_error(PROTOCOL)),
    # Section 5: streams.
    ("DATA of an idle stream", frame(DATA, END_STREAM, 1, b"x"), connection_error(PROTOCOL, CLOSED)),
    ("RST_STREAM of an idle stream", frame(RST_STREAM, 0, 1, word(CANCEL)), connection_error(PROTOCOL)),
    ("WINDOW_UPDATE of an idle stream", frame(WINDOW, 0, 1, word(1)), connection_error(PROTOCOL)),
    ("CONTINUATION of an idle stream", frame(CONTINUATION, END_HEADERS, 1, fields(GET)), connection_error(PROTOCOL)),
    ("a stream with an even number", ask(stream=2), connection_error(PROTOCOL)),
    ("a stream with a lower number", ask(stream=5) + ask(stream=3), connection_error(PROTOCOL, CLOSED)),
    ("DATA after the end", ask() + frame(DATA, END_STREAM, 1, b"x"), stream_error(CLOSED, PROTOCOL)),
    ("HEADERS after the end", ask() + ask(), stream_error(CLOSED, PROTOCOL)),
    ("HEADERS of stream 0", ask(stream=0), connection_error(PROTOCOL)),
    ("DATA of stream 0", frame(DATA, END_STREAM, 0, b"x"), connection_error(PROTOCOL)),
    # Section 6: frames by their type.
    ("more padding than DATA", ask(POST, flags=END_HEADERS) + frame(DATA, END_STREAM | PADDED, 1, b"\x09abc"),
     connection_error(PROTOCOL)),
    ("more padding than HEADERS", frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, b"\xff" + fields(GET)),
     connection_error(PROTOCOL)),
    ("a priority that depends on itself", frame(HEADERS, END_STREAM | END_HEADERS | PRIORITIZED, 1,
                                                word(1) + b"\x10" + fields(GET)), stream_error(PROTOCOL)),
    ("PRIORITY of a wrong length", frame(PRIORITY, 0, 1, b"abc"), stream_error(SIZE)),
    ("PRIORITY of stream 0", frame(PRIORITY, 0, 0, word(1) + b"\x10"), connection_error(PROTOCOL)),
    ("RST_STREAM of stream 0", frame(RST_STREAM, 0, 0, word(CANCEL)), connection_error(PROTOCOL)),
    ("RST_STREAM of a wrong length", ask(POST, flags=END_HEADERS) + frame(RST_STREAM, 0, 1, b"abc"), connection_error(SIZE)),
    ("SETTINGS of a stream", frame(SETTINGS, 0, 1), connection_error(PROTOCOL)),
    ("SETTINGS of a wrong length", frame(SETTINGS, 0, 0, b"abc"), connection_error(SIZE)),
    ("an acknowledgement with settings", frame(SETTINGS, ACK, 0, setting(3, 1)), connection_error(SIZE)),
    ("ENABLE_PUSH of 2", frame(SETTINGS, 0, 0, setting(2, 2)), connection_error(PROTOCOL)),
    ("INITIAL_WINDOW_SIZE of 2^31", frame(SETTINGS, 0, 0, setting(4, 1 << 31)), connection_error(FLOW)),
    ("MAX_FRAME_SIZE of 1", frame(SETTINGS, 0, 0, setting(5, 1)), connection_error(PROTOCOL)),
    ("MAX_FRAME_SIZE of 2^24", frame(SETTINGS, 0, 0, setting(5, 1 << 24)), connection_error(PROTOCOL)),
    ("PUSH_PROMISE of a client", frame(PUSH, END_HEADERS, 1, word(2) + fields(GET)), connection_error(PROTOCOL)),
    ("PING of a stream", frame(PING, 0, 1, b"x" * 8), connection_error(PROTOCOL)),
    ("PING of a wrong length", frame(PING, 0, 0, b"abc"), connection_error(SIZE)),
    ("GOAWAY of a stream", frame(GOAWAY, 0, 1, word(0) + word(0)), connection_error(PROTOCOL)),
    ("WINDOW_UPDATE of 0", frame(WINDOW, 0, 0, word(0)), connection_error(PROTOCOL)),
    ("WINDOW_UPDATE of 0 of a stream", ask(POST, flags=END_HEADERS) + frame(WINDOW, 0, 1, word(0)), stream_error(PROTOCOL)),
    ("WINDOW_UPDATE of a wrong length", frame(WINDOW, 0, 0, b"abc"), connection_error(SIZE)),
    ("windows beyond 2^31", frame(WINDOW, 0, 0, word(0x7FFFFFFF)) * 2, connection_error(FLOW)),
    ("windows of a stream beyond 2^31", ask(POST, flags=END_HEADERS) + frame(WINDOW, 0, 1, word(0x7FFFFFFF)) * 2,
     stream_error(FLOW)),
    # Section 8: HTTP in it.
    ("a name in upper case", ask(GET + [("X-Upper", "a")]), stream_error(PROTOCOL)),
    ("connection", ask(GET + [("connection", "keep-alive")]), stream_error(PROTOCOL)),
    ("transfer-encoding", ask(GET + [("transfer-encoding", "chunked")]), stream_error(PROTOCOL)),
    ("te: gzip", ask(GET + [("te", "gzip")]), stream_error(PROTOCOL)),
    ("a pseudo-field of an answer", ask(GET + [(":status", "200")]), stream_error(PROTOCOL)),
    ("an unknown pseudo-field", ask(GET[:2] + [(":what", "x")] + GET[2:]), stream_error(PROTOCOL)),
    ("a pseudo-field after a field", ask(GET[:3] + [("x-a", "b")] + GET[3:]), stream_error(PROTOCOL)),
    ("a pseudo-field twice", ask(GET + [(":path", "/b")]), stream_error(PROTOCOL)),
    ("no :method", ask(GET[1:]), stream_error(PROTOCOL)),
    ("no :path", ask(GET[:3]), stream_error(PROTOCOL)),
    ("an empty :path", ask(GET[:3] + [(":path", "")]), stream_error(PROTOCOL)),
    ("no :scheme", ask(GET[:1] + GET[2:]), stream_error(PROTOCOL)),
    # h2 leaves them out instead of resetting the stream: they do not go on.
    ("pseudo-fields in trailers", ask(POST, flags=END_HEADERS)
     + frame(HEADERS, END_STREAM | END_HEADERS, 1, fields([(":path", "/b")])), answered),
    ("less than content-length says", ask(POST + [("content-length", "9")], flags=END_HEADERS)
     + frame(DATA, END_STREAM, 1, b"abc"), stream_error(PROTOCOL)),
    ("more than content-length says", ask(POST + [("content-length", "1")], flags=END_HEADERS)
     + frame(DATA, END_STREAM, 1, b"abc"), stream_error(PROTOCOL)),
    # Too much of something.
    ("fields without an end", huge_header_block(200), connection_error(PROTOCOL, CALM, SIZE, COMPRESSION)),
    ("rapid resets", rapid_reset(2000), connection_error(CALM, PROTOCOL)),
]


def failures():
    for name, sent, is_right in CASES:
        peer = Peer()
        peer.send(sent)
        got = peer.outcome()
        if not is_right(got):
            yield f"{name}: {got}"
        peer.socket.close()
    peer = Peer()
    peer.send(frame(PING, 0, 0, b"12345678"))
    if peer.next(PING) != b"12345678":
        yield "a PING is not answered"
    peer = Peer()
    if peer.next(SETTINGS) is None:
        yield "settings are not acknowledged"
    peer = Peer(PREFACE[:-2] + b"XX" + frame(SETTINGS))
    if peer.outcome()[0] not in ("away", "closed"):
        yield "a broken preface is taken"
    peer = Peer()
    # A peer that goes away is still answered.
    peer.send(ask() + frame(GOAWAY, 0, 0, word(0) + word(0)))
    if not answered(got := peer.outcome()):
        yield f"a request before GOAWAY: {got}"
    # Everybody else is served as before.
    peer = Peer()
    peer.send(ask())
    if not answered(got := peer.outcome()):
        yield f"a request after all of it: {got}"


print(json.dumps({"cases": len(CASES) + 5, "failures": list(failures())}))
