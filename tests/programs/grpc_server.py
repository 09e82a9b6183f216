"""A server of gRPC at port 50051. Messages are bytes, so that there is nothing to compile."""

from concurrent import futures
import threading

import grpc


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-first", "1"),))
    context.set_trailing_metadata((("x-last", "2"), ("x-blob-bin", bytes(range(256)))))
    return b"%d %s" % (len(request), metadata.get("x-asked", "").encode())


def peer(request, context):
    return context.peer().rsplit(":", 1)[0].encode()


def fails(request, context):
    code = grpc.StatusCode[request.decode()]
    context.abort(code, f"as asked: {code.name}, with ünïcödé")


def private(request, context):
    if dict(context.invocation_metadata()).get("authorization") != "secret":
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong password")
    return b"let in"


def server_stream(request, context):
    for number in range(int(request)):
        yield b"%d" % number * 100


def client_stream(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def bidi(requests, context):
    for request in requests:
        yield request[::-1]


def waits(request, context):
    ended = threading.Event()

    def told():
        print(f"{request.decode()}: told", flush=True)
        ended.set()

    context.add_callback(told)
    yield b"waits"
    ended.wait()


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Peer": grpc.unary_unary_rpc_method_handler(peer),
    "Fails": grpc.unary_unary_rpc_method_handler(fails),
    "Private": grpc.unary_unary_rpc_method_handler(private),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Waits": grpc.unary_stream_rpc_method_handler(waits),
}

server = grpc.server(futures.ThreadPoolExecutor(16))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lab.Talk", HANDLERS),))
server.add_insecure_port("0.0.0.0:50051")
server.start()
server.wait_for_termination()
