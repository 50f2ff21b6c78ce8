"""The autoscaler's sockets: streams that behave and streams that do not, pods that must not be believed."""

import asyncio
import random
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from autoscaler import app, scrape, statserver
from autoscaler.decide import Decision, Observed
from autoscaler.explain import Explanations
from autoscaler.scrape import ScrapeFailed, open_session, scrape_pod
from autoscaler.statserver import MAX_MESSAGE_BYTES, StatServer
from kncore.api.resources import DEPLOYMENTS, POD_AUTOSCALERS, PODS
from kncore.clock import SystemClock
from kncore.config.store import Store
from kncore.kube.informers import Informers
from kncore.net.statstream import StatStream
from kncore.testing import FakeClock
from kncore.testing.kube import MemoryClient
from kncore.testing.rawclient import RawClient
from kncore.testing.upstream import Connection, ScriptedUpstream, ok
from kncore.wire import Stat, encode_messages, encode_stat

KEY = ("default", "hello-1")
FRAME = encode_messages([(*KEY, Stat(pod_name="pod-1", average_concurrent_requests=2.0))])


async def until(condition, within: float = 5.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.002)


class Served:
    """A stat server and what it heard."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.heard: list[tuple[tuple[str, str], Stat]] = []
        self.explanations = Explanations()
        self.owned = True
        self.server = StatServer(
            ("127.0.0.1", 0),
            lambda key, stat: self.heard.append((key, stat)),
            self.explanations,
            self.clock,
            owns=lambda host: self.owned or not host.startswith("autoscaler-bucket"),
        )
        self.task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    made.task = asyncio.get_running_loop().create_task(made.server.run())
    await made.server.ready.wait()
    yield made
    if not made.task.done():
        await made.stop()
    assert made.server.statistics().streams == 0


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


# streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/any/path?x=1"])
async def test_stats_arrive_at_once(served, session, path: str) -> None:
    async with session.ws_connect(served.url + path) as stream:
        await stream.send_bytes(FRAME)
        await until(lambda: served.heard)
        (key, stat), *_ = served.heard
        assert (key, stat.average_concurrent_requests) == (KEY, 2.0)
        assert served.server.streaming("pod-1", 2.5)
        assert not served.server.streaming("pod-2", 2.5)
        served.clock.advance(3)
        assert not served.server.streaming("pod-1", 2.5)
        assert served.server.statistics().streams == 1


async def test_our_own_stream_gets_through(served) -> None:
    stream = StatStream(f"ws://127.0.0.1:{served.server.port}")
    task = asyncio.get_running_loop().create_task(stream.run())
    await until(lambda: stream.connected)
    assert stream.send_nowait(FRAME)
    await until(lambda: served.heard)
    await served.stop()
    await until(lambda: not stream.connected)
    task.cancel()


async def test_malformed_frames_are_dropped_and_counted(served, session) -> None:
    async with session.ws_connect(served.url) as stream:
        for frame in (b"\xff", b"\x0a\xff", b"garbage", b""):
            await stream.send_bytes(frame)
        await stream.send_str("text is no stat")
        without_stat = encode_messages([(*KEY, None)])
        await stream.send_bytes(without_stat)
        await stream.send_bytes(FRAME)
        await until(lambda: served.heard)
        found = served.server.statistics()
        assert (found.malformed, found.messages, found.streams) == (3, 6, 1)
        assert len(served.heard) == 1


async def test_message_that_is_too_large_ends_its_stream_only(served, session) -> None:
    async with session.ws_connect(served.url) as good, session.ws_connect(served.url) as bad:
        await bad.send_bytes(bytes(MAX_MESSAGE_BYTES + 1))
        message = await bad.receive(timeout=5)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert message.data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        await good.send_bytes(FRAME)
        await until(lambda: served.heard)
    await until(lambda: served.server.statistics().streams == 0)


async def test_shutdown_sends_everybody_elsewhere(served, session) -> None:
    streams = [await session.ws_connect(served.url) for _ in range(20)]
    await until(lambda: served.server.statistics().streams == 20)
    receiving = [asyncio.ensure_future(stream.receive()) for stream in streams]
    await served.stop()
    for message in await asyncio.gather(*receiving):
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert (message.data, message.extra) == (1012, "Restarting")


async def test_clients_that_say_no_goodbye_do_not_hold_up_the_shutdown(served, monkeypatch) -> None:
    monkeypatch.setattr(statserver, "CLOSE_TIMEOUT", 0.2)
    clients = [await RawClient.connect(served.server.port) for _ in range(3)]
    for client in clients:
        await client.send(UPGRADE)
        assert b"101" in await client.reader.readuntil(b"\r\n\r\n")
    started = asyncio.get_running_loop().time()
    await served.server.drop_streams()
    assert asyncio.get_running_loop().time() - started < 1.0
    for client in clients:
        client.writer.transport.abort()


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def test_streams_are_bounded(served, session, monkeypatch) -> None:
    monkeypatch.setattr(statserver, "MAX_STREAMS", 2)
    async with session.ws_connect(served.url), session.ws_connect(served.url):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(served.url)
        assert caught.value.status == 503
        assert served.server.statistics().refused == 1
    await until(lambda: served.server.statistics().streams == 0)
    async with session.ws_connect(served.url):
        pass


async def test_pods_are_remembered_within_a_bound(served, session, monkeypatch) -> None:
    monkeypatch.setattr(statserver, "MAX_PODS", 10)
    async with session.ws_connect(served.url) as stream:
        many = [(*KEY, Stat(pod_name=f"pod-{number}")) for number in range(50)]
        await stream.send_bytes(encode_messages(many))
        await until(lambda: len(served.heard) == 50)
        assert served.server.statistics().pods == 10
        served.clock.advance(statserver.REMEMBERED)
        served.server._sweep()
        assert served.server.statistics().pods == 10
        served.clock.advance(1)
        served.server._sweep()
        assert served.server.statistics().pods == 0


async def test_connection_that_asks_nothing_is_closed(served, session) -> None:
    """The sweep is called by hand; that it comes by itself is the next test's."""
    async with await RawClient.connect(served.server.port) as slow, session.ws_connect(served.url) as stream:
        await slow.send(b"GET / HTTP/1.1\r\nHost: x\r\n")  # and never an end
        await until(lambda: served.server.statistics().waiting == 1)
        served.clock.advance(statserver.HEAD_TIMEOUT + 1)
        served.server._sweep()
        assert await slow.rest() == b""
        await stream.send_bytes(FRAME)
        await until(lambda: served.heard)
        served.server._sweep()
        assert served.server.statistics().waiting == 0


async def test_what_is_too_old_is_looked_for_all_the_time(monkeypatch) -> None:
    monkeypatch.setattr(statserver, "SWEEP", 0.01)
    made = Served()
    made.task = asyncio.get_running_loop().create_task(made.server.run())
    await made.server.ready.wait()
    async with await RawClient.connect(made.server.port) as silent:
        await until(lambda: made.server.statistics().waiting == 1)
        made.clock.advance(statserver.HEAD_TIMEOUT + 1)
        assert await silent.rest() == b""
    await made.stop()


async def test_bucket_that_is_not_ours(served, session) -> None:
    served.owned = False
    with pytest.raises(aiohttp.ClientError):
        await session.ws_connect(served.url, headers={"Host": "autoscaler-bucket-00-of-01.knative-serving:8080"})
    assert served.server.statistics().refused >= 1  # the client tries again on a new connection
    async with session.ws_connect(served.url):
        assert served.server.statistics().streams == 1


@pytest.mark.parametrize("headers", [{"User-Agent": "kube-probe/1.30"}, {"K-Kubelet-Probe": "x"}])
async def test_kubelet_gets_its_answer(served, session, headers) -> None:
    async with session.get(served.url + "/health", headers=headers) as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_what_is_no_websocket(served, session) -> None:
    async with session.get(served.url) as response:
        assert response.status == 400
    async with session.post(served.url) as response:
        assert response.status == 405


async def test_explanations(served, session) -> None:
    async with session.get(served.url + "/explain/default/hello-1") as response:
        assert response.status == 404
        assert await response.text() == "no decision yet for revision default/hello-1\n"
    observed = Observed(ready=1, stable=2.0, panic=3.0)
    served.explanations.decided(
        KEY, Decision(desired=1, excess_burst_capacity=-111, observed=observed, target=7.0, at=5.0)
    )
    async with session.get(served.url + "/explain/default/hello-1") as response:
        shown = await response.json()
    assert shown["decisions"][0]["observed"] == {"ready": 1, "stable": 2.0, "panic": 3.0}
    assert shown["decisions"][0]["bound"] == "metric"


# scraping -------------------------------------------------------------------------------------------------------------

GOOD = Stat(pod_name="pod-1", average_concurrent_requests=2.5, request_count=9.0)
PROTOBUF = b"Content-Type: application/protobuf"


@asynccontextmanager
async def pod(*parts: bytes, endless: bytes = b"", pause: float = 0.0):
    """A pod's metrics port that sends these bytes, then more of the same for ever."""

    async def script(connection: Connection) -> None:
        head = await connection.head()
        assert head.startswith(b"GET /metrics HTTP/1.1\r\n")
        assert b"Accept: application/protobuf\r\n" in head
        for part in parts:
            await connection.send(part)
        while endless:
            await connection.send(endless)
            await asyncio.sleep(pause)

    async with ScriptedUpstream(script) as upstream:
        yield f"127.0.0.1:{upstream.port}"


async def ask(address: str) -> Stat:
    async with open_session() as session:
        return await scrape_pod(session, address)


async def test_good_pod() -> None:
    async with pod(ok(encode_stat(GOOD), PROTOBUF)) as address:
        assert await ask(address) == GOOD


async def test_stat_in_many_pieces() -> None:
    head, _, body = ok(encode_stat(GOOD), PROTOBUF).partition(b"\r\n\r\n")
    async with pod(head + b"\r\n\r\n", *(bytes([byte]) for byte in body)) as address:
        assert await ask(address) == GOOD


@pytest.mark.parametrize(
    "answer",
    [
        ok(encode_stat(GOOD), b"Content-Type: text/plain"),
        ok(encode_stat(GOOD), b"Content-Type: application/protobuf; charset=x"),
        ok(encode_stat(GOOD)),
        ok(b"\xff" * 50, PROTOBUF),
        ok(encode_stat(Stat(pod_name="x" * 400)), PROTOBUF),
        ok(zlib.compress(encode_stat(GOOD)), PROTOBUF, b"Content-Encoding: deflate"),
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nContent-Length: 99\r\n\r\nshort",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(100_000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    ],
    ids=range(13),
)
async def test_pod_that_is_not_believed(answer: bytes) -> None:
    async with pod(answer) as address:
        with pytest.raises(ScrapeFailed):
            await ask(address)


async def test_endless_body_is_read_up_to_its_limit_and_no_further() -> None:
    sent = 0

    async def script(connection: Connection) -> None:
        nonlocal sent
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + PROTOBUF + b"\r\n\r\n")
        while True:
            await connection.send(bytes(4096))
            sent += 4096

    async with ScriptedUpstream(script) as upstream:
        with pytest.raises(ScrapeFailed):
            await ask(f"127.0.0.1:{upstream.port}")
        await asyncio.sleep(0.05)
        stopped = sent
        await asyncio.sleep(0.05)
        assert sent == stopped, "the connection is gone"


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n" + PROTOBUF + b"\r\n\r\n", b""])
async def test_slow_pod_has_its_time(head: bytes, monkeypatch) -> None:
    monkeypatch.setattr(scrape, "TIMEOUT", 0.3)
    async with pod(head, endless=b"\0" if b"\r\n\r\n" in head else b"x", pause=0.05) as address:
        started = asyncio.get_running_loop().time()
        with pytest.raises(ScrapeFailed):
            await ask(address)
        assert asyncio.get_running_loop().time() - started < 1.5


async def test_cookies_are_not_kept() -> None:
    seen: list[bytes] = []

    async def script(connection: Connection) -> None:
        for _ in range(2):
            seen.append(await connection.head())
            await connection.send(ok(encode_stat(GOOD), PROTOBUF, b"Set-Cookie: a=b"))

    async with ScriptedUpstream(script) as upstream, open_session() as session:
        for _ in range(2):
            await scrape_pod(session, f"127.0.0.1:{upstream.port}")
    assert len(seen) == 2
    assert b"Cookie" not in seen[1]


async def test_spare_pods_stand_in_for_those_that_fail(monkeypatch) -> None:
    async def ask_pod(session, address: str) -> Stat:
        if address.startswith("10.1.0.1"):
            raise ScrapeFailed("no")
        return GOOD

    monkeypatch.setattr(scrape, "scrape_pod", ask_pod)
    old = [f"10.1.0.{number}" for number in (*range(10, 15), *range(20, 25))]  # half of ten fail; seven are wanted
    with pytest.raises(ScrapeFailed, match="too few pods answered"):
        await scrape.scrape(None, old, [], random.Random(1))  # type: ignore[arg-type]
    made = await scrape.scrape(None, old[4:], [], random.Random(1))  # type: ignore[arg-type]
    assert made is not None
    assert made.average_concurrent_requests == pytest.approx(6 * 2.5)
    assert await scrape.scrape(None, [], [], random.Random(1)) is None  # type: ignore[arg-type]


async def test_settled_pods_are_asked_first_and_stand_for_the_young_ones_too(monkeypatch) -> None:
    asked: list[str] = []

    async def ask_pod(session, address: str) -> Stat:
        asked.append(address)
        return GOOD

    monkeypatch.setattr(scrape, "scrape_pod", ask_pod)
    old, young = [f"old-{number}" for number in range(7)], [f"young-{number}" for number in range(3)]
    made = await scrape.scrape(None, old, young, random.Random(1))  # type: ignore[arg-type]
    assert sorted(asked) == [f"old-{number}:9090" for number in range(7)]
    assert made is not None
    assert made.average_concurrent_requests == pytest.approx(10 * 2.5)


async def test_all_pods_together_have_as_long_as_one(monkeypatch) -> None:
    monkeypatch.setattr(scrape, "TIMEOUT", 0.1)

    async def ask_pod(session, address: str) -> Stat:
        await asyncio.sleep(0.08)
        raise ScrapeFailed("slow")

    monkeypatch.setattr(scrape, "scrape_pod", ask_pod)
    with pytest.raises(ScrapeFailed, match="within"):
        await scrape.scrape(None, [f"p{number}" for number in range(100)], [], random.Random(1))  # type: ignore[arg-type]


# asking the activator -------------------------------------------------------------------------------------------------


def a_service(protocol: str = "http1", name: str = "hello-1"):
    return {
        "metadata": {"name": "hello-1", "namespace": "default"},
        "spec": {"protocolType": protocol},
        "status": {"serviceName": name} if name else {},
    }


@asynccontextmanager
async def probing(answer: bytes):
    """The probe, through a proxy that answers this; yields it and the requests it made."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer)

    async with ScriptedUpstream(script) as proxy, aiohttp.ClientSession() as session:
        made = app.public_service_probe(session, cluster_domain="cluster.local", proxy=f"http://127.0.0.1:{proxy.port}")
        yield made, proxy.requests


@pytest.mark.parametrize(("protocol", "port"), [("http1", ""), ("h2c", ":81")])
async def test_probe_goes_to_the_public_service(protocol: str, port: str) -> None:
    async with probing(ok(b"activator")) as (probe, requests):
        assert await probe(a_service(protocol))
    (request,) = requests
    assert request.line == f"GET http://hello-1.default.svc.cluster.local{port}//healthz HTTP/1.1"
    assert request.headers["k-network-probe"] == "activator"
    assert request.headers["user-agent"] == "Knative-Autoscaling-Probe"


async def test_answer_in_two_pieces_is_one() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nactiv")
        await asyncio.sleep(0.05)
        await connection.send(b"ator")

    async with ScriptedUpstream(script) as proxy, aiohttp.ClientSession() as session:
        probe = app.public_service_probe(session, cluster_domain="x", proxy=f"http://127.0.0.1:{proxy.port}")
        assert await probe(a_service())


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"queue"),
        ok(b"activator\n"),
        ok(b"activator" * 1000),
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\n\r\nactivator",
        b"HTTP/1.1 302 Found\r\nLocation: http://hello-1.default.svc.cluster.local/\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
    ids=range(7),
)
async def test_anything_but_the_activators_word_is_a_no(answer: bytes) -> None:
    async with probing(answer) as (probe, _):
        assert not await probe(a_service())


async def test_probe_that_gets_no_answer_is_a_no(monkeypatch) -> None:
    monkeypatch.setattr(app, "PROBE_TIMEOUT", 0.1)

    async def silent(connection: Connection) -> None:
        await asyncio.sleep(10)

    async with ScriptedUpstream(silent) as proxy, aiohttp.ClientSession() as session:
        probe = app.public_service_probe(session, cluster_domain="x", proxy=f"http://127.0.0.1:{proxy.port}")
        assert not await probe(a_service())
        assert not await app.public_service_probe(session, cluster_domain="x", proxy="http://127.0.0.1:1")(a_service())
        assert not await probe(a_service(name=""))


# the whole ------------------------------------------------------------------------------------------------------------


async def test_request_at_a_sleeping_revision_becomes_a_pod() -> None:
    """From a frame on the stream to the patch of the scale, with everything in between."""
    client = MemoryClient([AUTOSCALER, DEPLOYMENT, SKS, METRIC])
    informers = Informers(client, resync=0)
    built = app.build(
        client,
        informers,
        Store(),
        SystemClock(),
        listen=("127.0.0.1", 0),
        probe=lambda sks: asyncio.sleep(0, True),
    )
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part.run()) for part in (informers, *built.parts)]
        await built.server.ready.wait()
        await until(lambda: built.explanations.show(KEY) is not None or client.calls)
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"http://127.0.0.1:{built.server.port}") as stream:

                def replicas() -> int:
                    found = client.peek(DEPLOYMENTS, "hello-1-deployment", "default")
                    return int(found["spec"]["replicas"]) if found else -1

                async with asyncio.timeout(5):
                    while replicas() == 0:  # the first frames may come before anybody collects
                        await stream.send_bytes(FRAME)
                        await asyncio.sleep(0.02)
                assert replicas() == 1

                def actual() -> int:
                    found = client.peek(POD_AUTOSCALERS, "hello-1", "default")
                    return int(found["status"]["actualScale"]) if found else -1

                client.seed(POD)  # starting: nothing to tell yet
                await asyncio.sleep(0.02)
                assert actual() == 0
                client.seed({**POD, "status": {**POD["status"], "conditions": [{"type": "Ready", "status": "True"}]}})
                await until(lambda: actual() == 1)
                await client.delete(PODS, "hello-1-abc", "default", grace=0)
                await until(lambda: actual() == 0)
            async with session.get(f"http://127.0.0.1:{built.server.port}/explain/default/hello-1") as response:
                shown = await response.json()
        assert shown["want"] == 1
        assert shown["wakes"][-1]["scaled"] >= shown["wakes"][-1]["decided"] >= shown["wakes"][-1]["reported"]
        built.forget()
        assert built.explanations.show(KEY) is None
        for task in reversed(tasks):
            task.cancel()


class SetClock(SystemClock):
    """A clock that somebody sets."""

    step = 0.0

    def wall(self) -> float:
        return super().wall() + self.step


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
async def test_sleepers_wake_after_the_clock_was_set(step: float) -> None:
    client = MemoryClient([AUTOSCALER, DEPLOYMENT, SKS, METRIC])
    informers, clock = Informers(client, resync=0), SetClock()
    built = app.build(
        client, informers, Store(), clock, listen=("127.0.0.1", 0), probe=lambda sks: asyncio.sleep(0, True)
    )
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part.run()) for part in (informers, *built.parts)]
        await built.server.ready.wait()
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{built.server.port}") as stream,
        ):
            while built.explanations.show(KEY) is None:  # until it is known and has been found idle
                await stream.send_bytes(encode_messages([(*KEY, Stat(pod_name="pod-1"))]))
                await asyncio.sleep(0.02)
            clock.step = step
            async with asyncio.timeout(5):
                while not client.peek(DEPLOYMENTS, "hello-1-deployment", "default")["spec"]["replicas"]:
                    await stream.send_bytes(FRAME)
                    await asyncio.sleep(0.02)
        for task in reversed(tasks):
            task.cancel()


def named(kind: str, api_version: str, name: str = "hello-1", **more):
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{kind}", "generation": 1},
        **more,
    }


AUTOSCALER = named(
    "PodAutoscaler",
    POD_AUTOSCALERS.api_version,
    spec={
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hello-1-deployment"},
        "protocolType": "http1",
        "containerConcurrency": 0,
        "reachability": "Reachable",
    },
    status={
        "observedGeneration": 1,
        "desiredScale": 0,
        "conditions": [
            {"type": "Active", "status": "False", "reason": "NoTraffic", "lastTransitionTime": "2024-01-01T00:00:00Z"},
            {"type": "ScaleTargetInitialized", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"},
        ],
    },
)
AUTOSCALER["metadata"]["annotations"] = {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"}
OWNED = [
    {"apiVersion": "x/v1", "kind": "PodAutoscaler", "name": "hello-1", "uid": "uid-PodAutoscaler", "controller": True}
]
DEPLOYMENT = named("Deployment", "apps/v1", "hello-1-deployment", spec={"replicas": 0})
SKS = named(
    "ServerlessService",
    "networking.internal.knative.dev/v1alpha1",
    spec={},
    status={"serviceName": "hello-1", "privateServiceName": "hello-1-private"},
)
SKS["metadata"]["ownerReferences"] = OWNED
METRIC = named(
    "Metric",
    "autoscaling.internal.knative.dev/v1alpha1",
    spec={"stableWindow": 60_000_000_000, "panicWindow": 6_000_000_000, "scrapeTarget": "hello-1-private"},
)
METRIC["metadata"]["ownerReferences"] = OWNED
POD = named("Pod", "v1", "hello-1-abc", spec={}, status={"phase": "Running", "podIP": "127.0.0.1"})
POD["metadata"]["labels"] = {"serving.knative.dev/revision": "hello-1"}
