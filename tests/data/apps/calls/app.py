"""A gRPC service whose messages are plain bytes: every kind of call, errors, metadata, and news of cancelled calls.

Methods of `/test.Calls/`: Echo (unary), Download (one request `<count> <size>`, that many messages), Upload (messages
in, `<count> <bytes>` out), Chat (each message back at once), Fail (request `<code> <text>`), Wait (request seconds;
answers how the call ended for the one before), Tell (metadata back, as initial and trailing metadata and as message).
"""

import os
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

CODES = {code.value[0]: code for code in grpc.StatusCode}
cancelled = 0


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request


def download(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    count, size = map(int, request.split())
    for number in range(count):
        yield b"%08d" % number + bytes(size)


def upload(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    count = size = 0
    for request in requests:
        count += 1
        size += len(request)
    return b"%d %d" % (count, size)


def chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from requests


def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
    code, _, text = request.partition(b" ")
    context.set_trailing_metadata((("x-trailing", "there"),))
    context.abort(CODES[int(code)], text.decode())
    raise AssertionError


def wait(request: bytes, context: grpc.ServicerContext) -> bytes:
    global cancelled
    before = cancelled
    over = threading.Event()
    context.add_callback(over.set)
    if over.wait(float(request)):
        cancelled += 1
    return b"%d cancelled before" % before


def tell(request: bytes, context: grpc.ServicerContext) -> bytes:
    sent = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
    context.send_initial_metadata(sent)
    context.set_trailing_metadata(sent)
    return repr(sorted(context.invocation_metadata())).encode()


def main() -> None:
    time.sleep(float(os.environ.get("START_SECONDS", "0")))
    kinds: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Download": grpc.unary_stream_rpc_method_handler(download),
        "Upload": grpc.stream_unary_rpc_method_handler(upload),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "Tell": grpc.unary_unary_rpc_method_handler(tell),
    }
    server = grpc.server(
        futures.ThreadPoolExecutor(128),
        options=(
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", int(os.environ.get("MAX_STREAMS", "1000"))),
            ("grpc.max_connection_age_ms", int(os.environ.get("MAX_AGE_MS", "0")) or 2**31 - 1),
            ("grpc.max_connection_age_grace_ms", 2000),
        ),
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Calls", kinds),))
    port = server.add_insecure_port(f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '0')}")
    server.start()
    os.write(1, b"%d\n" % port)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
