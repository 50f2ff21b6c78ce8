"""The activator's data path on real sockets: clients, both listeners, pods that behave and pods that do not."""

import asyncio
import collections
import select
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvloop

from activator.app import Proxy
from activator.backends import Answer, Backends, Endpoints
from activator.probe import probe
from activator.reporter import Reporter
from activator.revision import Addresses, Revision, Settings
from activator.routes import Table
from activator.tenants import Tenants
from activator.upstreams import Upstreams
from activator.wakes import Wakes
from kncore.clock import SystemClock
from kncore.net.exchange import HOLD_LIMIT
from kncore.net.overload import Turns
from kncore.net.pool import Pool
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from kncore.testing.rawclient import RawClient, Response
from kncore.testing.upstream import Connection, ScriptedUpstream, ok

KEY = ("default", "hello-1")
GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
INGRESS = {
    "metadata": {"namespace": "default", "name": "hello"},
    "spec": {
        "rules": [
            {
                "hosts": ["hello.default.localhost"],
                "http": {"paths": [{"splits": [{"serviceName": "hello-1", "percent": 100}]}]},
            }
        ]
    },
}


class Activator:
    """One activator with a public and an internal port, and the service `hello`."""

    def __init__(self, pool: Pool, ticker: Ticker) -> None:
        self.pool = pool
        self.ticker = ticker
        loop = asyncio.get_running_loop()
        self.tenants = Tenants(Turns(loop))
        self.frames: list[bytes] = []
        self.backends = Backends(probe)
        self.upstreams = Upstreams(pool)
        self.wakes = Wakes()
        self.reporter = Reporter("activator-1", self._send, SystemClock())
        self.proxy = Proxy(Table(), self.wakes, healthy=lambda: None, elsewhere=self.upstreams.elsewhere)
        self.proxy.table.put(INGRESS)
        self.public = Server(self.proxy.public, ticker=ticker)
        self.internal = Server(self.proxy.internal, ticker=ticker)
        self.public_port = self.internal_port = 0

    def _send(self, frame: bytes) -> bool:
        self.frames.append(frame)
        return True

    def revision(self, **settings: object) -> Revision:
        made = Revision(
            KEY,
            Settings(**settings),
            self_ip="127.0.0.1",
            addresses=Addresses(take=self.upstreams.take, drop=self.upstreams.drop),
            backends=self.backends,
            reporter=self.reporter,
            wakes=self.wakes,
            tenants=self.tenants,
            ticker=self.ticker,
        )
        self.proxy.revisions[KEY] = made
        self.backends.add(KEY, made, early=True)
        return made

    def pods(self, *ports: int) -> None:
        """These pods exist; they are used once they answer a probe."""
        self.backends.update(KEY, Endpoints(not_ready=frozenset(f"127.0.0.1:{port}" for port in ports)))

    async def client(self) -> RawClient:
        return await RawClient.connect(self.public_port)

    async def ask(self, raw: bytes = GET) -> Response:
        async with await self.client() as client:
            return await client.ask(raw)


@asynccontextmanager
async def an_activator() -> AsyncIterator[Activator]:
    """A running activator; in the end no request may be left in it."""
    ticker = Ticker()
    async with Pool(ticker=ticker) as pool:
        made = Activator(pool, ticker)
        probing = asyncio.get_running_loop().create_task(made.backends.run())
        made.public_port = await made.public.listen("127.0.0.1", 0)
        made.internal_port = await made.internal.listen("127.0.0.1", 0)
        yield made
        probing.cancel()
        loop = asyncio.get_running_loop()
        for server in (made.public, made.internal):
            await server.drain(loop.time() + 0.2)
        ticker.close()
        for revision in made.proxy.revisions.values():
            left = revision.throttler.statistics()
            assert (left.in_flight, left.waiting, left.waiting_bytes) == (0, 0, 0)
        assert made.tenants.turns is not None
        assert made.tenants.turns.statistics().queued == 0
        assert (made.tenants.waiting, made.tenants.waiting_bytes) == (0, 0)
        await asyncio.gather(probing, return_exceptions=True)


@pytest.fixture
async def activator() -> AsyncIterator[Activator]:
    async with an_activator() as made:
        yield made


class Pod(ScriptedUpstream):
    """A queue-proxy with an app: says `queue` to probes, and runs `behave` for every other request."""

    def __init__(self) -> None:
        super().__init__(self._serve)
        self.ready = True
        self.served: list[str] = []
        self.now = 0
        self.peak = 0

    async def _serve(self, connection: Connection) -> None:
        while True:
            request = await connection.request()
            if request.headers.get("k-network-probe") == "queue":
                self.requests.pop()
                await connection.send(ok(b"queue") if self.ready else b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n")
                if request.headers.get("connection") == "close":
                    return
                continue
            self.now += 1
            self.peak = max(self.peak, self.now)
            try:
                await self.behave(connection, request)
            finally:
                self.now -= 1

    async def behave(self, connection: Connection, request) -> None:
        self.served.append(request.line)
        await connection.send(ok(request.body or request.line.encode()))


async def until(condition, within: float = 5.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.002)


# waking --------------------------------------------------------------------------------------------------------------


async def test_requests_that_wait_are_answered_once_each_and_in_order(activator) -> None:
    """Two hundred requests for a sleeping service; the pod comes later."""
    revision = activator.revision(container_concurrency=1)
    async with Pod() as pod, AsyncExitStack() as stack:
        clients = []
        for number in range(200):
            clients.append(await stack.enter_async_context(await activator.client()))
            await clients[-1].send(b"GET /%d HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n" % number)
            await until(lambda number=number: revision.throttler.waiting == number + 1)
        pod.ready = False
        activator.pods(pod.port)
        await asyncio.sleep(0.03)
        assert pod.served == []
        pod.ready = True
        answers = await asyncio.gather(*(client.response() for client in clients))
        assert [answer.body for answer in answers] == [b"GET /%d HTTP/1.1" % number for number in range(200)]
        assert pod.served == [f"GET /{number} HTTP/1.1" for number in range(200)]
        assert pod.peak == 1, "never more than the limit"
    (wake,) = activator.wakes.select()
    assert wake.waited == 200
    assert wake.requested <= wake.endpoint <= wake.probed <= wake.first_byte


async def test_pod_is_found_within_milliseconds_of_its_address(activator) -> None:
    activator.revision()
    async with Pod() as pod, await activator.client() as client:
        await client.send(GET)
        await asyncio.sleep(0.3)
        started = asyncio.get_running_loop().time()
        activator.pods(pod.port)
        assert (await client.response()).status == 200
        assert asyncio.get_running_loop().time() - started < 0.1


async def test_many_at_once_without_a_limit(activator) -> None:
    activator.revision()
    async with Pod() as pod:
        asks = [asyncio.ensure_future(activator.ask()) for _ in range(200)]
        await until(lambda: activator.proxy.revisions[KEY].throttler.waiting == 200)
        activator.pods(pod.port)
        assert collections.Counter([(await ask).status for ask in asks]) == {200: 200}
        assert len(pod.served) == 200


async def test_limit_of_one_over_several_pods(activator) -> None:
    activator.revision(container_concurrency=1)

    class Slow(Pod):
        async def behave(self, connection: Connection, request) -> None:
            await asyncio.sleep(0.005)
            await super().behave(connection, request)

    async with Slow() as one, Slow() as two, Slow() as three:
        activator.pods(one.port, two.port, three.port)
        answers = await asyncio.gather(*(activator.ask() for _ in range(90)))
        assert {answer.status for answer in answers} == {200}
        assert [pod.peak for pod in (one, two, three)] == [1, 1, 1]
        assert sum(len(pod.served) for pod in (one, two, three)) == 90


async def test_client_that_hangs_up_while_it_waits(activator) -> None:
    revision = activator.revision()
    async with await activator.client() as stays:
        async with await activator.client() as leaves, await activator.client() as resets:
            for client in (leaves, resets, stays):
                await client.send(GET)
            await until(lambda: revision.throttler.waiting == 3)
            resets.reset()
            await until(lambda: revision.throttler.waiting == 2)
        await until(lambda: revision.throttler.waiting == 1)
        async with Pod() as pod:
            activator.pods(pod.port)
            assert (await stays.response()).status == 200
            assert len(pod.served) == 1


async def test_time_is_up_while_it_waits(activator) -> None:
    revision = activator.revision(timeout=0.5)
    answer = await activator.ask()
    assert answer.status == 504
    assert answer.body.rstrip() == b"activator request timeout"
    assert revision.throttler.waiting == 0


async def test_clocks_are_looked_at_closely_from_the_first_request_that_waits(activator) -> None:
    """After a time without requests it is once a second only."""
    revision = activator.revision()
    await until(lambda: activator.ticker.slow)
    async with await activator.client() as client:
        await client.send(GET)
        await until(lambda: revision.throttler.waiting == 1)
        assert not activator.ticker.slow


async def test_queue_is_full(activator) -> None:
    revision = activator.revision()
    revision.throttler._queue_depth = 3
    async with AsyncExitStack() as stack:
        for _ in range(3):
            client = await stack.enter_async_context(await activator.client())
            await client.send(GET)
        await until(lambda: revision.throttler.waiting == 3)
        answer = await activator.ask()
        assert (answer.status, answer.body) == (503, b"pending request queue full\n")
        assert answer.headers["retry-after"] == "1"
    await until(lambda: revision.throttler.waiting == 0)


# bodies --------------------------------------------------------------------------------------------------------------


async def test_big_body_is_held_within_bounds_and_then_flows(activator) -> None:
    revision = activator.revision()
    body = bytes(range(256)) * 16384  # 4 MiB
    async with Pod() as pod, await activator.client() as client:
        head = b"POST / HTTP/1.1\r\nHost: hello.default.localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        sending = asyncio.ensure_future(client.send(head + body))
        await until(lambda: revision.throttler.waiting == 1)
        await asyncio.sleep(0.1)
        (passage,) = revision.throttler.waiters()
        assert passage.exchange.bytes_in <= 8 * HOLD_LIMIT, "the rest stays with the client"
        assert revision.throttler.statistics().waiting_bytes == 2 * HOLD_LIMIT
        activator.pods(pod.port)
        answer = await client.response()
        await sending
        assert answer.body == body


PART = b"POST / HTTP/1.1\r\nHost: hello.default.localhost\r\nContent-Length: 4000000\r\n\r\n" + bytes(
    3 * HOLD_LIMIT // 2
)
"""More than is held of a body: nothing of the connection is read any more."""


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux tells of the end of what is not read")
async def test_client_with_a_large_body_that_hangs_up_while_it_waits(activator) -> None:
    revision = activator.revision()
    async with await activator.client() as leaves, await activator.client() as resets:
        for client in (leaves, resets):
            await client.send(PART)
        await until(lambda: revision.throttler.waiting == 2)
        await until(lambda: all(one.exchange.bytes_in > HOLD_LIMIT for one in revision.throttler.waiters()))
        resets.reset()
        await until(lambda: revision.throttler.waiting == 1)
    await until(lambda: revision.throttler.waiting == 0)
    assert revision.throttler.statistics().waiting_bytes == 0


async def test_client_of_a_stalled_upload_that_resets(activator) -> None:
    """The pod reads nothing, so the client is not read either."""
    revision = activator.revision()

    class Stalled(Pod):
        async def _serve(self, connection: Connection) -> None:
            if b"K-Network-Probe" in await connection.head():
                await connection.send(ok(b"queue", b"Connection: close"))
            else:
                await asyncio.sleep(10)

    async with Stalled() as pod, await activator.client() as client:
        activator.pods(pod.port)
        await until(lambda: activator.backends.statistics().healthy == 1)
        sending = asyncio.ensure_future(client.send(PART + bytes(3_000_000)))
        await until(lambda: revision.throttler.statistics().in_flight == 1)
        await asyncio.sleep(0.05)
        client.reset()
        await until(lambda: revision.throttler.statistics().in_flight == 0)
        await asyncio.gather(sending, return_exceptions=True)


async def test_chunked_body_waits_too(activator) -> None:
    revision = activator.revision()
    async with Pod() as pod, await activator.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: hello.default.localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"5\r\nhello\r\n")
        await until(lambda: revision.throttler.waiting == 1)
        activator.pods(pod.port)
        await until(lambda: revision.throttler.waiting == 0)
        await client.send(b"6\r\n world\r\n0\r\n\r\n")
        assert (await client.response()).body == b"hello world"


async def test_pipelined_requests_wait_and_are_answered_in_order(activator) -> None:
    activator.revision()
    async with Pod() as pod, await activator.client() as client:
        for number in range(10):
            await client.send(b"GET /%d HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n" % number)
        await asyncio.sleep(0.02)
        activator.pods(pod.port)
        answers = [await client.response() for _ in range(10)]
        assert [answer.body for answer in answers] == [b"GET /%d HTTP/1.1" % number for number in range(10)]


# pods that fail ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def load(activator: Activator, clients: int, method: bytes = b"GET"):
    """Clients that ask without pause; yields the count of answers by status."""
    counted: collections.Counter[int] = collections.Counter()
    stop = False

    async def run() -> None:
        raw = b"%b / HTTP/1.1\r\nHost: hello.default.localhost\r\nContent-Length: 0\r\n\r\n" % method
        async with await activator.client() as client:
            while not stop:
                counted[(await client.ask(raw)).status] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(run())
        yield counted
        stop = True


async def test_pod_killed_under_load_costs_no_request(activator) -> None:
    activator.revision(container_concurrency=10)
    async with Pod() as stays, AsyncExitStack() as stack:
        doomed = [await stack.enter_async_context(Pod()) for _ in range(2)]
        activator.pods(stays.port, *(pod.port for pod in doomed))
        async with load(activator, 20) as counted:
            await until(lambda: counted[200] > 300)
            await stack.aclose()  # both at once: listeners closed, connections aborted in the middle of requests
            before = counted[200]
            await until(lambda: counted[200] > before + 300)
        assert set(counted) == {200}
        assert activator.backends.statistics().healthy == 1


async def test_all_pods_killed_under_load_and_another_one_comes(activator) -> None:
    activator.revision()
    async with Pod() as another, load(activator, 10) as counted:
        async with Pod() as pod:
            activator.pods(pod.port)
            await until(lambda: counted[200] > 100)
        await asyncio.sleep(0.05)
        before = counted[200]
        activator.pods(another.port)
        await until(lambda: counted[200] > before + 100)
    assert set(counted) == {200}


async def test_restarted_pod_is_used_again_at_its_old_address(activator) -> None:
    activator.revision()
    async with Pod() as pod:
        port = pod.port
        activator.pods(port)
        assert (await activator.ask()).status == 200
    asked = asyncio.ensure_future(activator.ask())
    await asyncio.sleep(0.05)
    again = Pod()
    again.port = port
    async with again:
        assert (await asked).status == 200


async def test_reset_after_a_written_post_is_the_clients_to_know(activator) -> None:
    activator.revision(container_concurrency=5)

    class Resetting(Pod):
        async def behave(self, connection: Connection, request) -> None:
            self.served.append(request.line)
            connection.reset()
            await asyncio.sleep(1)

    async with Resetting() as one, Resetting() as two:
        activator.pods(one.port, two.port)
        await until(lambda: activator.backends.statistics().healthy == 2)
        answer = await activator.ask(b"POST / HTTP/1.1\r\nHost: hello.default.localhost\r\nContent-Length: 0\r\n\r\n")
        assert answer.status == 502
        assert len(one.served) + len(two.served) == 1
        await until(lambda: activator.backends.statistics().healthy == 2)  # it answers probes, so it is used again


async def test_answer_cut_in_the_middle_is_cut_for_the_client_too(activator) -> None:
    activator.revision()

    class Cutting(Pod):
        async def behave(self, connection: Connection, request) -> None:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            connection.reset()
            await asyncio.sleep(1)

    async with Cutting() as pod:
        activator.pods(pod.port)
        answer = await activator.ask()
        assert (answer.status, answer.complete) == (200, False)


async def test_pod_that_answers_garbage(activator) -> None:
    activator.revision()

    class Garbage(Pod):
        async def behave(self, connection: Connection, request) -> None:
            await connection.send(b"SSH-2.0-OpenSSH\r\n\r\n")

    async with Garbage() as pod:
        activator.pods(pod.port)
        assert (await activator.ask()).status == 502


async def test_refusing_pods_are_tried_once_each_and_then_left_alone(activator) -> None:
    revision = activator.revision(container_concurrency=5)
    async with AsyncExitStack() as stack:
        doomed = [await stack.enter_async_context(Pod()) for _ in range(3)]
        activator.pods(*(pod.port for pod in doomed))
        await until(lambda: activator.backends.statistics().healthy == 3)
        await stack.aclose()
        async with await activator.client() as client:
            await client.send(GET)
            await until(lambda: revision.throttler.waiting == 1)
            assert activator.backends.statistics().healthy == 0
            async with Pod() as pod:
                activator.pods(pod.port)
                assert (await client.response()).status == 200


# connections ---------------------------------------------------------------------------------------------------------


async def test_connections_to_pods_that_are_gone_are_given_up(activator) -> None:
    activator.revision()
    for _ in range(5):
        async with Pod() as pod:
            activator.pods(pod.port)
            assert (await activator.ask()).status == 200
    activator.pods()
    found = activator.pool.statistics()
    assert (found.upstreams, found.idle, found.in_use) == (0, 0, 0)
    assert activator.upstreams.statistics()["pods"] == 0


async def test_request_in_flight_at_a_pod_that_leaves_is_finished(activator) -> None:
    activator.revision()
    go = asyncio.Event()

    class Leaving(Pod):
        async def behave(self, connection: Connection, request) -> None:
            await go.wait()
            await super().behave(connection, request)

    async with Leaving() as pod:
        activator.pods(pod.port)
        asked = asyncio.ensure_future(activator.ask())
        await until(lambda: pod.now == 1)
        activator.pods()
        await asyncio.sleep(0.02)
        go.set()
        assert (await asked).status == 200


# the loop that serves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "test",
    [
        test_requests_that_wait_are_answered_once_each_and_in_order,
        test_client_that_hangs_up_while_it_waits,
        test_big_body_is_held_within_bounds_and_then_flows,
        test_client_with_a_large_body_that_hangs_up_while_it_waits,
        test_client_of_a_stalled_upload_that_resets,
        test_pipelined_requests_wait_and_are_answered_in_order,
        test_pod_killed_under_load_costs_no_request,
        test_all_pods_killed_under_load_and_another_one_comes,
        test_reset_after_a_written_post_is_the_clients_to_know,
        test_connections_to_pods_that_are_gone_are_given_up,
    ],
)
def test_on_uvloop(test: Callable[[Activator], Coroutine[Any, Any, None]]) -> None:
    """The loops differ in how connections end."""

    async def run() -> None:
        async with an_activator() as made:
            await test(made)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# the internal listener -----------------------------------------------------------------------------------------------


async def test_pods_use_it_as_their_http_proxy(activator) -> None:
    activator.revision()
    async with Pod() as pod, ScriptedUpstream() as outside:
        activator.pods(pod.port)
        async with await RawClient.connect(activator.internal_port) as client:
            ours = await client.ask(b"GET http://hello.default.localhost/x HTTP/1.1\r\nHost: ignored\r\n\r\n")
            assert ours.body == b"GET /x HTTP/1.1"
            raw = b"GET http://127.0.0.1:%d/y HTTP/1.1\r\nHost: ignored\r\n\r\n" % outside.port
            assert (await client.ask(raw)).body == b"GET /y HTTP/1.1"
            headers = outside.requests[0].headers
            assert headers["host"] == f"127.0.0.1:{outside.port}"
            assert "k-proxy-request" not in headers


async def test_it_does_not_proxy_to_itself_for_ever(activator) -> None:
    async with await RawClient.connect(activator.internal_port) as client:
        raw = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % activator.internal_port
        answer = await client.ask(raw)
        assert answer.status == 508
        assert activator.internal.statistics().accepted == 2, "the client, and ourselves once"


async def test_host_that_does_not_exist(activator) -> None:
    async with await RawClient.connect(activator.internal_port) as client:
        answer = await client.ask(b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.status == 502


# probing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ok(b"queue", b"Connection: close"), Answer.READY),
        (ok(b"queue\n", b"Connection: close"), Answer.READY),
        (ok(b"hello", b"Connection: close"), Answer.NOT_READY),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", Answer.NOT_READY),
        (b"HTTP/1.1 503 Service Unavailable\r\nServer: Envoy\r\nContent-Length: 0\r\n\r\n", Answer.MESH),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", Answer.MESH),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", Answer.NOT_READY),
        (b"nonsense", Answer.NOT_READY),
        (b"", Answer.NOT_READY),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, Answer.NOT_READY),
    ],
)
async def test_probe(answer: bytes, expected: Answer) -> None:
    async def script(connection: Connection) -> None:
        head = await connection.head()
        assert head.startswith(b"GET /healthz HTTP/1.1\r\n")
        assert b"User-Agent: Knative-Activator-Probe\r\n" in head
        assert b"K-Network-Probe: queue\r\n" in head
        await connection.send(answer)
        connection.close()

    async with ScriptedUpstream(script) as pod:
        assert await probe(f"127.0.0.1:{pod.port}", 2.0) is expected


async def test_probe_gives_up_in_time() -> None:
    async def silent(connection: Connection) -> None:
        await asyncio.sleep(10)

    async def endless(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await connection.send(b"x")
            await asyncio.sleep(0.001)

    for script in (silent, endless):
        async with ScriptedUpstream(script) as pod:
            started = asyncio.get_running_loop().time()
            assert await probe(f"127.0.0.1:{pod.port}", 0.1) is Answer.NOT_READY
            assert asyncio.get_running_loop().time() - started < 1.0


async def test_probe_of_nobody() -> None:
    assert await probe("127.0.0.1:1", 1.0) is Answer.NOT_READY
