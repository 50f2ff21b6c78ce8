"""Server, pool and codec over real sockets, against apps that behave and apps that do not."""

import asyncio
import functools
import resource
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from kncore.net.errors import UpstreamError
from kncore.net.exchange import Clocks, Exchange
from kncore.net.http1 import Limits
from kncore.net.pool import Pool, PoolLimits, UpstreamAddress
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from kncore.testing.rawclient import RawClient
from kncore.testing.upstream import Connection, ScriptedUpstream, ok

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on the loop that production uses."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class Proxy:
    """A running proxy to one app."""

    def __init__(self, port: int, server: Server, pool: Pool, app: UpstreamAddress, exchanges: list[Exchange]) -> None:
        self.port = port
        self.server = server
        self.pool = pool
        self.app = app
        self.exchanges = exchanges


@asynccontextmanager
async def proxying(
    app_port: int,
    *,
    limits: Limits | None = None,
    pool_limits: PoolLimits | None = None,
    forward: Callable[[Exchange, UpstreamAddress], None] = lambda exchange, app: exchange.forward(app),
) -> AsyncIterator[Proxy]:
    ticker = Ticker()
    exchanges: list[Exchange] = []
    async with Pool(pool_limits, ticker=ticker) as pool:
        app = pool.upstream("127.0.0.1", app_port)

        def handler(exchange: Exchange) -> None:
            exchanges.append(exchange)
            ticker.wake()
            forward(exchange, app)

        server = Server(handler, ticker=ticker, limits=limits)
        port = await server.listen("127.0.0.1", 0)
        yield Proxy(port, server, pool, app, exchanges)
        await server.drain(asyncio.get_running_loop().time() + 0.2)
        left = pool.statistics()
        assert (left.in_use, left.waiting) == (0, 0)
    ticker.close()
    assert server.statistics().connections == 0


async def settle(condition: Callable[[], bool]) -> None:
    """Wait until something becomes true, as other processes and the kernel have their say."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # the condition is about sockets, which set no events
            await asyncio.sleep(0.005)


@on_uvloop
async def test_a_connection_serves_many_requests_over_one_upstream_connection() -> None:
    async with ScriptedUpstream() as app, proxying(app.port) as proxy, await RawClient.connect(proxy.port) as client:
        for _ in range(20):
            response = await client.ask(GET)
            assert (response.status, response.body) == (200, b"GET /x HTTP/1.1")
    assert app.accepted == 1
    assert len(app.requests) == 20


@on_uvloop
async def test_byte_by_byte_both_ways() -> None:
    async def script(connection: Connection) -> None:
        request = await connection.request()
        await connection.drip(ok(request.body))

    body = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        await client.drip(body)
        assert (await client.response()).body == b"abcde"


@on_uvloop
async def test_pipelined_requests_come_back_in_order() -> None:
    async with ScriptedUpstream() as app, proxying(app.port) as proxy, await RawClient.connect(proxy.port) as client:
        await client.send(b"".join(GET.replace(b"/x", b"/%d" % number) for number in range(200)))
        for number in range(200):
            assert (await client.response()).body == b"GET /%d HTTP/1.1" % number


@on_uvloop
async def test_half_closed_client_is_answered() -> None:
    async with ScriptedUpstream() as app, proxying(app.port) as proxy, await RawClient.connect(proxy.port) as client:
        await client.send(GET)
        client.half_close()
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await client.rest() == b""


@on_uvloop
async def test_keep_alive_race_is_repeated_on_a_fresh_connection() -> None:
    """The app closes a kept connection just when it receives the next request (knative/serving#12414)."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(ok())
        await connection.head()  # the next request arrives, and the connection is closed without a word

    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        for _ in range(5):
            assert (await client.ask(GET)).status == 200
    assert app.accepted == 5


@on_uvloop
async def test_app_that_closed_while_idle_costs_nothing_even_for_a_post() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(ok())

    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na"
    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        for _ in range(3):
            assert (await client.ask(post)).status == 200
            await settle(lambda: proxy.app.idle == 0)


async def reset_in_head(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-")
    await asyncio.sleep(0.02)
    connection.reset()


async def reset_before_head(connection: Connection) -> None:
    await connection.request()
    connection.reset()


@pytest.mark.parametrize("script", [reset_before_head, reset_in_head])
@on_uvloop
async def test_reset_before_the_head_is_complete_is_a_502(script: Callable[[Connection], None]) -> None:
    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):  # type: ignore[arg-type]
        response = await client.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        assert response.status == 502
        assert b"upstream closed the connection" in response.body
        assert (await client.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")).status == 502


@on_uvloop
async def test_reset_in_the_body_is_visible_to_the_client() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
        await asyncio.sleep(0.02)
        connection.reset()

    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        response = await client.ask(GET)
        assert (response.complete, response.body) == (False, b"some")


@on_uvloop
async def test_nobody_listens() -> None:
    async with ScriptedUpstream() as app:
        port = app.port
    async with proxying(port) as proxy, await RawClient.connect(proxy.port) as client:
        response = await client.ask(GET)
        assert (response.status, response.body) == (502, b"connect to 127.0.0.1:%d: connection refused\n" % port)


@on_uvloop
async def test_refused_connection_can_be_tried_elsewhere() -> None:
    async with ScriptedUpstream() as dead:
        gone = dead.port
    reasons: list[UpstreamError] = []

    async with ScriptedUpstream() as alive:

        def forward(exchange: Exchange, app: UpstreamAddress) -> None:
            def elsewhere(exchange: Exchange, failure: UpstreamError) -> bool:
                reasons.append(failure)
                exchange.forward(proxy.pool.upstream("127.0.0.1", alive.port))
                return failure.replayable

            exchange.forward(app, on_failure=elsewhere)

        async with proxying(gone, forward=forward) as proxy, await RawClient.connect(proxy.port) as client:
            body = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
            assert (await client.ask(body)).status == 200
    assert alive.requests[0].body == b"abc"
    assert not reasons[0].written


@on_uvloop
async def test_waiting_request_takes_the_connection_that_comes_free_first() -> None:
    async with ScriptedUpstream() as app, proxying(app.port) as proxy:
        clients = [await RawClient.connect(proxy.port) for _ in range(50)]
        for client in clients:
            await client.send(GET)
        for client in clients:
            assert (await client.response()).status == 200
            client.writer.close()
        assert proxy.app.idle <= app.accepted <= 50
        assert proxy.pool.statistics().in_use == 0


@on_uvloop
async def test_client_that_leaves_closes_its_upstream_connection() -> None:
    left = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        assert await connection.reader.read() == b""
        left.set()

    async with ScriptedUpstream(script) as app, proxying(app.port) as proxy:
        async with await RawClient.connect(proxy.port) as client:
            await client.send(GET)
            await settle(lambda: app.requests != [])
            client.reset()
        async with asyncio.timeout(5):
            await left.wait()
        assert proxy.exchanges[0].done


@on_uvloop
async def test_answer_before_the_upload_is_complete_reaches_the_client() -> None:
    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
        await connection.reader.read(1)

    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 200_000)
        response = await client.response()
        assert (response.status, response.body) == (413, b"no")
        assert response.headers["connection"] == "close"


@on_uvloop
async def test_full_duplex() -> None:
    """An app that answers each part of the upload before the next one is sent."""

    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while size := int(await connection.reader.readuntil(b"\r\n"), 16):
            data = (await connection.reader.readexactly(size + 2))[:-2]
            await connection.send(b"%x\r\n%b\r\n" % (size, data.upper()))
        await connection.reader.readexactly(2)
        await connection.send(b"0\r\n\r\n")

    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        for word in (b"abc", b"de", b"f"):
            await client.send(b"%x\r\n%b\r\n" % (len(word), word))
            assert await client.reader.readexactly(len(word) + 5) == b"%x\r\n%b\r\n" % (len(word), word.upper())
        await client.send(b"0\r\n\r\n")
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


@on_uvloop
async def test_server_sent_events_are_not_held_back() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(3):
            await connection.send(b"data: %d\n\n" % number)
            await heard.wait()
            heard.clear()

    heard = asyncio.Event()
    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        await client.send(GET)
        await client.reader.readuntil(b"\r\n\r\n")
        for number in range(3):
            assert await client.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number
            heard.set()
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


@on_uvloop
async def test_upgraded_connection_carries_bytes_both_ways() -> None:
    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhi")
        while data := await connection.reader.read(65536):
            await connection.send(data)
        connection.writer.write_eof()

    big = bytes(range(256)) * 4096
    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert await client.reader.readexactly(2) == b"hi"
        sending = asyncio.ensure_future(client.send(big))
        assert await client.reader.readexactly(len(big)) == big
        await sending
        client.half_close()
        assert await client.rest() == b""
        await settle(lambda: proxy.exchanges[0].done)
        assert proxy.exchanges[0].bytes_in == len(big)


@on_uvloop
async def test_upgraded_connection_ends_when_the_app_ends_first() -> None:
    heard = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nbye")
        connection.writer.write_eof()
        if await connection.reader.read() == b"bye":  # up to the end of the client's direction
            heard.set()

    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        assert await client.rest() == b"bye"
        assert not proxy.exchanges[0].done
        await client.send(b"bye")
        client.half_close()
        async with asyncio.timeout(2):
            await heard.wait()
        await settle(lambda: proxy.exchanges[0].done)
        assert proxy.server.statistics().connections == 0


@on_uvloop
async def test_huge_bodies_use_constant_memory() -> None:
    size = 192 * 1024 * 1024
    piece = b"x" * (1 << 20)

    async def script(connection: Connection) -> None:
        await connection.head()
        received = 0
        while received < size:
            received += len(await connection.reader.read(1 << 20))
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            await connection.send(piece)

    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            await client.send(piece)
        await client.reader.readuntil(b"\r\n\r\n")
        received = 0
        while received < size:
            received += len(await client.reader.read(1 << 20))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert proxy.exchanges[0].bytes_in == size
    assert proxy.exchanges[0].bytes_out == size
    assert grown < 32 * 1024  # KiB, with client and app in the same process


@on_uvloop
async def test_slow_reader_stops_the_app() -> None:
    sent = 0

    async def script(connection: Connection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await connection.send(b"x" * 65536)
            sent += 65536

    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET)
        await settle(lambda: sent > 0)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 64 << 20  # what the kernel's buffers take, not what the app has


@on_uvloop
async def test_too_many_connections_in_use_are_told_so() -> None:
    release = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await release.wait()
        await connection.send(ok())

    async with ScriptedUpstream(script) as app, proxying(app.port, limits=Limits(connections=2)) as proxy:
        async with await RawClient.connect(proxy.port) as one, await RawClient.connect(proxy.port) as two:
            await one.send(GET)
            await two.send(GET)
            await settle(lambda: len(app.requests) == 2)
            async with await RawClient.connect(proxy.port) as three:
                response = await three.response()
                assert (response.status, response.body) == (503, b"too many connections\n")
                async with await RawClient.connect(proxy.port) as four:
                    assert await four.rest() == b""  # far too many: not even told
            release.set()
            assert (await one.response()).status == (await two.response()).status == 200
        assert proxy.server.statistics().turned_away == 2
        assert proxy.server.statistics().evicted == 0
        await settle(lambda: proxy.server.statistics().connections == 0)
        async with await RawClient.connect(proxy.port) as four:
            assert (await four.ask(GET)).status == 200


@on_uvloop
async def test_a_connection_that_asks_nothing_gives_its_place_to_a_new_one() -> None:
    async with ScriptedUpstream() as app, proxying(app.port, limits=Limits(connections=3)) as proxy:
        async with (
            await RawClient.connect(proxy.port) as silent,
            await RawClient.connect(proxy.port) as slow,
            await RawClient.connect(proxy.port) as used,
        ):
            await slow.send(b"GET / HT")
            await used.ask(GET)
            proxy.server.visit(asyncio.get_running_loop().time())
            await used.ask(GET)
            for _ in range(2):
                async with await RawClient.connect(proxy.port) as new:
                    assert (await new.ask(GET)).status == 200
                    await new.ask(GET)
                    await settle(lambda: proxy.server.statistics().connections <= 3)
            async with asyncio.TaskGroup() as group:  # one of them: which is chance
                ends = [group.create_task(client.rest()) for client in (silent, slow)]
                ended, lasting = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for end in lasting:
                    end.cancel()
            assert {end.result() for end in ended} == {b""}
            assert (await used.ask(GET)).status == 200
        assert proxy.server.statistics().turned_away == 0


@on_uvloop
async def test_clocks_run_on_real_time() -> None:
    def forward(exchange: Exchange, app: UpstreamAddress) -> None:
        exchange.clocks = Clocks(text=b"request timeout", total=0.2)
        exchange.forward(app)

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.reader.read()

    async with ScriptedUpstream(script) as app, proxying(app.port, forward=forward) as proxy:
        started = asyncio.get_running_loop().time()
        async with await RawClient.connect(proxy.port) as client:
            response = await client.ask(GET)
        assert (response.status, response.body) == (504, b"request timeout")
        assert 0.2 <= asyncio.get_running_loop().time() - started < 0.5


@on_uvloop
async def test_slow_heads_are_ended() -> None:
    limits = Limits(head_time=0.5, idle_time=0.5)
    async with (
        ScriptedUpstream() as app,
        proxying(app.port, limits=limits) as proxy,
        await RawClient.connect(proxy.port) as slow,
        await RawClient.connect(proxy.port) as silent,
    ):
        await slow.send(b"GET / HT")
        assert (await slow.response()).status == 408
        assert await silent.rest() == b""


@on_uvloop
async def test_drain_lets_requests_end_and_closes_the_rest() -> None:
    release = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await release.wait()
        await connection.send(ok())

    loop = asyncio.get_running_loop()
    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as busy,
        await RawClient.connect(proxy.port) as idle,
    ):
        await busy.send(GET)
        await settle(lambda: len(app.requests) == 1)
        draining = asyncio.ensure_future(proxy.server.drain(loop.time() + 5))
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(proxy.port)
        release.set()
        response = await busy.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await draining


@on_uvloop
async def test_drain_cuts_what_does_not_end() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.reader.read()

    loop = asyncio.get_running_loop()
    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        await client.send(GET)
        await settle(lambda: len(app.requests) == 1)
        assert not await proxy.server.drain(loop.time() + 0.1)
        assert await client.rest() == b""


@on_uvloop
async def test_pool_keeps_no_more_than_its_bounds_and_expires_what_it_keeps() -> None:
    limits = PoolLimits(idle=3, idle_per_upstream=2, idle_time=0.3)
    async with ScriptedUpstream() as app, ScriptedUpstream() as other, proxying(app.port, pool_limits=limits) as proxy:
        for port, expected in ((app.port, 2), (other.port, 1)):
            clients = [await RawClient.connect(proxy.port) for _ in range(4)]
            upstream = proxy.pool.upstream("127.0.0.1", port)
            waiting: list[Exchange] = []

            def gather(exchange: Exchange, _: UpstreamAddress, waiting: list[Exchange] = waiting) -> None:
                waiting.append(exchange)

            proxy.server.handler = lambda exchange: gather(exchange, proxy.app)
            for client in clients:
                await client.send(GET)
            await settle(lambda: len(waiting) == 4)  # noqa: B023
            for exchange in waiting:
                exchange.forward(upstream)
            for client in clients:
                assert (await client.response()).status == 200
                client.writer.close()
            assert upstream.idle <= expected
        assert proxy.pool.statistics().idle <= 3
        await settle(lambda: proxy.pool.statistics().idle == 0)


@on_uvloop
async def test_pool_learns_how_long_an_app_keeps_connections() -> None:
    async def script(connection: Connection) -> None:
        while True:
            try:
                async with asyncio.timeout(1.2):
                    await connection.request()
            except TimeoutError:
                return
            await connection.send(ok())

    async with (
        ScriptedUpstream(script) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        await client.ask(GET)
        loop = asyncio.get_running_loop()
        proxy.pool.visit(loop.time())
        await settle(lambda: proxy.app.idle == 0)
        await client.ask(GET)
        proxy.pool.visit(loop.time())
        await asyncio.sleep(1.05)
        proxy.pool.visit(loop.time())
        assert proxy.app.idle == 0  # closed by us this time, before the app does it


@on_uvloop
async def test_forgotten_upstream_keeps_nothing() -> None:
    async with ScriptedUpstream() as app, proxying(app.port) as proxy, await RawClient.connect(proxy.port) as client:
        await client.ask(GET)
        assert proxy.app.idle == 1
        proxy.pool.forget(proxy.app)
        assert proxy.app.idle == 0
        assert (await client.ask(GET)).status == 200
        assert proxy.app.idle == 0
        assert proxy.pool.upstream("127.0.0.1", app.port) is not proxy.app


@on_uvloop
async def test_dial_that_takes_too_long_fails() -> None:
    async with ScriptedUpstream() as app, proxying(app.port, pool_limits=PoolLimits(connect_time=0.1)) as proxy:
        blackhole = proxy.pool.upstream("192.0.2.1", 9)  # TEST-NET: no route, or no answer
        proxy.server.handler = lambda exchange: exchange.forward(blackhole)
        async with await RawClient.connect(proxy.port) as client:
            response = await client.ask(GET)
        assert response.status == 502
        assert response.body.startswith(b"connect to 192.0.2.1:9: ")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-d", "hello"], "200 5"),
        (["-d", "hello", "-H", "Transfer-Encoding: chunked"], "200 5"),
        (["-d", "hello", "-H", "Expect: 100-continue"], "200 5"),
        (["-0"], "200 0"),
        (["-I"], "200 0"),
        (["-d", "hello", "--http2"], "200 5"),
        (["-X", "DELETE"], "200 0"),
    ],
)
@on_uvloop
async def test_curl(options: list[str], expected: str) -> None:
    async def script(connection: Connection) -> None:
        while True:
            head = await connection.head()
            if b"100-continue" in head:
                await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            request = await connection.body(head)
            await connection.send(ok(b"" if request.line.startswith("HEAD") else request.body))

    async with ScriptedUpstream(script) as app, proxying(app.port) as proxy:
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", "--max-time", "10", *options),
            f"http://127.0.0.1:{proxy.port}/a?b",
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await curl.communicate()
        assert out.decode() == expected
