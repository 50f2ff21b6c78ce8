"""The stat stream against aiohttp's websocket server, and against servers that misbehave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import WSMsgType, web

from kncore.net import statstream
from kncore.net.statstream import StatStream
from kncore.testing.upstream import Connection, ScriptedUpstream

Serve = Callable[[web.WebSocketResponse], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve, port: int = 0) -> AsyncIterator[int]:
    async def handle(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(autoping=False)
        await ws.prepare(request)
        await serve(ws)
        return ws

    app = web.Application()
    app.router.add_get("/stats", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@asynccontextmanager
async def running(port: int) -> AsyncIterator[tuple[StatStream, list[bool]]]:
    states: list[bool] = []
    stream = StatStream(f"ws://127.0.0.1:{port}/stats", states.append)
    task = asyncio.ensure_future(stream.run())
    yield stream, states
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not stream.connected
    assert states[-1:] in ([False], [])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # sockets set no events
            await asyncio.sleep(0.005)


async def test_frames_arrive_whole_and_in_order() -> None:
    got: list[bytes] = []

    async def serve(ws: web.WebSocketResponse) -> None:
        async for message in ws:
            assert message.type is WSMsgType.BINARY
            got.append(message.data)

    sent = [bytes([number]) * (number * 37) for number in range(1, 200)]
    async with server(serve) as port, running(port) as (stream, states):
        await until(lambda: stream.connected)
        assert all(stream.send_nowait(message) for message in sent)
        await until(lambda: len(got) == len(sent))
        assert got == sent
        assert states == [True]
        assert stream.statistics().sent == len(sent)


async def test_nothing_is_kept_while_disconnected() -> None:
    stream = StatStream("ws://127.0.0.1:1")
    assert not stream.send_nowait(b"x")
    assert (stream.statistics().dropped, stream.connected) == (1, False)


async def test_reconnects_when_the_server_comes_back() -> None:
    async def serve(ws: web.WebSocketResponse) -> None:
        await ws.receive()

    async with server(serve) as port, running(port) as (stream, states):
        await until(lambda: stream.connected)
        stream.send_nowait(b"close, please")  # the server's handler ends with this message
        await until(lambda: states[:3] == [True, False, True])
        assert stream.statistics().connects == 2


async def test_server_that_is_not_there_yet() -> None:
    async def serve(ws: web.WebSocketResponse) -> None:
        await ws.receive()

    async with server(serve) as port:
        pass
    async with running(port) as (stream, states):
        await until(lambda: stream.statistics().failures >= 2)
        assert states == []
        async with server(serve, port):
            await until(lambda: stream.connected)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 101 X\r\n\r\n", b""],
)
async def test_server_that_speaks_something_else_is_a_failure_to_retry(answer: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer)

    async with ScriptedUpstream(script) as app, running(app.port) as (stream, states):
        await until(lambda: stream.statistics().failures >= 2)
        assert states == []
        assert stream.statistics().last_error


async def test_pings_are_answered() -> None:
    pongs: list[bytes] = []

    async def serve(ws: web.WebSocketResponse) -> None:
        await ws.ping(b"there?")
        message = await ws.receive()
        assert message.type is WSMsgType.PONG
        pongs.append(message.data)
        await ws.receive()

    async with server(serve) as port, running(port):
        await until(lambda: pongs == [b"there?"])


async def test_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statstream, "PING", 0.05)
    monkeypatch.setattr(statstream, "DEAD_AFTER", 0.2)
    pings: list[bytes] = []

    async def serve(ws: web.WebSocketResponse) -> None:
        async for message in ws:
            assert message.type is WSMsgType.PING
            pings.append(message.data)

    async with server(serve) as port, running(port) as (stream, states):
        await until(lambda: states[:2] == [True, False])
        assert len(pings) >= 3
        assert "nothing heard" in stream.statistics().last_error


async def test_server_that_does_not_read_costs_bounded_memory() -> None:
    async def serve(ws: web.WebSocketResponse) -> None:
        await asyncio.sleep(60)

    async with server(serve) as port, running(port) as (stream, _):
        await until(lambda: stream.connected)
        sent = 0
        while stream.send_nowait(b"x" * 65536):
            sent += 65536
            await asyncio.sleep(0)
        assert sent < 32 << 20
        assert stream.statistics().dropped == 1


@pytest.mark.parametrize("url", ["http://host", "ws://", "wss://host", "host:80"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not a ws:// URL"):
        StatStream(url)
