"""Health probes against real servers, among them gRPC's own."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
import trustme

from kncore.net import probe
from kncore.testing.upstream import Connection, ScriptedUpstream, ok


def soon(seconds: float = 2.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def answering(answer: bytes) -> ScriptedUpstream:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer)

    return ScriptedUpstream(script)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ok(), None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil close", None),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "status 400"),
        (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"nonsense\r\n\r\n", "malformed HTTP response"),
        (b"", "EOF"),
    ],
)
async def test_http(answer: bytes, expected: str | None) -> None:
    async with answering(answer) as app:
        assert await probe.http("127.0.0.1", app.port, "ready?a=b", soon(), headers=(("X-A", "b"),)) == expected
    assert app.requests[0].line == "GET /ready?a=b HTTP/1.1"
    assert app.requests[0].headers["x-a"] == "b"


async def test_http_follows_redirects_on_the_same_host_but_not_forever() -> None:
    async def ends(connection: Connection) -> None:
        request = await connection.request()
        if "/start " in request.line:
            await connection.send(b"HTTP/1.1 301 Moved\r\nLocation: end\r\nContent-Length: 0\r\n\r\n")
        else:
            await connection.send(b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n")

    async with ScriptedUpstream(ends) as app:
        assert await probe.http("127.0.0.1", app.port, "/start", soon()) == "status 500"
    async with answering(b"HTTP/1.1 301 Moved\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n") as app:
        assert await probe.http("127.0.0.1", app.port, "/loop", soon()) is None
        assert app.accepted == probe.REDIRECTS


async def test_endless_answer_is_not_read() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await connection.send(b"x" * 65536)

    async with ScriptedUpstream(script) as app:
        assert await probe.http("127.0.0.1", app.port, "/", soon()) is None


async def silent(connection: Connection) -> None:
    await connection.reader.read()


async def test_every_kind_keeps_its_deadline() -> None:
    async with ScriptedUpstream(silent) as app:
        for attempt in (
            probe.http("127.0.0.1", app.port, "/", soon(0.1)),
            probe.grpc("127.0.0.1", app.port, "", soon(0.1)),
        ):
            assert await attempt == "timed out"
        assert await probe.tcp("127.0.0.1", app.port, soon(0.1)) is None


async def test_nobody_listens() -> None:
    async with ScriptedUpstream() as app:
        port = app.port
    for attempt in (
        probe.tcp("127.0.0.1", port, soon()),
        probe.http("127.0.0.1", port, "/", soon()),
        probe.grpc("127.0.0.1", port, "", soon()),
    ):
        assert await attempt == "connection refused"


async def test_https_does_not_check_the_certificate() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ok())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await probe.http("127.0.0.1", port, "/", soon(), tls=True) is None


class Health(grpc.GenericRpcHandler):
    """`grpc.health.v1.Health` without generated code."""

    def __init__(self, known: dict[bytes, bytes]) -> None:
        self.known = known

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != "/grpc.health.v1.Health/Check":
            return None

        async def check(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
            answer = self.known.get(message[2:])
            if answer is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
            return answer

        return grpc.unary_unary_rpc_method_handler(check)


@asynccontextmanager
async def grpc_server(known: dict[bytes, bytes]) -> AsyncIterator[int]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Health(known),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


@pytest.mark.parametrize(
    ("service", "passes"), [("", True), ("serving", True), ("down", False), ("unknown", False), ("odd", False)]
)
async def test_grpc(service: str, passes: bool) -> None:
    known = {b"": b"\x08\x01", b"serving": b"\x08\x01", b"down": b"\x08\x02", b"odd": b""}
    async with grpc_server(known) as port:
        assert (await probe.grpc("127.0.0.1", port, service, soon(5)) is None) == passes


async def test_grpc_server_without_health_service() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await probe.grpc("127.0.0.1", port, "", soon(5)) is not None
    await server.stop(None)


async def test_grpc_probe_of_an_http1_server() -> None:
    async with answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as app:
        assert await probe.grpc("127.0.0.1", app.port, "", soon()) is not None
