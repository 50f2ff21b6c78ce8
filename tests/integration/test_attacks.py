"""Hostile clients over HTTP/1.1, and a bystander who is served meanwhile; `benchmarks.attacks` measures how well."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.attackers import ATTACKS, Target
from kncore.net.http1 import Limits
from kncore.testing.rawclient import RawClient
from kncore.testing.upstream import Connection, ScriptedUpstream, ok
from tests.integration.test_http1_proxy import GET, Proxy, proxying, settle

pytestmark = pytest.mark.filterwarnings(
    # asyncio forgets to close what it has accepted when its peer has reset it meanwhile
    "ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning"
)

LIMITS = Limits(connections=40, head_time=0.5, idle_time=0.5, body_time=0.5)
SCALES = {"connection flood": 60, "slow heads": 30, "slow bodies": 30}
LARGE = 100_000


async def answer(connection: Connection) -> None:
    """Answers are large, so that not reading them costs something."""
    while True:
        head = await connection.head()
        if head.startswith(b"POST "):
            while await connection.reader.read(1 << 16):
                pass
            return
        request = await connection.body(head)
        await connection.send(ok(b"hello") if request.line.startswith("GET /x ") else ok(b"z" * LARGE))


@asynccontextmanager
async def attacked(name: str) -> AsyncIterator[Proxy]:
    async with ScriptedUpstream(answer) as app, proxying(app.port, limits=LIMITS) as proxy:
        target = Target(proxy.port, scale=SCALES.get(name, 10))
        attack = asyncio.ensure_future(ATTACKS[name](target))
        try:
            await settle(lambda: proxy.server.statistics().connections >= min(target.scale, 10))
            yield proxy
        finally:
            attack.cancel()
            await asyncio.gather(attack, return_exceptions=True)
        for _ in range(20):  # connections may still be waiting to be accepted
            for connection in tuple(proxy.server._connections):
                connection.transport.abort()  # else what the kernel still holds of the attack would be read first
            await asyncio.sleep(0.01)
        await settle(lambda: proxy.server.statistics().connections == 0)
    gc.collect()  # that warning is for this test


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - {"connection flood"}))
async def test_bystander_is_served_during(name: str) -> None:
    async with attacked(name) as proxy:
        for _ in range(10):
            async with await RawClient.connect(proxy.port) as new:
                async with asyncio.timeout(5):
                    for _ in range(5):
                        response = await new.ask(GET)
                        assert (response.status, response.body) == (200, b"hello")
        assert proxy.server.statistics().connections <= LIMITS.connections


async def test_bystander_is_served_during_a_connection_flood() -> None:
    """Forty places and sixty who come back at once: whoever rests loses its place soon, but whoever asks is served."""
    async with attacked("connection flood") as proxy:
        served = 0
        async with asyncio.timeout(10):
            while served < 20:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    async with await RawClient.connect(proxy.port) as new:
                        served += (await new.ask(GET)).status == 200
        open_now = [one for one in proxy.server._connections if not one.transport.is_closing()]
        assert len(open_now) <= LIMITS.connections
        # those that were closed in this turn of the loop are counted until the next
        await settle(lambda: proxy.server.statistics().connections <= LIMITS.connections)
        assert proxy.server.statistics().evicted > 0


async def test_slow_heads_and_bodies_end() -> None:
    async with ScriptedUpstream(answer) as app, proxying(app.port, limits=LIMITS) as proxy:
        async with await RawClient.connect(proxy.port) as head, await RawClient.connect(proxy.port) as body:
            await head.send(GET[:9])
            await body.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
            assert (await head.response()).status == 408
            response = await body.response()
            assert (response.status, response.body) == (408, b"request body not complete in time\n")
            assert await body.rest() == b""
        assert proxy.exchanges[0].error is not None


async def test_connection_that_reads_no_answers_holds_little_and_ends() -> None:
    """Two thousand requests of 30 bytes, answers of 100 kB: the proxy asks its app for what it can get rid of."""
    async with (
        ScriptedUpstream(answer) as app,
        proxying(app.port) as proxy,
        await RawClient.connect(proxy.port) as client,
    ):
        client.writer.transport.pause_reading()
        await client.send(GET.replace(b"/x", b"/y") * 2000)
        asked = -1
        while len(app.requests) != asked:
            asked = len(app.requests)
            await asyncio.sleep(0.2)
        assert asked < 200  # what the kernel's buffers take
        (connection,) = proxy.server._connections
        assert connection.transport.get_write_buffer_size() < 1_000_000
