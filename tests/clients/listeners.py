"""Listens in ways that Rust's standard library lacks, says a line to each connection, and echoes.

KIND (parts with `+` between them), HOST, PORT and NAME are set before.
"""
import json, socket, sys, threading

TCP_FASTOPEN, IPPROTO_MPTCP, IPV6_V6ONLY = 23, 262, 26

parts = set(KIND.split("+"))
family = socket.AF_INET6 if ":" in HOST else socket.AF_INET
listener = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if "mptcp" in parts else 0)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if "shared" in parts:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
if "only6" in parts:
    listener.setsockopt(socket.IPPROTO_IPV6, IPV6_V6ONLY, 1)
if "device" in parts:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
listener.bind((HOST, PORT))
if "urgent" in parts:
    # Whom it accepts inherits it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
if "fast" in parts:
    listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 100)
listener.listen(1000)
print("listens", flush=True)


def at(pair):
    return ("[%s]:%d" if ":" in pair[0] else "%s:%d") % tuple(pair[:2])


def serve(end, peer):
    banner = {"version": NAME, "peer": at(peer), "peername": at(end.getpeername()), "local": at(end.getsockname())}
    end.sendall(json.dumps(banner).encode() + b"\n")
    while data := end.recv(65536):
        end.send(data, socket.MSG_OOB if "urgent" in parts else 0)
    end.close()


def accept():
    while True:
        threading.Thread(target=serve, args=listener.accept(), daemon=True).start()


threading.Thread(target=accept, daemon=True).start()
sys.stdin.read()
