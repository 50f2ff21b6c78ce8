"""The layers of a queue-proxy around an app that is a list."""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kncore.net.exchange import Exchange
from kncore.net.ticker import Ticker
from queueproxy import app, proxy
from queueproxy.config import Config, Probe
from queueproxy.drain import Drainer
from queueproxy.probe import Prober
from queueproxy.stats import Counter
from tests.unit.kncore.net.conftest import Relay

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Sidecar:
    """A queue-proxy's request path with everything it needs, and one client connection at a time."""

    def __init__(self, **settings: Any) -> None:
        given = {"namespace": "ns", "revision": "rev", "pod": "pod", "pod_ip": "127.9.128.1", **settings}
        config = Config(**given)
        self.ticker = Ticker()
        self.drainer = Drainer(30.0)
        self.prober = Prober(config.probes)
        self.counter = Counter(asyncio.get_running_loop().time(), pod="pod", namespace="ns", revision="rev")
        self.telemetry = app.telemetry_of(config)
        layers, innermost = app.request_path(
            config,
            self.ticker,
            self.drainer,
            self.prober,
            self.counter,
            self,
            breaker=app.breaker_of(config),
            telemetry=self.telemetry,
        )
        self.ups: list[Relay] = []
        self.handler = app.stack(layers, proxy.forward(innermost))

    def client(self) -> Relay:
        return Relay(self.handler)

    # the app
    def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
        relay = next(relay for relay in self.clients if exchange in relay.exchanges)
        relay.submit(exchange, fresh=fresh)

    def withdraw(self, exchange: Exchange) -> None:
        pass

    clients: list[Relay]

    def ask(self, data: bytes) -> Relay:
        relay = self.client()
        self.clients = [*getattr(self, "clients", []), relay]
        relay.says(data)
        return relay


@pytest.fixture
def make() -> Callable[..., Sidecar]:
    return Sidecar


def request(*lines: bytes) -> bytes:
    return b"GET /a HTTP/1.1\r\nHost: pod:8012\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


async def test_headers_on_the_way_to_the_app(make: Callable[..., Sidecar]) -> None:
    relay = make().ask(
        request(
            b"K-Original-Host: hello.example.com",
            b"Knative-Serving-Revision: rev",
            b"Knative-Serving-Namespace: ns",
            b"K-Proxy-Request: activator",
            b"Knative-Serving-Tag: t",
            b"X-Forwarded-For: 10.0.0.1, 10.0.0.2",
            b"X-Forwarded-Proto: https",
        )
    )
    assert relay.up.got == (
        b"GET /a HTTP/1.1\r\nHost: hello.example.com\r\nK-Proxy-Request: activator\r\nKnative-Serving-Tag: t\r\n"
        b"X-Forwarded-Proto: https\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2, 192.0.2.7\r\n"
        b"Forwarded: for=10.0.0.1;proto=https, for=10.0.0.2\r\n\r\n"
    )


async def test_own_forwarded_header_is_left_alone(make: Callable[..., Sidecar]) -> None:
    relay = make().ask(request(b"Forwarded: for=x", b"X-Forwarded-For: 10.0.0.1"))
    assert relay.up.got.count(b"Forwarded: ") == 1
    assert b"\r\nX-Forwarded-For: 10.0.0.1, 192.0.2.7\r\n" in relay.up.got


async def test_without_original_host_the_client_s_stays(make: Callable[..., Sidecar]) -> None:
    relay = make().ask(GET)
    assert relay.up.got == b"GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"


@pytest.mark.parametrize(
    ("lines", "status", "body"),
    [
        ((b"User-Agent: kube-probe/1.30", b"K-Network-Probe: queue"), 200, b"queue"),
        ((b"User-Agent: Knative-Activator-Probe", b"K-Network-Probe: queue"), 200, b"queue"),
        ((b"User-Agent: Knative-Autoscaling-Probe", b"K-Network-Probe: queue"), 200, b"queue"),
        ((b"K-Kubelet-Probe: x", b"K-Network-Probe: queue"), 200, b"queue"),
        ((b"User-Agent: kube-probe/1.30",), 400, b"unexpected probe header value: \n"),
        ((b"User-Agent: kube-probe/1.30", b"K-Network-Probe: x"), 400, b"unexpected probe header value: x\n"),
        ((b"K-Network-Probe: probe",), 400, b'a probe request must contain a non-empty "K-Network-Hash" header\n'),
        ((b"K-Network-Probe: probe", b"K-Network-Hash: abc"), 200, b""),
    ],
)
async def test_probes_never_reach_app_or_stats(
    make: Callable[..., Sidecar], lines: tuple[bytes, ...], status: int, body: bytes
) -> None:
    sidecar = make()
    relay = sidecar.ask(request(*lines))
    assert (relay.status, relay.answer.partition(b"\r\n\r\n")[2]) == (status, body)
    assert relay.ups == []
    assert sidecar.counter.requests.report(asyncio.get_running_loop().time()).request_count == 0
    assert sidecar.drainer.last == 0.0
    if b"Hash: abc" in lines[-1]:
        assert b"\r\nK-Network-Hash: abc\r\n" in relay.answer


async def test_other_probe_values_are_the_app_s(make: Callable[..., Sidecar]) -> None:
    assert len(make().ask(request(b"K-Network-Probe: activator")).ups) == 1


async def test_draining_fails_probes_and_serves_requests(make: Callable[..., Sidecar]) -> None:
    sidecar = make()
    sidecar.drainer.begin(0.0, terminating=True)
    for lines in (
        (b"User-Agent: kube-probe/1.30", b"K-Network-Probe: queue"),
        (b"K-Network-Probe: probe", b"K-Network-Hash: abc"),
    ):
        relay = sidecar.ask(request(*lines))
        assert relay.status == 503
        assert relay.answer.endswith(b"\r\n\r\nshutting down\n")
    assert len(sidecar.ask(GET).ups) == 1
    assert sidecar.drainer.last > 0


async def test_concurrency_limit_queues_in_order_and_then_refuses(make: Callable[..., Sidecar]) -> None:
    sidecar = make(container_concurrency=2)
    relays = [sidecar.ask(GET) for _ in range(22)]
    assert [len(relay.ups) for relay in relays] == [1, 1] + [0] * 20
    refused = sidecar.ask(GET)
    assert refused.status == 503
    assert refused.answer.endswith(b"\r\n\r\npending request queue full\n")
    relays[3].leaves()  # a client that leaves the queue frees its place there
    assert sidecar.ask(GET).status == 0
    relays[0].up.answers(OK)
    assert [len(relay.ups) for relay in relays[2:5]] == [1, 0, 0]
    relays[1].leaves()  # and one in the app its place there
    assert [len(relay.ups) for relay in relays[2:6]] == [1, 0, 1, 0]
    now = asyncio.get_running_loop().time()
    assert sidecar.counter.requests.concurrency == 20
    assert sidecar.counter.requests.report(now).request_count == 24


async def test_waiting_counts_towards_the_timeout(make: Callable[..., Sidecar]) -> None:
    sidecar = make(container_concurrency=1, timeout=5.0)
    first, second = sidecar.ask(GET), sidecar.ask(GET)
    second.connection.tick(second.exchanges[0].started + 5.0)
    assert second.answer.endswith(b"\r\n\r\nrequest timeout")
    first.up.answers(OK)
    assert second.ups == []
    assert len(sidecar.ask(GET).ups) == 1
    sidecar.ticker.close()


async def test_proxied_requests_are_counted_as_such(make: Callable[..., Sidecar]) -> None:
    sidecar = make()
    proxied, direct = sidecar.ask(request(b"K-Proxy-Request: activator")), sidecar.ask(GET)
    for relay in (proxied, direct):
        relay.up.answers(OK)
    report = sidecar.counter.requests.report(asyncio.get_running_loop().time() + 1)
    assert (report.request_count, report.proxied_request_count) == (2, 1)
    assert sidecar.counter.requests.concurrency == 0


async def test_app_that_is_not_there_is_a_502_and_leaves_nothing_behind(make: Callable[..., Sidecar]) -> None:
    sidecar = make(container_concurrency=1)
    for _ in range(3):
        relay = sidecar.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        relay.up.closes()
        assert relay.status == 502
    assert sidecar.counter.requests.concurrency == 0


# -- readiness --------------------------------------------------------------------------------------------------------

PROBE = b"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: %b\r\nK-Network-Probe: queue\r\n%b\r\n"


class Attempts:
    """Stands in for the probe itself."""

    def __init__(self, results: list[str | None]) -> None:
        self.results = results
        self.made = 0

    async def __call__(self, probe: Probe, now: float) -> str | None:
        self.made += 1
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Attempts]]:
    def make(*results: str | None) -> Attempts:
        made = Attempts(list(results))
        monkeypatch.setattr("queueproxy.probe.Prober._run", lambda _, probe, now: made(probe, now))
        return made

    return make  # type: ignore[return-value]


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("agent", "extra", "period", "results", "status", "made"),
    [
        (b"kube-probe/1", b"", 10.0, (None,), 200, 1),
        (b"kube-probe/1", b"", 10.0, ("no",), 503, 1),
        (b"Knative-Activator-Probe", b"", 0.0, ("no", None), 503, 1),
        (b"kube-probe/1", b"", 0.0, ("no", "no", None), 200, 3),
        (b"Knative-Activator-Probe", b"Prefer: wait=1\r\n", 10.0, ("no", None), 200, 2),
    ],
)
async def test_who_waits_and_who_does_not(
    make: Callable[..., Sidecar],
    attempts: Callable[..., Attempts],
    agent: bytes,
    extra: bytes,
    period: float,
    results: tuple[str | None, ...],
    status: int,
    made: int,
) -> None:
    tried = attempts(*results)
    sidecar = make(probes=(Probe(kind="tcp", port=1, period=period),))
    running = asyncio.ensure_future(sidecar.prober.run())
    relay = sidecar.ask(PROBE % (agent, extra))
    await asyncio.sleep(1)
    assert (relay.status, tried.made) == (status, made)
    running.cancel()


@pytest.mark.looptime
async def test_patience_ends(make: Callable[..., Sidecar], attempts: Callable[..., Attempts]) -> None:
    attempts("no")
    sidecar = make(probes=(Probe(kind="tcp", port=1, period=0.0),))
    running = asyncio.ensure_future(sidecar.prober.run())
    relay = sidecar.ask(PROBE % (b"kube-probe/1", b""))
    await asyncio.sleep(9.9)
    assert relay.status == 0
    await asyncio.sleep(0.2)
    assert relay.status == 503
    running.cancel()


@pytest.mark.looptime
async def test_callers_share_a_run(make: Callable[..., Sidecar], attempts: Callable[..., Attempts]) -> None:
    tried = attempts(None)
    sidecar = make(probes=(Probe(kind="tcp", port=1),))
    running = asyncio.ensure_future(sidecar.prober.run())
    relays = [sidecar.ask(PROBE % (b"kube-probe/1", b"")) for _ in range(10)]
    await asyncio.sleep(0.1)
    assert [relay.status for relay in relays] == [200] * 10
    assert tried.made == 1
    running.cancel()


@pytest.mark.looptime
async def test_success_threshold_counts_over_runs_and_failure_clears_it(
    make: Callable[..., Sidecar], attempts: Callable[..., Attempts]
) -> None:
    attempts(None, "no", None, None)
    sidecar = make(probes=(Probe(kind="tcp", port=1, period=0.0, success_threshold=2),))
    running = asyncio.ensure_future(sidecar.prober.run())
    seen = []
    for _ in range(4):
        relay = sidecar.ask(PROBE % (b"Knative-Activator-Probe", b""))
        await asyncio.sleep(0.1)
        seen.append(relay.status)
    assert seen == [503, 503, 503, 200]
    running.cancel()


# -- request log ------------------------------------------------------------------------------------------------------


def logged(read: int) -> str:
    return os.read(read, 65536).decode()


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard output of the sidecar, as a descriptor to read from."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    from kncore.net import requestlog

    original = requestlog.Writer
    monkeypatch.setattr(requestlog, "Writer", lambda _, loop: original(write, loop))
    yield read
    os.close(read)
    os.close(write)


async def test_default_line(make: Callable[..., Sidecar], output: int) -> None:
    sidecar = make(request_log=True)
    relay = sidecar.ask(
        b'POST /a?b=<c> HTTP/1.1\r\nHost: h\r\nUser-Agent: x"y\r\nReferer: r\r\nContent-Length: 3\r\n'
        b"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\nabc"
    )
    relay.up.answers(OK)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    line = logged(output)
    before, _, after = line.partition('"latency": "')
    assert before == (
        '{"httpRequest": {"requestMethod": "POST", "requestUrl": "/a?b\\u003D\\u003Cc\\u003E", "requestSize": "3", '
        '"status": 200, "responseSize": "5", "userAgent": "x\\"y", "remoteIp": "192.0.2.7:4711", '
        '"serverIp": "127.9.128.1", "referer": "r", '
    )
    assert after.endswith('s", "protocol": "HTTP/1.1"}, "traceId": "0af7651916cd43dd8448eb211c80319c"}\n')


async def test_refused_requests_are_logged_and_probes_only_when_wanted(
    make: Callable[..., Sidecar], output: int
) -> None:
    template = "{{.Request.Method}} {{.Response.Code}}"
    sidecar = make(request_log=True, request_log_template=template, container_concurrency=1)
    probe = PROBE % (b"kube-probe/1", b"")
    for _ in range(12):
        sidecar.ask(GET)
    sidecar.ask(probe)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert logged(output) == "GET 503\n"
    sidecar = make(request_log=True, request_log_template=template, probe_request_log=True)
    sidecar.ask(probe)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert logged(output) == "GET 200\n"
