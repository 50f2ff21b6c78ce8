"""A test bed for what a whole platform would hide: one activator's data path, its pods and its clients, each a process.

    python -m benchmarks.bed app PORT DELAY_MS             an app and its queue-proxy's answer to probes, in one
    python -m benchmarks.bed activator FILE                routes, queues, pods and pool as in production; no API server
    python -m benchmarks.bed load FILE                     requests at a rate (or as fast as they are answered)

The activator is the real one from the listener to the pool, but for where its routes come from; `fair: false` leaves
out the turns (`kncore.net.overload`), to show what they do. Clients count from when a request was due, so that a slow
server is not asked less often: an open loop. A request that finds all connections busy is one that failed.
"""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import uvloop

from benchmarks.ports import free_port
from benchmarks.procfs import cpu_seconds, memory, pin
from benchmarks.samples import percentile

__all__ = ["Bed", "Load", "Service", "Taken", "bed", "hurry", "prefer"]


@dataclass(frozen=True, kw_only=True)
class Service:
    """A revision with one pod."""

    namespace: str
    delay_ms: float = 0.0
    """How long its app takes to answer, asleep."""
    limit: int = 0
    """Requests at once per pod."""

    @property
    def host(self) -> str:
        return f"hello.{self.namespace}.localhost"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one client process does."""

    host: str
    connections: int
    rate: float = 0.0
    """Requests per second, due at random moments with that mean; 0: each connection asks again when it was answered."""
    seconds: float = 5.0
    warm: float = 0.5
    """Not counted, of the beginning."""
    within: float = 1.0
    """An answer that takes longer is not useful: it does not count as good."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What came of it."""

    due: int
    """Requests that were due (asked, in a closed loop)."""
    good: int
    """Answered 200 in time."""
    late: int
    """Answered 200, too late."""
    statuses: Mapping[str, int]
    failed: int
    """Connections that broke under a request."""
    turned_away: int
    """Requests that were due while all connections had one: nobody is kept waiting by the client."""
    seconds: float
    latencies: Mapping[str, float]
    """p50, p99, p99.9 and max of those answered 200, seconds."""
    refusals: Mapping[str, float]
    """The same of those answered 503."""

    @property
    def goodput(self) -> float:
        return self.good / self.seconds


class Bed:
    """Processes on two processors: the activator alone on the second, everything else on the first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[subprocess.Popen[bytes]] = []
        self.activator: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._loads = 0
        processors = sorted(os.sched_getaffinity(0))
        self.others = {processors[0]}
        self.ours = {processors[-1]}

    def start(self, services: Sequence[Service], *, fair: bool = True) -> None:
        """Start apps and activator, and wait until it answers for all of them."""
        pods = []
        for service in services:
            port = free_port()
            self._spawn(self.others, "app", str(port), str(service.delay_ms))
            pods.append({**asdict(service), "address": f"127.0.0.1:{port}"})
        self.port = free_port()
        file = self.directory / "activator.json"
        file.write_text(json.dumps({"port": self.port, "fair": fair, "pods": pods}))
        self.activator = self._spawn(self.ours, "activator", str(file))
        for service in services:
            found = self.load(Load(host=service.host, connections=1, rate=20, seconds=1.0, warm=0.0))[0]
            if not found.good:
                raise RuntimeError(f"{service.host} does not answer: {found}")

    def load(self, *loads: Load, urgent: int | None = None) -> list[Taken]:
        """Run these clients at the same time.

        Args:
            urgent: of this one, let the processor's scheduler run it before all others where that is permitted, so
                that what is measured is the server's delay rather than its own.
        """
        started = [self.begin(load) for load in loads]
        if urgent is not None:
            hurry(started[urgent].pid)
        return self.end(*started)

    def begin(self, load: Load, *, port: int | None = None) -> "subprocess.Popen[bytes]":
        """Start one client; of something else than the activator with a `port`."""
        self._loads += 1
        file = self.directory / f"load-{self._loads}.json"
        file.write_text(json.dumps({**asdict(load), "port": port or self.port}))
        return self._spawn(self.others, "load", str(file), stdout=subprocess.PIPE)

    def end(self, *clients: "subprocess.Popen[bytes]") -> list[Taken]:
        """What came of clients that were begun, when they are through."""
        made = []
        for client in clients:
            out, _ = client.communicate(timeout=120)
            self.processes.remove(client)
            made.append(Taken(**json.loads(out)))
        return made

    @property
    def cpu(self) -> float:
        """Seconds the activator ran so far."""
        assert self.activator is not None
        return cpu_seconds([self.activator.pid])

    @property
    def rss(self) -> int:
        """Bytes of memory the activator has."""
        assert self.activator is not None
        return memory(self.activator.pid).rss

    def _spawn(self, processors: set[int], *arguments: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-P", "-m", "benchmarks.bed", *arguments], stdout=stdout)
        pin([child.pid], processors)
        prefer(child.pid)
        self.processes.append(child)
        return child

    def close(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(10)
        self.processes.clear()


@contextlib.contextmanager
def bed(services: Sequence[Service], *, fair: bool = True) -> Iterator[Bed]:
    """A running test bed."""
    with tempfile.TemporaryDirectory() as directory:
        made = Bed(Path(directory))
        try:
            made.start(services, fair=fair)
            yield made
        finally:
            made.close()


def prefer(pid: int) -> None:
    """Have a process disturbed less by those that are no part of the bed; where that is not permitted, they are
    measured too.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, -15)


def hurry(pid: int) -> bool:
    """Run a process before all ordinary ones; False where that is not permitted."""
    try:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
    except (OSError, AttributeError):
        return False
    return True


# the app --------------------------------------------------------------------------------------------------------------

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello world\n"
PROBED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nqueue"


class _App(asyncio.Protocol):
    """Answers every GET."""

    delay = 0.0
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if b"K-Network-Probe: queue" in data:
            self.transport.write(PROBED)
            self.transport.close()
        elif self.delay:
            asyncio.get_running_loop().call_later(self.delay, self._answer)
        else:
            self.transport.write(ANSWER * data.count(b"\r\n\r\n"))

    def _answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


async def app(port: int, delay: float) -> None:
    """Serve for ever."""
    _App.delay = delay
    await asyncio.get_running_loop().create_server(_App, "127.0.0.1", port, backlog=4096)
    await asyncio.get_running_loop().create_future()


# the activator --------------------------------------------------------------------------------------------------------


async def activator(settings: Mapping[str, Any]) -> None:
    """Serve for ever."""
    from activator.app import Proxy
    from activator.backends import Backends, Endpoints
    from activator.probe import probe
    from activator.reporter import Reporter
    from activator.revision import Addresses, Revision, Settings
    from activator.routes import Table
    from activator.tenants import Tenants
    from activator.upstreams import Upstreams
    from activator.wakes import Wakes
    from kncore.clock import SystemClock
    from kncore.net.overload import Turns
    from kncore.net.pool import Pool, PoolLimits
    from kncore.net.server import Server
    from kncore.net.ticker import Ticker

    loop = asyncio.get_running_loop()
    ticker = Ticker()
    async with Pool(PoolLimits(idle=1000, idle_per_upstream=1000), ticker=ticker) as pool, asyncio.TaskGroup() as group:
        upstreams: Upstreams[Any] = Upstreams(pool)
        backends, wakes = Backends(probe), Wakes()
        reporter = Reporter("activator-1", lambda frame: True, SystemClock())
        table = Table()
        proxy = Proxy(table, wakes, healthy=lambda: None)
        tenants = Tenants(Turns(loop) if settings["fair"] else None)
        group.create_task(backends.run())
        group.create_task(reporter.run())
        for pod in settings["pods"]:
            key = (pod["namespace"], "hello-1")
            paths = [{"splits": [{"serviceName": "hello-1", "percent": 100}]}]
            rules = [{"hosts": [f"hello.{key[0]}.localhost"], "http": {"paths": paths}}]
            table.put({"metadata": {"namespace": key[0], "name": "hello"}, "spec": {"rules": rules}})
            made = Revision(
                key,
                Settings(container_concurrency=pod["limit"]),
                self_ip="127.0.0.1",
                addresses=Addresses(take=upstreams.take, drop=upstreams.drop),
                backends=backends,
                reporter=reporter,
                wakes=wakes,
                tenants=tenants,
            )
            proxy.revisions[key] = made
            backends.add(key, made, early=True)
            backends.update(key, Endpoints(ready=frozenset([pod["address"]])))
        await Server(proxy.public, ticker=ticker).listen("127.0.0.1", settings["port"])
        await loop.create_future()


# the client -----------------------------------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """One request at a time; connects again when it is closed."""

    transport: asyncio.Transport | None = None

    def __init__(self, client: "_Client") -> None:
        self.client = client
        self.due = 0.0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.client.free(self)

    def ask(self, due: float) -> None:
        assert self.transport is not None
        self.due = due
        self.transport.write(self.client.request)

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data if self.buffer else data
        head = data.find(b"\r\n\r\n")
        if head < 0 or len(data) < head + 4 + _length(data[:head]):
            self.buffer = data
            return
        self.buffer = b""
        due, self.due = self.due, 0.0
        self.client.answered(due, data[9:12].decode())
        if b"Connection: close" in data[:head]:
            return
        self.client.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.client.lost(self)


def _length(head: bytes) -> int:
    start = head.lower().find(b"content-length:")
    return int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0


class _Client:
    """Sends what is due on whatever connection is free."""

    def __init__(self, load: Load, port: int) -> None:
        self.settings = load
        self.port = port
        self.request = f"GET / HTTP/1.1\r\nHost: {load.host}\r\n\r\n".encode()
        self.idle: list[_Connection] = []
        self.statuses: Counter[str] = Counter()
        self.good: list[float] = []
        self.refused: list[float] = []
        self.failed = self.due = self.turned_away = 0
        self.begun = self.counting = self.over = float("inf")
        self.connecting: set[asyncio.Task[None]] = set()

    def free(self, connection: _Connection) -> None:
        now = time.perf_counter()
        if now >= self.over:
            return
        if self.settings.rate or self.begun == float("inf"):
            self.idle.append(connection)
        else:
            self.due += now >= self.counting
            connection.ask(now)

    def send(self, due: float) -> None:
        self.due += due >= self.counting
        while self.idle:
            connection = self.idle.pop()
            if connection.transport is not None:
                connection.ask(due)
                return
        self.turned_away += due >= self.counting

    def answered(self, due: float, status: str) -> None:
        if self.counting <= due < self.over:
            took = time.perf_counter() - due
            self.statuses[status] += 1
            if status == "200":
                self.good.append(took)
            else:
                self.refused.append(took)

    def lost(self, connection: _Connection) -> None:
        if connection.due:
            self.failed += self.counting <= connection.due < self.over
            connection.due = 0.0
        if time.perf_counter() < self.over:
            self.connect(connection)

    def connect(self, connection: _Connection) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(connection))
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)

    async def _connect(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        while time.perf_counter() < self.over:
            try:
                await loop.create_connection(lambda: connection, "127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return

    async def run(self) -> Taken:
        settings = self.settings
        for number in range(settings.connections):
            self.connect(_Connection(self))
            if number % 64 == 63:
                await asyncio.sleep(0.005)
        await asyncio.gather(*self.connecting)
        self.begun = time.perf_counter()
        self.counting = self.begun + settings.warm
        self.over = self.begun + settings.seconds
        if settings.rate:
            due = self.begun
            while due < self.over:
                now = time.perf_counter()
                while due <= now:
                    # sent when the timer allows, which is a matter of this client, not of the server
                    self.send(now if now - due < 0.002 else due)
                    due += random.expovariate(settings.rate)
                await asyncio.sleep(min(0.001, max(0.0, due - now)) if settings.rate > 500 else due - now)
        else:
            idle, self.idle = self.idle, []
            for connection in idle:
                self.free(connection)
            await asyncio.sleep(settings.seconds)
        await asyncio.sleep(min(settings.within, 2.0))
        return Taken(
            due=self.due,
            good=sum(took <= settings.within for took in self.good),
            late=sum(took > settings.within for took in self.good),
            statuses=dict(self.statuses),
            failed=self.failed,
            turned_away=self.turned_away,
            seconds=self.over - self.counting,
            latencies=_percentiles(self.good),
            refusals=_percentiles(self.refused),
        )


def _percentiles(samples: Sequence[float]) -> dict[str, float]:
    if not samples:
        return {}
    return {f"p{rank:g}": percentile(samples, rank) for rank in (50, 90, 99, 99.9, 100)}


async def _main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["app", port, delay]:
            await app(int(port), float(delay) / 1000)
        case ["activator", file]:
            await activator(json.loads(Path(file).read_text()))
        case ["load", file]:
            settings = json.loads(Path(file).read_text())
            port = settings.pop("port")
            print(json.dumps(asdict(await _Client(Load(**settings), port).run())), flush=True)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    from kncore.runtime import settle_memory

    settle_memory()
    uvloop.run(_main(sys.argv[1:]))
