"""A client of gRPC: says what it gets."""

import hashlib
import sys

import grpc

HOST, CASE = sys.argv[1:]
CHANNEL = grpc.insecure_channel(f"{HOST}:50051")


def method(kind, name):
    return getattr(CHANNEL, kind)(f"/lab.Talk/{name}")


def error_of(action):
    try:
        print("no error", action())
    except grpc.RpcError as error:
        print(error.code().name, error.details(), flush=True)


def calls():
    unary = method("unary_unary", "Unary")
    for size in [0, 10, 3_000_000]:
        answer, call = unary.with_call(b"x" * size, metadata=(("x-asked", "of me"),))
        print(answer, [tuple(it) for it in call.initial_metadata()], sorted(tuple(it) for it in call.trailing_metadata()))
    print(method("unary_unary", "Peer")(b""))
    digest = hashlib.sha256()
    for message in method("unary_stream", "ServerStream")(b"5000"):
        digest.update(message)
    print(digest.hexdigest())
    print(method("stream_unary", "ClientStream")(b"y" * 10_000 for _ in range(500)))
    print(list(method("stream_stream", "Bidi")(word for word in [b"one", b"two", b"three"])))
    # In step: each request is sent when the answer to the last one is here.
    said = []

    def in_step():
        for number in range(20):
            while len(said) < number:
                yield_once.acquire()
            yield b"%d" % number

    import threading

    yield_once = threading.Semaphore(0)
    for answer in method("stream_stream", "Bidi")(in_step()):
        said.append(answer)
        yield_once.release()
    print(len(said))
    futures = [unary.future(b"z" * 1000) for _ in range(200)]
    print({future.result() for future in futures})


def statuses():
    fails = method("unary_unary", "Fails")
    for code in ["NOT_FOUND", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL", "ABORTED"]:
        error_of(lambda code=code: fails(code.encode()))
    error_of(lambda: method("unary_unary", "Missing")(b""))


def ends():
    call = method("unary_stream", "Waits")(b"cancelled")
    print(next(call))
    call.cancel()
    error_of(lambda: next(call))
    error_of(lambda: list(method("unary_stream", "Waits")(b"deadline", timeout=0.5)))


def wrong_password():
    error_of(lambda: method("unary_unary", "Private")(b"", metadata=(("authorization", "wrong"),)))


def refused():
    error_of(lambda: method("unary_unary", "Unary")(b""))


def waits():
    call = method("unary_stream", "Waits")(b"waits")
    print(next(call), flush=True)
    error_of(lambda: next(call))


globals()[CASE]()
