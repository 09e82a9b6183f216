"""Connects in ways that Rust's standard library lacks, and prints the outcome as JSON.

KIND (parts with `+` between them), HOST and PORT are set before. The server says a line first, and then
echoes.
"""
import ctypes, errno, json, mmap, os, socket, struct

SECONDS = 8
MSG_FASTOPEN, TCP_FASTOPEN_CONNECT, IPPROTO_MPTCP = 0x20000000, 30, 262
PAYLOAD = b"hello"

family = socket.AF_INET6 if ":" in HOST else socket.AF_INET
parts = set(KIND.split("+"))
end = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if "mptcp" in parts else 0)
for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
    end.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", SECONDS, 0))


def uring(fd, address, polled):
    """connect(2) by io_uring: IORING_OP_CONNECT; `polled`: a thread of the kernel submits it."""
    libc = ctypes.CDLL(None, use_errno=True)
    def call(number, *args):
        result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_void_p, args))
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result
    params = ctypes.create_string_buffer(120)
    struct.pack_into("II", params, 8, 2 if polled else 0, 0)
    struct.pack_into("I", params, 16, 1000)
    ring = call(425, 4, ctypes.addressof(params))
    words = struct.unpack_from("30I", params)
    sq, cq = words[10:18], words[20:27]
    both = mmap.mmap(ring, 8192, mmap.MAP_SHARED, offset=0)
    entries = mmap.mmap(ring, 4096, mmap.MAP_SHARED, offset=0x10000000)
    packed = ctypes.create_string_buffer(address, len(address))
    entry = struct.pack("<BBHiQQIIQ", 16, 0, 0, fd, len(address), ctypes.addressof(packed), 0, 0, 7)
    entries[:len(entry)] = entry
    both[sq[6]:sq[6] + 4] = struct.pack("I", 0)
    both[sq[1]:sq[1] + 4] = struct.pack("I", 1)
    # IORING_ENTER_GETEVENTS, IORING_ENTER_SQ_WAKEUP.
    call(426, ring, 1, 1, 3 if polled else 1, 0, 0)
    at = cq[5]
    _, result = struct.unpack_from("<Qi", both, at)
    os.close(ring)
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def packed():
    if family == socket.AF_INET6:
        return struct.pack("<H", 10) + struct.pack("!HI", PORT, 0) + socket.inet_pton(family, HOST) + bytes(4)
    return struct.pack("<H", 2) + struct.pack("!H", PORT) + socket.inet_pton(family, HOST) + bytes(8)


def connect():
    """Returns whether the payload is sent already."""
    for part in parts:
        if part.startswith("device:"):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, part[7:].encode())
    if "sendto" in parts:
        assert end.sendto(PAYLOAD, MSG_FASTOPEN, (HOST, PORT)) == len(PAYLOAD)
        return True
    if "deferred" in parts:
        end.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    if "uring" in parts or "polled" in parts:
        uring(end.fileno(), packed(), "polled" in parts)
    else:
        end.connect((HOST, PORT))
    return False


seen = {"error": None}
try:
    sent = connect()
    if "urgent" in parts:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        end.sendall(PAYLOAD[:2])
        end.send(PAYLOAD[2:3], socket.MSG_OOB)
        end.sendall(PAYLOAD[3:])
    else:
        sent or end.sendall(PAYLOAD)
    stream = end.makefile("rb")
    seen["banner"] = json.loads(stream.readline())
    at = lambda pair: ("[%s]:%d" if ":" in pair[0] else "%s:%d") % tuple(pair[:2])
    seen["local"], seen["peer"] = at(end.getsockname()), at(end.getpeername())
    if "urgent" in parts:
        # What comes before a mark may wait for what comes after it.
        end.shutdown(socket.SHUT_WR)
    seen["echoed"] = stream.read(len(PAYLOAD)) == PAYLOAD
except OSError as error:
    seen["error"] = errno.errorcode.get(error.errno, str(error))
print(json.dumps(seen))
