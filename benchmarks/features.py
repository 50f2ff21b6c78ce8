"""What each feature of the proxies costs per request, in microseconds of Python.

Both request paths run in this process between transports that do nothing: a request's bytes go in at one end, an
answer's at the other, and what would have been written is thrown away. So the figures hold all of our own work and
neither the kernel's nor uvloop's (8 us and 1 us a request, for four system calls that any proxy makes), and a tenth of
a microsecond can be seen on a machine that does other things. Every variant is timed in every round, and its lowest
time counts: what disturbs a run only ever adds to it. Between real sockets all of it takes about half as much again,
for the kernel uses the same caches; `peers` measures that.

A feature's cost is what everything takes, less what everything but the feature takes. It is shown for heads that repeat
on their connection, where what was derived from them is found again, and for heads of which none is like another.
"""

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from activator.app import Proxy
from activator.backends import Backends
from activator.observed import Observer
from activator.probe import probe
from activator.reporter import Reporter
from activator.revision import Addresses, Revision, Settings
from activator.routes import Table
from activator.tenants import Tenants
from activator.wakes import Wakes
from benchmarks.report import Report
from benchmarks.samples import table
from kncore import runtime
from kncore.clock import SystemClock
from kncore.net import requestlog
from kncore.net.exchange import Exchange, Handler
from kncore.net.http1_upstream import ClientConnection
from kncore.net.overload import Turns
from kncore.net.pool import Pool, UpstreamAddress
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from queueproxy import app, drain, proxy, stats
from queueproxy import probe as readiness
from queueproxy.config import Config, Export

__all__ = ["measure"]

BATCH: Final = 64
"""Requests between two turns of the loop, as with so many busy connections."""
REQUESTS: Final = 1024
"""Timed at once; so many different heads stay in the processor's second cache."""
EVERYTHING: Final = Config(
    namespace="default",
    revision="bench-00001",
    pod="bench-00001-deployment-0",
    pod_ip="127.0.0.1",
    container_concurrency=1000,
    response_start_timeout=300.0,
    idle_timeout=300.0,
    request_metrics=Export(protocol="prometheus"),
)
"""All that the proxies of `peers` have on."""
LAYERS: Final[Mapping[str, Sequence[str]]] = {
    "quiet period while draining": ("watch",),
    "three timeouts": ("time_out",),
    "concurrency counted": ("count",),
    "concurrency limited": ("limit",),
    "request metrics": ("time_requests", "note_turn"),
}
"""Feature of a queue-proxy: the functions that make its layers."""
HEAD: Final = (
    b"GET /hello?n=1 HTTP/1.1\r\nHost: hello.default.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept: */*\r\nAccept-Encoding: gzip, deflate\r\n%bX-Request-Id: 7f3d1b2c-aaaa-bbbb-cccc-%012d\r\n\r\n"
)
PROXIED: Final = b"K-Proxy-Request: activator\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n"
"""What an activator adds."""
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nServer: app\r\nDate: Tue, 24 Nov 2026 22:00:00 GMT\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 6\r\n\r\nhello\n"
)

Make = Callable[[UpstreamAddress], Handler]


class Nowhere:
    """A transport that takes everything and keeps the last of it."""

    def __init__(self) -> None:
        self.said: deque[bytes] = deque(maxlen=1)
        self.write = self.said.append
        self.is_closing: Callable[[], bool] = bool

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("192.0.2.7", 4711) if name == "peername" else default

    def close(self) -> None: ...
    def abort(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Way:
    """A request path between one client's connection and one upstream's."""

    ask: Callable[[bytes], None]
    answer: Callable[[bytes], None]
    said: deque[bytes]
    """What the client was told last."""


class Ways:
    """Makes ways; all share a pool, each has an address of its own in it."""

    def __init__(self, pool: Pool, ticker: Ticker) -> None:
        self._pool = pool
        self._ticker = ticker
        self._port = 0

    def way(self, make: Make) -> Way:
        self._port += 1
        upstream = self._pool.upstream("127.0.0.1", self._port)
        assert isinstance(upstream, UpstreamAddress)
        up = ClientConnection(upstream)
        up.connection_made(cast("Any", Nowhere()))
        upstream.in_use += 1
        upstream.released(up)
        client, told = Server(make(upstream), ticker=self._ticker).protocol(), Nowhere()
        client.connection_made(cast("Any", told))
        return Way(ask=client.data_received, answer=up.data_received, said=told.said)


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    rounds = report.options.samples(full=40, quick=10)
    ticker = Ticker()
    with contextlib.ExitStack() as stack:
        stack.callback(ticker.close)
        void = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, void)
        async with Pool(ticker=ticker) as pool:
            ways = Ways(pool, ticker)
            queue_proxy = {name: ways.way(make) for name, make in _queue_proxies(ticker, void)}
            activator = {name: ways.way(make) for name, make in _activators(void)}
            runtime.settle_memory()
            _summarise(report, "queue-proxy", await _time(queue_proxy, PROXIED, rounds))
            _summarise(report, "activator", await _time(activator, b"", rounds))


# the variants ---------------------------------------------------------------------------------------------------------


def _queue_proxies(ticker: Ticker, void: int) -> Iterator[tuple[str, Make]]:
    yield "everything", _queue_proxy(ticker, EVERYTHING)
    for feature, names in LAYERS.items():
        yield f"- {feature}", _queue_proxy(ticker, EVERYTHING, without=names)
    yield "+ request log", _queue_proxy(ticker, EVERYTHING, log=void)
    traced = replace(EVERYTHING, tracing=Export(protocol="http/protobuf", endpoint="http://127.0.0.1:1"))
    yield "+ traces, none sampled", _queue_proxy(ticker, traced)
    yield "nothing", lambda upstream: lambda exchange: exchange.forward(upstream)


def _queue_proxy(ticker: Ticker, config: Config, *, without: Sequence[str] = (), log: int = -1) -> Make:
    """The layers of a queue-proxy, but for those that functions of these names made."""

    def make(upstream: UpstreamAddress) -> Handler:
        loop = asyncio.get_running_loop()
        counter = stats.Counter(loop.time(), pod=config.pod, namespace=config.namespace, revision=config.revision)
        counter.idle = False
        path, innermost = app.request_path(
            config,
            ticker,
            drain.Drainer(0.0),
            readiness.Prober(()),
            counter,
            upstream,
            breaker=app.breaker_of(config),
            telemetry=app.telemetry_of(config),
        )
        kept = [layer for layer in path if cast("Any", layer).__qualname__.partition(".")[0] not in without]
        if log >= 0:
            writer = requestlog.Writer(log, loop)
            kept.insert(1, requestlog.write(requestlog.renderer(), app.identity_of(config), writer))
        return app.stack(kept, proxy.forward(innermost))

    return make


def _activators(void: int) -> Iterator[tuple[str, Make]]:
    yield "everything", _activator()
    yield "- turns in a rush", _activator(turns=False)
    yield "+ request metrics", _activator(Observer(measure=True))
    loop = asyncio.get_running_loop()
    writer, render = requestlog.Writer(void, loop), requestlog.renderer()

    def log(exchange: Exchange, identity: requestlog.Identity, seconds: float) -> None:
        writer.line(render(exchange, identity, seconds))

    yield "+ access log", _activator(Observer(log=log))
    yield "nothing", lambda upstream: lambda exchange: exchange.forward(upstream)


def _activator(observer: Observer | None = None, *, turns: bool = True) -> Make:
    """An activator with one route to one pod."""

    def make(upstream: UpstreamAddress) -> Handler:
        key = ("default", "hello-00001")
        rules = [
            {
                "hosts": ["hello.default.example.com"],
                "http": {"paths": [{"splits": [{"serviceName": key[1], "percent": 100}]}]},
            }
        ]
        table = Table()
        table.put({"metadata": {"namespace": key[0], "name": "hello"}, "spec": {"rules": rules}})
        wakes = Wakes()
        front = Proxy(table, wakes, healthy=lambda: None)
        front.observer = observer
        revision = Revision(
            key,
            Settings(response_start_timeout=300.0, idle_timeout=300.0),
            self_ip="127.0.0.1",
            addresses=Addresses(take=lambda _address, _http2: upstream, drop=lambda _address, _http2: None),
            backends=Backends(probe),
            reporter=Reporter("activator-1", lambda _: True, SystemClock()),
            wakes=wakes,
            tenants=Tenants(Turns(asyncio.get_running_loop()) if turns else None),
        )
        revision.healthy(["127.0.0.1:8012"])
        front.revisions[key] = revision
        return front.public

    return make


# time -----------------------------------------------------------------------------------------------------------------

Taken = dict[str, tuple[float, float]]
"""Microseconds by variant: heads that repeat, heads that differ."""


async def _time(ways: Mapping[str, Way], added: bytes, rounds: int) -> Taken:
    """The lowest time of each way over all rounds."""
    alike = [HEAD % (added, 0)] * REQUESTS
    different = [HEAD % (added, number) for number in range(REQUESTS)]
    best = {name: [float("inf"), float("inf")] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            for column, heads in enumerate((alike, different)):
                best[name][column] = min(best[name][column], await _run(way, heads))
    return {name: (alike, different) for name, (alike, different) in best.items()}


async def _run(way: Way, heads: Sequence[bytes]) -> float:
    """Microseconds per request."""
    ask, answer = way.ask, way.answer
    took = 0
    for first in range(0, len(heads), BATCH):
        await asyncio.sleep(0)
        begun = time.thread_time_ns()
        for head in heads[first : first + BATCH]:
            ask(head)
            answer(ANSWER)
        took += time.thread_time_ns() - begun
    if way.said[0] != way.said[0].partition(b"\r\n\r\n")[0] + b"\r\n\r\nhello\n" or b" 200 " not in way.said[0][:16]:
        raise AssertionError(f"not the app's answer: {way.said[0]!r}")
    return took / len(heads) / 1000


def _summarise(report: Report, component: str, taken: Taken) -> None:
    every, bare = taken["everything"], taken["nothing"]
    rows: dict[str, Sequence[float | str]] = {
        f"{component}, everything": every,
        "  of that, a relay without features": bare,
    }
    for name, times in taken.items():
        sign, _, feature = name.partition(" ")
        if sign == "-":
            rows[f"  {feature}"] = tuple(whole - rest for whole, rest in zip(every, times, strict=True))
        elif sign == "+":
            rows[f"  besides: {feature}"] = tuple(more - whole for whole, more in zip(every, times, strict=True))
    report.say(*table(("us/request", "heads differ"), rows, digits=2), "")
    report.samples[component] = taken
    report.summary[component] = {name.strip(): [round(figure, 2) for figure in row] for name, row in rows.items()}  # type: ignore[arg-type]
