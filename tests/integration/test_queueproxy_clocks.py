"""The three clocks of a request on everything but plain HTTP/1: HTTP/2 streams and upgraded connections.

After `101` nobody waits for a response to start any more, bytes in either direction keep a tunnel from being idle, and
the total bounds it as it bounds every request (knative/serving#16169).
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from kncore.testing.upstream import Connection, ScriptedUpstream
from tests.integration.test_queueproxy import sidecar

TOTAL, FIRST, IDLE = (
    "REVISION_TIMEOUT_SECONDS",
    "REVISION_RESPONSE_START_TIMEOUT_SECONDS",
    "REVISION_IDLE_TIMEOUT_SECONDS",
)


async def http2(port: int) -> tuple[int, str, str]:
    """(exit status, version and status, body) of curl speaking HTTP/2."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--http2-prior-knowledge", "-m", "10", "-w", "\n%{http_version} %{http_code}"),
        f"http://127.0.0.1:{port}/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    body, _, told = out.decode().rpartition("\n")
    return process.returncode or 0, told, body


@pytest.mark.parametrize("clock", [TOTAL, FIRST, IDLE])
async def test_http2_before_the_answer(clock: str) -> None:
    async def silent(connection: Connection) -> None:
        await connection.request()
        assert await connection.reader.read() == b""  # the request is cancelled

    async with ScriptedUpstream(silent) as app, sidecar(app.port, **{clock: "1"}) as proxy:
        assert await http2(proxy.port) == (0, "2 504", "request timeout")


@pytest.mark.parametrize("clock", [TOTAL, IDLE])
async def test_http2_within_the_answer(clock: str) -> None:
    async def stalls(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        assert await connection.reader.read() == b""

    async with ScriptedUpstream(stalls) as app, sidecar(app.port, **{clock: "1"}) as proxy:
        status, told, body = await http2(proxy.port)
        assert told == "2 200"
        assert body.startswith("hi")
        assert body == "hirequest timeout" or status != 0, "the client can tell that it is not whole"


async def test_http2_answer_that_began_is_not_late_to_begin() -> None:
    async def slow(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(1.5)
        await connection.send(b"2\r\nhi\r\n0\r\n\r\n")

    async with ScriptedUpstream(slow) as app, sidecar(app.port, **{FIRST: "1"}) as proxy:
        assert await http2(proxy.port) == (0, "2 200", "hi")


@asynccontextmanager
async def tunnel(**clocks: str) -> AsyncIterator[ClientConnection]:
    """A WebSocket through a queue-proxy to an app that sends what it is told to, every so often."""

    async def app(connection: ServerConnection) -> None:
        async for message in connection:
            if message == "tick":  # 0.4 s apart, unasked
                for number in range(4):
                    await asyncio.sleep(0.4)
                    await connection.send(str(number))

    async with serve(app, "127.0.0.1", 0, ping_interval=None) as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            sidecar(port, **clocks) as proxy,
            connect(f"ws://127.0.0.1:{proxy.port}/", ping_interval=None, proxy=None) as client,
        ):
            yield client


async def drained(client: ClientConnection) -> None:
    """Receive until the connection ends."""
    while True:
        await client.recv()


async def test_a_tunnel_is_not_late_to_begin() -> None:
    async with tunnel(**{FIRST: "1"}) as client:
        await client.send("tick")
        assert [await client.recv() for _ in range(4)] == ["0", "1", "2", "3"]


async def test_a_tunnel_is_busy_by_what_the_client_sends() -> None:
    async with tunnel(**{IDLE: "1"}) as client:
        for _ in range(4):
            await client.send("silence, please")
            await asyncio.sleep(0.4)
        await client.send("tick")
        assert await client.recv() == "0"


async def test_a_tunnel_is_busy_by_what_the_app_sends() -> None:
    async with tunnel(**{IDLE: "1"}) as client:
        await client.send("tick")
        assert [await client.recv() for _ in range(4)] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("clock", [IDLE, TOTAL])
async def test_a_tunnel_ends(clock: str) -> None:
    async with tunnel(**{clock: "1"}) as client:
        loop = asyncio.get_running_loop()
        started = loop.time()
        if clock == TOTAL:
            await client.send("tick")
        with pytest.raises(ConnectionClosed):
            await drained(client)
        assert loop.time() - started >= 0.8


async def test_an_upgrade_that_does_not_come() -> None:
    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.reader.read()

    async with ScriptedUpstream(silent) as app, sidecar(app.port, **{FIRST: "1"}) as proxy:
        with pytest.raises(Exception, match="504"):
            await connect(f"ws://127.0.0.1:{proxy.port}/", proxy=None)
