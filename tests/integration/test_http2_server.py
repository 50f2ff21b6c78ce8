"""HTTP/2 over real sockets: clients that we did not write, large bodies, draining, and attacks with a bystander."""

import asyncio
import functools
import itertools
import os
import shutil
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from wsproto.frame_protocol import FrameProtocol

from kncore.net.exchange import Exchange
from kncore.net.http1 import Limits
from kncore.net.http2.frames import (
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    Code,
    header_frames,
    rst_stream,
    settings,
    window_update,
)
from kncore.net.http2.limits import Http2Limits
from kncore.net.pool import Pool
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from kncore.net.tls import ALPN, Settings, server_context
from kncore.testing.upstream import Connection, ScriptedUpstream, ok
from tests import certificates


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on the loop that production uses."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def echo(connection: Connection) -> None:
    """Answers with the request's body, or with its first line."""
    while True:
        request = await connection.request()
        await connection.send(ok(request.body or request.line.encode()))


class Listening:
    def __init__(self, server: Server, port: int, app: ScriptedUpstream, exchanges: list[Exchange]) -> None:
        self.server = server
        self.port = port
        self.app = app
        self.exchanges = exchanges


@asynccontextmanager
async def listening(
    *,
    script: Callable[[Connection], Coroutine[Any, Any, None]] = echo,
    limits: Limits | None = None,
    http2: Http2Limits | None = None,
    tls: bool = False,
) -> AsyncIterator[Listening]:
    """A proxy to an app."""
    ticker = Ticker()
    exchanges: list[Exchange] = []
    context = server_context(Settings(), pair=certificates.issue("localhost"), alpn=ALPN)
    async with ScriptedUpstream(script) as app, Pool(ticker=ticker) as pool:
        upstream = pool.upstream("127.0.0.1", app.port)

        def handler(exchange: Exchange) -> None:
            exchanges.append(exchange)
            ticker.wake()
            exchange.forward(upstream)

        server = Server(handler, ticker=ticker, limits=limits, http2=http2)
        port = await server.listen("127.0.0.1", 0, tls=(lambda: context) if tls else None)
        try:
            yield Listening(server, port, app, exchanges)
        finally:
            await server.drain(asyncio.get_running_loop().time() + 0.5)
        left = pool.statistics()
        assert (left.in_use, left.waiting) == (0, 0)
    ticker.close()
    assert server.statistics().connections == 0
    assert all(exchange.done for exchange in exchanges)


async def run(*command: str, stdin: bytes = b"") -> tuple[int | None, str]:
    """Exit code and output of a program."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate(stdin)
    return process.returncode, output.decode("latin-1")


async def settle(condition: Callable[[], bool]) -> None:
    """Wait until something becomes true, as other processes and the kernel have their say."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # the condition is about sockets, which set no events
            await asyncio.sleep(0.005)


CURL = ("curl", "-sS", "--noproxy", "*", "--max-time", "20")

# clients that we did not write ---------------------------------------------------------------------------------------


@needs("curl")
@on_uvloop
async def test_curl_with_prior_knowledge() -> None:
    async with listening() as proxy:
        url = f"http://127.0.0.1:{proxy.port}/x"
        code, output = await run(*CURL, "--http2-prior-knowledge", "-w", " %{http_version}", url, "-d", "hello")
        assert (code, output) == (0, "hello 2")
        code, output = await run(*CURL, "--http2-prior-knowledge", "-I", url)
        assert code == 0
        assert output.startswith("HTTP/2 200")
    assert [exchange.protocol for exchange in proxy.exchanges] == ["HTTP/2.0"] * 2


@needs("curl")
@on_uvloop
async def test_curl_by_upgrade() -> None:
    async with listening() as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        code, output = await run(*CURL, "--http2", "-w", " %{http_version}\n", f"{url}/a", f"{url}/b")
        assert code == 0
        assert output == "GET /a HTTP/1.1 2\nGET /b HTTP/1.1 2\n"
        # a body: answered in HTTP/1.1
        code, output = await run(*CURL, "--http2", "-w", " %{http_version}", "-d", "hello", url)
        assert (code, output) == (0, "hello 1.1")
        heads = [request.head.lower() for request in proxy.app.requests]
    assert not any(b"upgrade" in head or b"http2-settings" in head for head in heads)


@needs("curl")
@on_uvloop
async def test_curl_over_tls_has_the_choice() -> None:
    async with listening(tls=True) as proxy:
        url = f"https://127.0.0.1:{proxy.port}/x"
        for option, version in (("--http2", "2"), ("--http1.1", "1.1")):
            code, output = await run(*CURL, "-k", option, "-w", " %{http_version}", url)
            assert (code, output) == (0, f"GET /x HTTP/1.1 {version}")
    assert proxy.exchanges[0].scheme == b"https"


@needs("nghttp")
@on_uvloop
async def test_nghttp_with_padding_continuations_and_trailers(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(os.urandom(300_000))
    async with listening() as proxy:
        url = f"http://127.0.0.1:{proxy.port}/x"
        code, output = await run(
            "nghttp", "-nv", "--padding=200", "--continuation", "--trailer=x-t: 1", "-d", str(body), url
        )
        assert code == 0
        assert ":status: 200" in output
        request = proxy.app.requests[0]
        assert request.body == body.read_bytes()
        code, output = await run("nghttp", "-nv", "-u", *(f"{url}{number}" for number in range(20)))
        assert output.count(":status: 200") == 20
    assert proxy.server.statistics().ended == {}


@needs("h2load")
@on_uvloop
async def test_h2load() -> None:
    async with listening() as proxy:
        url = f"http://127.0.0.1:{proxy.port}/x"
        code, output = await run("h2load", "-c4", "-m20", "-n1000", url)
        assert code == 0
        assert "1000 succeeded, 0 failed" in output
        code, output = await run("h2load", "-c4", "-m20", "-n400", "-w10", "-W12", url)  # windows of 1 and 4 KiB
        assert "400 succeeded, 0 failed" in output
    assert proxy.server.statistics().ended == {}


# an asyncio client on the h2 library ---------------------------------------------------------------------------------


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.h2.initiate_connection()
        self.events: list[Any] = []

    @classmethod
    async def connect(cls, port: int) -> "Client":
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        await client.flush()
        return client

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def turn(self) -> list[Any]:
        data = await self.reader.read(1 << 20)
        if not data:
            raise ConnectionError("closed")
        events: list[Any] = self.h2.receive_data(data)
        await self.flush()
        return events

    def ask(self, method: str = "GET", path: str = "/", *, end: bool = True) -> int:
        number = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", "h"), (":path", path)]
        self.h2.send_headers(number, head, end_stream=end)
        return number

    async def get(self, path: str = "/") -> bytes:
        number = self.ask(path=path)
        await self.flush()
        body = b""
        while True:
            for event in await self.turn():
                if getattr(event, "stream_id", None) != number:
                    continue
                if isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    return body
                elif isinstance(event, h2.events.StreamReset):
                    raise ConnectionError("reset")

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


SIZE = 30_000_000


async def stream_out(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
    for _ in range(SIZE // 100_000):
        connection.writer.write(b"x" * 100_000)
        await connection.writer.drain()


@on_uvloop
async def test_a_large_download_is_held_back_by_its_client() -> None:
    async with listening(script=stream_out) as proxy:
        client = await Client.connect(proxy.port)
        number = client.ask()
        await client.flush()
        received = 0
        (connection,) = await connections(proxy, 1)
        ended = False
        while not ended:
            for event in await client.turn():
                if isinstance(event, h2.events.DataReceived):
                    received += len(event.data)
                    client.h2.acknowledge_received_data(event.flow_controlled_length, number)
                elif isinstance(event, h2.events.StreamEnded):
                    ended = True
            await client.flush()
            waiting = sum(exchange.pending_bytes for exchange in connection.streams.values())
            assert waiting + connection.transport.get_write_buffer_size() < 1_000_000
        assert received == SIZE
        await client.close()


async def read_slowly(connection: Connection) -> None:
    await connection.head()
    await asyncio.sleep(0.3)
    size = 0
    while not (await connection.reader.read(100_000)).endswith(b"0\r\n\r\n"):
        size += 1
    await connection.send(ok(b"done"))


@on_uvloop
async def test_a_large_upload_is_held_back_by_its_upstream() -> None:
    async with listening(script=read_slowly) as proxy:
        client = await Client.connect(proxy.port)
        number = client.ask("POST", end=False)
        await client.flush()
        (connection,) = await connections(proxy, 1)
        left = SIZE
        most = 0
        while left:
            room = min(client.h2.local_flow_control_window(number), 16_384, left)
            if room:
                client.h2.send_data(number, b"x" * room)
                left -= room
                await client.flush()
                if client.h2.local_flow_control_window(number):
                    continue
            await asyncio.sleep(0.002)
            most = max(most, *(exchange.kept for exchange in connection.streams.values()))
            await client.turn()
        client.h2.end_stream(number)
        await client.flush()
        await settle(lambda: proxy.exchanges[0].done)
        assert proxy.exchanges[0].bytes_in == SIZE
        assert 0 < most <= Http2Limits().stream_window
        await client.close()


async def connections(proxy: Listening, count: int) -> list[Any]:
    """The listener's connections, once so many speak HTTP/2."""

    def found() -> list[Any]:
        return [connection for connection in proxy.server._connections if hasattr(connection, "streams")]

    await settle(lambda: len(found()) == count)
    return found()


@on_uvloop
async def test_a_websocket_in_a_stream_beside_ordinary_requests() -> None:
    """RFC 8441 to a WebSocket server that we did not write."""

    async def repeat(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    ticker = Ticker()
    async with serve(repeat, "127.0.0.1", 0) as app, Pool(ticker=ticker) as pool:
        upstream = pool.upstream("127.0.0.1", next(iter(app.sockets)).getsockname()[1])
        exchanges: list[Exchange] = []

        def handler(exchange: Exchange) -> None:
            exchanges.append(exchange)
            if exchange.target == b"/chat":
                exchange.forward(upstream)
            else:
                exchange.respond(200, b"beside")

        server = Server(handler, ticker=ticker)
        client = await Client.connect(await server.listen("127.0.0.1", 0))
        while not client.h2.remote_settings.enable_connect_protocol:
            await client.turn()
        number = client.h2.get_next_available_stream_id()
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "h")]
        client.h2.send_headers(number, [*head, (":path", "/chat"), ("sec-websocket-version", "13")])
        await client.flush()
        talk = FrameProtocol(client=True, extensions=[])
        received: list[Any] = []
        said = [b"hello", os.urandom(300_000), b"bye"]
        for message in said:
            data = talk.send_data(message, fin=True)
            while data:
                room = min(client.h2.local_flow_control_window(number), 16_384)
                client.h2.send_data(number, data[:room])
                data = data[room:]
                await client.flush()
                if data and not client.h2.local_flow_control_window(number):
                    await client.turn()
            while len(b"".join(received)) < sum(map(len, said[: said.index(message) + 1])):
                for event in await client.turn():
                    if isinstance(event, h2.events.DataReceived):
                        talk.receive_bytes(event.data)
                        received += (bytes(found.payload) for found in talk.received_frames())
                        client.h2.acknowledge_received_data(event.flow_controlled_length, number)
                await client.flush()
        assert b"".join(received) == b"".join(said)
        assert await client.get("/other") == b"beside"
        client.h2.send_data(number, talk.close(1000), end_stream=True)
        await client.flush()
        await settle(lambda: exchanges[0].done)
        assert exchanges[0].error is None
        await client.close()
        await server.drain(asyncio.get_running_loop().time() + 1.0)
    ticker.close()


# attacks --------------------------------------------------------------------------------------------------------------

GREETING = PREFACE + settings(())
GET = b"\x82\x86\x84\x01\x01h"
POST = b"\x83\x86\x84\x01\x01h"


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def ask(stream: int, block: bytes = GET, *, end: bool = True) -> bytes:
    return header_frames(stream, block, end=end)


ATTACKS: dict[str, tuple[Callable[[int], bytes], str]] = {
    "rapid reset": (lambda s: ask(s) + rst_stream(s, Code.CANCEL), "rapid reset"),
    "made you reset": (
        lambda s: ask(s, POST + b"\x0f\x0d\x011", end=False) + frame(DATA, b"ab", 0, s),
        "streams reset for faults",
    ),
    "malformed requests": (lambda s: ask(s, b"\x82"), "streams reset for faults"),
    "SETTINGS": (lambda s: settings(()), "SETTINGS flood"),
    "PING": (lambda s: frame(PING, bytes(8)), "PING flood"),
    "PRIORITY": (lambda s: frame(PRIORITY, bytes(5), 0, s), "PRIORITY flood"),
    "WINDOW_UPDATE": (lambda s: window_update(0, 1), "WINDOW_UPDATE flood"),
    "unknown frames": (lambda s: frame(0xBE), "unknown frames"),
    "empty DATA": (lambda s: ask(1, POST, end=False) if s == 1 else frame(DATA, b"", 0, 1), "empty frames"),
    "CONTINUATION": (
        lambda s: frame(HEADERS, GET, 1, 1) if s == 1 else frame(9, b"", 0, 1),
        "too many CONTINUATION frames",
    ),
    "large header block": (
        lambda s: frame(HEADERS, GET, 1, 1) if s == 1 else frame(9, bytes(16_000), 0, 1),
        "header block too large",
    ),
    "compression bomb": (
        lambda s: ask(s, GET + (b"\x40\x01x\x7f\x81\x1d" + b"y" * 3840 if s == 1 else b"\xbe" * 200)),
        "header list far too large",
    ),
    "more streams than allowed": (lambda s: ask(s, POST, end=False), "too many streams"),
}


@on_uvloop
async def test_draining_under_load_loses_no_request() -> None:
    """Clients ask without a pause until told to go. (The h2 library cannot be one: after a GOAWAY it is deaf.)"""
    async with listening() as proxy:
        answered = 0

        async def keep_asking() -> None:
            nonlocal answered
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(GREETING)
            streams = itertools.count(1, 2)
            waiting: set[int] = set()
            going = False
            while not going or waiting:
                while not going and len(waiting) < 4:
                    waiting.add(stream := next(streams))
                    writer.write(ask(stream))
                high, low, kind, flags, stream = struct.unpack(">HBBBL", await reader.readexactly(9))
                payload = await reader.readexactly(high << 8 | low)
                assert kind != RST_STREAM
                if kind == PING and not flags:
                    writer.write(frame(PING, payload, 1))
                elif kind == GOAWAY:
                    last, code = struct.unpack_from(">LL", payload)
                    assert code == 0
                    assert last >= max(waiting, default=0)
                    going = True
                elif kind == DATA and flags & 1:
                    waiting.remove(stream)
                    answered += 1
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(keep_asking())
            await settle(lambda: answered > 200)
            assert await proxy.server.drain(asyncio.get_running_loop().time() + 5.0)
        assert answered == len(proxy.exchanges)


@pytest.mark.parametrize("case", ATTACKS)
@on_uvloop
async def test_attack(case: str) -> None:
    """The attacker's connection is ended with its reason; somebody else's is served all the time."""
    make, reason = ATTACKS[case]
    async with listening(http2=Http2Limits(streams=100)) as proxy:
        bystander = await Client.connect(proxy.port)
        assert await bystander.get("/before") == b"GET /before HTTP/1.1"
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(GREETING)
        streams = itertools.count(1, 2)
        for round_ in range(200):
            writer.write(b"".join(make(next(streams)) for _ in range(20)))
            with suppress(ConnectionError):
                await writer.drain()
            assert await bystander.get(f"/{round_}") == b"GET /%d HTTP/1.1" % round_
            if proxy.server.statistics().ended:
                break
        with suppress(ConnectionError):
            said = await reader.read()
            assert reason.encode() in said
        assert proxy.server.statistics().ended == {reason: 1}
        assert await bystander.get("/after") == b"GET /after HTTP/1.1"
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        await bystander.close()


@on_uvloop
async def test_slow_readers_and_slow_senders_are_given_up() -> None:
    async def large(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(ok(b"x" * 200_000))

    async with listening(
        script=large, limits=Limits(head_time=0.3, body_time=0.3), http2=Http2Limits(stall_time=0.3)
    ) as proxy:
        shut = PREFACE + frame(4, b"\0\4\0\0\0\0")  # no window at all
        wide = GREETING + window_update(0, 2**30)
        said = {
            "zero window": shut + ask(1),
            "half a frame": GREETING + ask(1)[:5],
            "half a block": GREETING + frame(HEADERS, GET, 1, 1),
            "no preface": PREFACE[:10],
            "no body": GREETING + ask(1, POST, end=False),
            "reads nothing": wide + b"".join(ask(s) + window_update(s, 2**30) for s in range(1, 200, 2)),
        }
        writers = []
        for data in said.values():
            _reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1024)
            writer.write(data)
            writers.append(writer)
        # "no preface" is refused in HTTP/1.1; the stream of "zero window" is reset and that of "no body" answered 408
        await settle(
            lambda: (
                proxy.server.statistics().ended
                == {"stalled stream": 1, "frame not complete in time": 2, "client does not read": 1}
                and 408 in proxy.server.statistics().refused
                and any(exchange.status == 408 for exchange in proxy.exchanges)
            )
        )
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
