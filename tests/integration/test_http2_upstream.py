"""HTTP/1 clients of an upstream that speaks HTTP/2, through server, exchange and pool on real sockets."""

import asyncio
import collections
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from kncore.net.dial import Tls
from kncore.net.exchange import Clocks, Exchange
from kncore.net.http2.address import Http2Address
from kncore.net.http2.frames import Code
from kncore.net.http2.upstream import STREAM_WINDOW
from kncore.net.pool import Pool, PoolLimits
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from kncore.testing.rawclient import RawClient
from kncore.testing.upstream import Connection, ScriptedUpstream
from tests.certificates import authority
from tests.h2upstream import Call, H2Upstream, SettingCodes

from .test_http1_proxy import on_uvloop, settle

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
GRPC = b"POST /s/M HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 1\r\n\r\nx"


class Proxy:
    """A running proxy to one address."""

    def __init__(self, port: int, server: Server, pool: Pool, app: Http2Address, exchanges: list[Exchange]) -> None:
        self.port = port
        self.server = server
        self.pool = pool
        self.app = app
        self.exchanges = exchanges

    async def ask(self, data: bytes = GET) -> tuple[int, bytes]:
        async with await RawClient.connect(self.port) as client:
            response = await client.ask(data)
            return response.status, response.body


@asynccontextmanager
async def proxying(
    app_port: int,
    *,
    limits: PoolLimits | None = None,
    tls: Tls | None = None,
    forward: Callable[[Exchange, Http2Address], None] = lambda exchange, app: exchange.forward(app),
) -> AsyncIterator[Proxy]:
    ticker = Ticker()
    exchanges: list[Exchange] = []
    async with Pool(limits, ticker=ticker) as pool:
        app = pool.upstream("127.0.0.1", app_port, http2=True, tls=tls)
        assert isinstance(app, Http2Address)

        def handler(exchange: Exchange) -> None:
            exchanges.append(exchange)
            ticker.wake()
            forward(exchange, app)

        server = Server(handler, ticker=ticker)
        port = await server.listen("127.0.0.1", 0)
        try:
            yield Proxy(port, server, pool, app, exchanges)
        finally:
            await server.drain(asyncio.get_running_loop().time() + 0.2)
            ticker.close()
        left = pool.statistics()
        assert (left.in_use, left.waiting) == (0, 0)
    assert all(exchange.done for exchange in exchanges)


@on_uvloop
async def test_many_clients_share_one_connection() -> None:
    async with H2Upstream() as app, proxying(app.port) as proxy:
        answers = await asyncio.gather(*(proxy.ask() for _ in range(50)))
        assert set(answers) == {(200, b"ok")}
        assert len(app.links) == 1
        statistics = proxy.pool.statistics()
        assert (statistics.dialled, statistics.idle) == (1, 1)


@on_uvloop
async def test_bodies_and_trailers_pass_both_ways() -> None:
    def behave(call: Call) -> None:
        call.answer(bytes(call.body), trailers=[("x-sum", dict(call.trailers).get("x-sum", "none"))])

    async with H2Upstream(behave) as app, proxying(app.port) as proxy, await RawClient.connect(proxy.port) as client:
        head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        response = await client.ask(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n")
        assert (response.body, response.trailers) == (b"abcde", {"x-sum": "5"})
        assert "transfer-encoding" not in app.calls[0].headers
        assert app.calls[0].headers[":authority"] == "h"


@on_uvloop
async def test_answers_that_have_no_body() -> None:
    def behave(call: Call) -> None:
        if call.path == "/head":
            call.answer(headers=[("content-length", "77")])
        else:
            call.answer(status=int(call.path[1:]))

    async with H2Upstream(behave) as app, proxying(app.port) as proxy, await RawClient.connect(proxy.port) as client:
        response = await client.ask(b"HEAD /head HTTP/1.1\r\nHost: h\r\n\r\n", head=True)
        assert response.headers["content-length"] == "77"
        for status in (204, 304, 200):
            response = await client.ask(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % status)
            assert (response.status, response.body) == (status, b"")


@on_uvloop
async def test_expectations_are_met_end_to_end() -> None:
    def on_head(call: Call) -> None:
        assert call.headers["expect"] == "100-continue"
        call.head(100)

    async with (
        H2Upstream(on_head=on_head) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.reader.readline()).startswith(b"HTTP/1.1 100")
        assert await client.reader.readline() == b"\r\n"
        assert (await client.ask(b"abc")).body == b"ok"
        assert app.calls[0].body == b"abc"


@on_uvloop
async def test_large_bodies_pass_both_ways_with_the_windows_that_there_are() -> None:
    size = 3_000_000

    async with H2Upstream(lambda call: call.answer(bytes(call.body))) as app, proxying(app.port) as proxy:
        status, body = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        assert (status, len(body)) == (200, size)


@pytest.mark.parametrize("window", [1, 100, 16_384, 65_535, 70_000, 1_000_000])
def test_bodies_of_any_size_arrive_through_windows_of_any_size(window: int) -> None:
    chance = random.Random(window)
    most = 2_000 if window < 100 else 300_000
    sizes = [chance.choice((0, 1, window - 1, window, window + 1, chance.randrange(most))) % most for _ in range(12)]
    settings: dict[SettingCodes | int, int] = {SettingCodes.INITIAL_WINDOW_SIZE: window}

    @on_uvloop
    async def check() -> None:
        async with (
            H2Upstream(lambda call: call.answer(bytes(call.body)), settings=settings) as app,
            proxying(app.port) as proxy,
            aiohttp.ClientSession() as session,
        ):

            async def pieces(data: bytes) -> AsyncIterator[bytes]:
                for at in range(0, len(data), 40_000):
                    yield data[at : at + 40_000]

            async def ask(size: int) -> None:
                data = random.Random(size).randbytes(size)
                for body in (data, pieces(data)):  # with a length, and in chunks
                    async with session.post(f"http://127.0.0.1:{proxy.port}/", data=body) as response:
                        assert await response.read() == data

            await asyncio.gather(*(ask(size) for size in sizes))

    check()


@on_uvloop
async def test_streams_beyond_the_upstreams_limit_wait_or_go_elsewhere() -> None:
    now = peak = 0

    def behave(call: Call) -> None:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)

        def later() -> None:
            nonlocal now
            now -= 1
            call.answer(b"ok")

        asyncio.get_running_loop().call_later(0.01, later)

    async with (
        H2Upstream(behave, settings={SettingCodes.MAX_CONCURRENT_STREAMS: 2}) as app,
        proxying(app.port, limits=PoolLimits(connections=3)) as proxy,
    ):
        assert (await proxy.ask())[0] == 200
        answers = await asyncio.gather(*(proxy.ask() for _ in range(40)))
        assert set(answers) == {(200, b"ok")}
        assert len(app.links) == 3
        assert 2 <= peak <= 6


@on_uvloop
async def test_a_client_that_leaves_while_waiting_is_forgotten() -> None:
    async with (
        H2Upstream(lambda call: None, settings={SettingCodes.MAX_CONCURRENT_STREAMS: 1}) as app,
        proxying(app.port, limits=PoolLimits(connections=1)) as proxy,
    ):
        async with await RawClient.connect(proxy.port) as first, await RawClient.connect(proxy.port) as second:
            await first.send(GET)
            await settle(lambda: len(app.calls) == 1)
            await second.send(GET)
            await settle(lambda: proxy.app.waiting == 1)
            second.reset()
            await settle(lambda: proxy.app.waiting == 0)
            first.reset()
        await settle(lambda: proxy.app.waiting == 0 and proxy.app.in_use == 0)
        await settle(lambda: app.links[0].resets == [1])
        assert len(app.calls) == 1


# -- ends and faults ---------------------------------------------------------------------------------------------------


@on_uvloop
async def test_an_upstream_that_goes_away_again_and_again_costs_no_request() -> None:
    """GOAWAY after every 20 requests, in the middle of what is under way, naming a stream that is not the last."""

    def behave(call: Call) -> None:
        call.answer(bytes(call.body))
        link = call.link
        if link.served == 20:
            link.goaway(call.stream)
            asyncio.get_running_loop().call_later(0.02, link.transport.close)

    async with H2Upstream(behave) as app, proxying(app.port) as proxy, aiohttp.ClientSession() as session:
        seen: collections.Counter[int] = collections.Counter()

        async def client(name: int) -> None:
            for number in range(20):
                async with session.post(f"http://127.0.0.1:{proxy.port}/", data=f"{name} {number}") as response:
                    seen[response.status] += 1
                    assert await response.text() == f"{name} {number}"

        async with asyncio.timeout(30):
            await asyncio.gather(*(client(name) for name in range(30)))
        assert seen == {200: 600}
        assert len(app.links) >= 600 // 40


@on_uvloop
async def test_refused_streams_are_repeated_and_reset_ones_are_not() -> None:
    resets = {"/refused": Code.REFUSED_STREAM, "/reset": Code.INTERNAL_ERROR}
    times: collections.Counter[str] = collections.Counter()

    def behave(call: Call) -> None:
        times[call.path] += 1
        if call.path in resets and times[call.path] % 2:
            call.reset(resets[call.path])
        else:
            call.answer(bytes(call.body))

    post = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    async with H2Upstream(behave) as app, proxying(app.port) as proxy:
        for _ in range(20):
            assert await proxy.ask(post % b"/refused") == (200, b"abc")
        status, body = await proxy.ask(post % b"/reset")
        assert (status, body) == (502, b"upstream reset the stream: INTERNAL_ERROR\n")
        assert times["/refused"] == 40
        assert len(app.links) == 1


@on_uvloop
async def test_an_upstream_that_gives_no_windows_holds_nobody_else_up() -> None:
    clocks = Clocks(text=b"too late", total=0.5)

    def forward(exchange: Exchange, app: Http2Address) -> None:
        if exchange.target == b"/stuck":
            exchange.clocks = clocks
        exchange.forward(app)

    async with H2Upstream(windows=False) as app, proxying(app.port, forward=forward) as proxy:
        async with await RawClient.connect(proxy.port) as stuck:
            await stuck.send(b"POST /stuck HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n" + bytes(60_000))
            await settle(lambda: len(app.calls) == 1)
            for _ in range(20):
                assert await proxy.ask() == (200, b"ok")
            stuck.writer.write(bytes(8_000_000))
            assert (await stuck.response()).body == b"too late"
        assert proxy.exchanges[0].bytes_in < 1_000_000


@on_uvloop
async def test_a_slow_reader_stops_its_stream_only() -> None:
    size = 30_000_000

    def behave(call: Call) -> None:
        body = bytes(size) if call.path == "/large" else b"ok"
        call.answer(body, headers=[("content-length", str(len(body)))])

    async with H2Upstream(behave) as app, proxying(app.port) as proxy:
        async with await RawClient.connect(proxy.port) as slow:
            await slow.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
            await settle(lambda: bool(app.links) and bool(app.links[0].waiting))
            for _ in range(20):
                assert await proxy.ask() == (200, b"ok")
            left = sum(len(data) for data, _ in app.links[0].waiting[1])
            assert left > size - 10 * STREAM_WINDOW - 8_000_000  # the rest is in two sockets
            assert len((await slow.response()).body) == size
        assert len(app.links) == 1


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0-OpenSSH_9.9\r\n", bytes(100), b"\xff" * 100],
)
def test_upstreams_that_speak_something_else(garbage: bytes) -> None:
    @on_uvloop
    async def check() -> None:
        async with H2Upstream(garbage=garbage) as app, proxying(app.port) as proxy:
            status, body = await proxy.ask()
            assert status == 502
            assert (b"speaks HTTP/1" in body) is garbage.startswith(b"HTTP")
            async with await RawClient.connect(proxy.port) as client:
                call = await client.ask(GRPC)
                assert (call.status, call.headers["grpc-status"]) == (200, "14")

    check()


@on_uvloop
async def test_a_connection_reset_in_the_middle_is_visible() -> None:
    def behave(call: Call) -> None:
        call.head(headers=[("content-type", call.headers.get("content-type", "x"))])
        call.data(b"part")
        asyncio.get_running_loop().call_later(0.05, call.link.transport.abort)

    async with H2Upstream(behave) as app, proxying(app.port) as proxy:
        async with await RawClient.connect(proxy.port) as plain, await RawClient.connect(proxy.port) as call:
            await asyncio.gather(plain.send(GET), call.send(GRPC))
            assert not (await plain.response()).complete
            broken = await call.response()
            assert (broken.body, broken.trailers["grpc-status"]) == (b"part", "14")
        assert len(app.links) == 1


@on_uvloop
async def test_nobody_listens() -> None:
    async with H2Upstream() as app:
        port = app.port
    async with proxying(port) as proxy:
        status, body = await proxy.ask()
        assert (status, body) == (502, f"connect to 127.0.0.1:{port}: connection refused\n".encode())


@on_uvloop
async def test_an_upstream_that_closes_at_once_is_given_up() -> None:
    attempts = 0

    class Closing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal attempts
            attempts += 1
            transport.close()

    server = await asyncio.get_running_loop().create_server(Closing, "127.0.0.1", 0)
    async with proxying(server.sockets[0].getsockname()[1]) as proxy:
        assert (await proxy.ask())[0] == 502
        assert attempts <= 4
    server.close()


@on_uvloop
async def test_idle_connections_are_closed_in_order() -> None:
    async with H2Upstream() as app, proxying(app.port, limits=PoolLimits(idle_time=0.1)) as proxy:
        assert (await proxy.ask())[0] == 200
        await settle(lambda: not app.open)
        assert proxy.pool.statistics().idle == 0
        assert (await proxy.ask())[0] == 200


@on_uvloop
async def test_a_forgotten_address_ends_what_it_has() -> None:
    async with H2Upstream(lambda call: None) as app, proxying(app.port) as proxy:
        asking = asyncio.ensure_future(proxy.ask())
        await settle(lambda: len(app.calls) == 1)
        proxy.pool.forget(proxy.app)
        app.calls[0].answer(b"still")
        assert await asking == (200, b"still")
        await settle(lambda: not app.open)


@pytest.mark.parametrize("stage", ["dialling", "waiting", "asked", "uploading", "stuck", "answered", "downloading"])
def test_clients_that_leave_leave_nothing_behind(stage: str) -> None:
    def on_head(call: Call) -> None:
        if stage in ("answered", "downloading"):
            call.head()
        if stage == "downloading":
            call.data(bytes(3_000_000))

    upload = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"
    limits = PoolLimits(connections=1)
    settings: dict[SettingCodes | int, int] = {SettingCodes.MAX_CONCURRENT_STREAMS: 4 if stage == "waiting" else 100}

    @on_uvloop
    async def check() -> None:
        async with (
            H2Upstream(lambda call: None, on_head=on_head, settings=settings, windows=stage != "stuck") as app,
            proxying(app.port, limits=limits) as proxy,
        ):
            clients = [await RawClient.connect(proxy.port) for _ in range(10)]
            for client in clients:
                client.writer.write(upload + bytes(90_000) if stage in ("uploading", "stuck") else GET)
            wanted = {"dialling": 0, "waiting": 4}.get(stage, 10)
            await settle(lambda: len(app.calls) >= wanted)
            for client in clients:
                client.reset()
            await settle(lambda: proxy.app.in_use == 0 and proxy.app.waiting == 0)
            await settle(lambda: all(exchange.done for exchange in proxy.exchanges))
            app.behave, app.on_head, app.windows = (lambda call: call.answer(b"ok")), None, True
            if stage != "stuck":  # there the connection's window is gone for good
                assert await proxy.ask() == (200, b"ok")
                assert len(app.links) == 1

    check()


@on_uvloop
async def test_an_upstream_that_resets_everything_costs_nobody_else() -> None:
    def behave(call: Call) -> None:
        if call.path == "/good":
            call.answer(b"ok")
        elif call.stream % 4 == 1:
            call.head()
            call.reset(Code.CANCEL)
        else:
            call.reset(Code.ENHANCE_YOUR_CALM)

    async with H2Upstream(behave) as app, proxying(app.port) as proxy:

        async def storm() -> None:
            for _ in range(50):
                async with await RawClient.connect(proxy.port) as client:
                    response = await client.ask(GET)
                    assert response.status == 502 or not response.complete

        async def good() -> None:
            for _ in range(100):
                assert await proxy.ask(GET.replace(b"/x", b"/good")) == (200, b"ok")

        await asyncio.gather(good(), *(storm() for _ in range(10)))
        assert len(app.links) == 1


@on_uvloop
async def test_what_a_forgotten_address_refused_is_still_sent_again() -> None:
    async with H2Upstream(lambda call: None) as app, proxying(app.port) as proxy:
        asking = asyncio.ensure_future(proxy.ask())
        await settle(lambda: len(app.calls) == 1)
        proxy.pool.forget(proxy.app)
        app.behave = lambda call: call.answer(b"again")
        app.calls[0].reset(Code.REFUSED_STREAM)
        assert await asking == (200, b"again")
        await settle(lambda: not app.open)


# -- other ways --------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_upgrades_go_by_http1() -> None:
    async def script(connection: Connection) -> None:
        request = await connection.request()
        assert request.headers["upgrade"] == "raw"
        await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nhello")

    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert await client.reader.readexactly(5) == b"hello"


def contexts(*protocols: str) -> tuple[ssl.SSLContext, Tls]:
    """Both ends of TLS to an upstream that offers these by ALPN."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("app.example").configure_cert(server)
    server.set_alpn_protocols(list(protocols))
    plain, http2 = ssl.create_default_context(), ssl.create_default_context()
    for context in (plain, http2):
        authority().configure_trust(context)
    http2.set_alpn_protocols(["h2", "http/1.1"])
    return server, Tls(context=plain, http2=http2, server_name="app.example")


def test_tls_with_http2_chosen_by_alpn() -> None:
    @on_uvloop
    async def check() -> None:
        server, tls = contexts("h2")
        async with H2Upstream(tls=server) as app, proxying(app.port, tls=tls) as proxy:
            assert set(await asyncio.gather(*(proxy.ask() for _ in range(10)))) == {(200, b"ok")}
            assert app.calls[0].headers[":scheme"] == "https"
            assert len(app.links) == 1

    check()


def test_a_server_that_cannot_prove_its_name_gets_no_request() -> None:
    @on_uvloop
    async def check() -> None:
        server, tls = contexts("h2")
        tls.server_name = "other.example"
        async with H2Upstream(tls=server) as app, proxying(app.port, tls=tls) as proxy:
            status, body = await proxy.ask()
            assert status == 502
            assert b"TLS" in body
            assert app.calls == []

    check()


def test_tls_whose_alpn_chose_http1_goes_on_in_that() -> None:
    @on_uvloop
    async def check() -> None:
        server, tls = contexts("http/1.1")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            writer.close()

        app = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server)
        async with proxying(app.sockets[0].getsockname()[1], tls=tls) as proxy:
            for _ in range(3):
                assert await proxy.ask() == (200, b"ok")
        app.close()

    check()
