"""Half an hour of mixed traffic through activator and queue-proxy: what grows, and what is left when it is over.

    generators -> our activator -> our queue-proxies (HTTP/1.1 and h2c) -> backend

In turns, and never more than a fraction of what the proxies carry: small GETs at a constant rate all the time; beside
them posts, large bodies both ways, unary gRPC, gRPC streams and WebSockets, each for a few seconds; and clients that
behave badly: connections that say nothing, heads that end nowhere, bodies and downloads given up half way.

RSS and open descriptors of each proxy are read every ten seconds. When the traffic has stopped for longer than idle
connections are kept, each proxy's own metrics have to say that nothing is held. `-n` is the number of minutes.
"""

import asyncio
import contextlib
import os
import random
import re
import socket
import statistics
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import h2load, pace, wrk
from benchmarks.load.report import Load
from benchmarks.peers import activators, programs, sidecars
from benchmarks.peers.cluster import HTTP1, HTTP2, cluster
from benchmarks.peers.isolation import isolate
from benchmarks.peers.process import Running
from benchmarks.procfs import memory
from benchmarks.report import Report
from benchmarks.samples import table
from benchmarks.scenarios.passline import PassLine, lines

__all__ = ["held", "measure"]

MINUTES = 30
RATE = 200.0
STEP = 10.0
IDLE = 70.0
"""Seconds after the last request; idle connections are kept for 60."""
BIG = 20 * 1024 * 1024
HELD = re.compile(
    r"^(?P<name>[a-z_]*(?:queue_depth|queue_waiting|pool_waiting|pool_connections|server_connections|request_active"
    r"|request_queued|in_flight|waiting|active_requests))(?P<labels>\{[^}]*\})? (?P<value>\S+)$",
    re.MULTILINE,
)
"""Gauges of what is held now, in Prometheus' text."""


async def measure(report: Report) -> None:
    """Load, look, stop, look again."""
    minutes = report.options.samples(full=MINUTES, quick=1)
    for name in ("backend", "pace"):
        programs.built(name)
    if why := isolate():
        report.note(why)
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(sidecars.backend(None))
        queue = stack.enter_context(sidecars.ours(backend.address, None))
        assert queue.http2 is not None
        pods = {HTTP1: queue.address, HTTP2: queue.http2.address}
        place = stack.enter_context(cluster(pods, None))
        activator = stack.enter_context(activators.ours(place, None))
        watched = {"activator": activator, "queue-proxy": queue, "queue-proxy, h2c": queue.http2}
        await _soak(report, watched, activator, minutes * 60.0)


async def _soak(report: Report, watched: Mapping[str, Running], entry: Running, seconds: float) -> None:
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in watched}
    before = {name: _look(one) for name, one in watched.items()}
    traffic = Traffic(entry)
    loading = asyncio.create_task(asyncio.to_thread(traffic.run, seconds))
    begun = time.monotonic()
    while not loading.done():
        await asyncio.sleep(STEP)
        for name, one in watched.items():
            samples[name].append({"at": round(time.monotonic() - begun, 1), **_look(one)})
        if len(samples["activator"]) % 6 == 0:
            told = "; ".join(f"{name} {taken[-1]['rss_mb']:.1f} MB" for name, taken in samples.items())
            report.note(f"{told}; {traffic.answered:,} answers, {traffic.failed} failed")
    await loading
    report.note(f"traffic is over: waiting {IDLE:.0f} s for idle connections to be closed")
    await asyncio.sleep(IDLE)
    after = {name: _look(one) for name, one in watched.items()}
    left = {name: held(_metrics(one)) for name, one in watched.items() if one.admin is not None}
    _tell(report, traffic, samples, before, after, left)


@dataclass
class Traffic:
    """Runs generators one after another in a thread; counts what they were answered."""

    entry: Running
    answered: int = 0
    failed: int = 0
    abandoned: int = 0

    def run(self, seconds: float) -> None:
        """Load for so long."""
        chance = random.Random(4)
        until = time.monotonic() + seconds
        turns: Sequence[Callable[[], None]] = (
            self._posts,
            self._bodies,
            self._unary,
            self._streams,
            self._messages,
            self._hostile,
        )
        while time.monotonic() < until:
            self._gets()
            chance.choice(turns)()

    def _count(self, load: Load) -> None:
        self.answered += load.requests
        self.failed += load.errors

    def _gets(self) -> None:
        entry = self.entry
        self._count(
            pace.stages([entry.address], [(entry.host, "/")], rates=[RATE], seconds=3, connections=64, patience=3)
        )

    def _posts(self) -> None:
        url = f"http://{self.entry.address[0]}:{self.entry.address[1]}/"
        self._count(wrk.run(url, {"Host": self.entry.host}, seconds=1, connections=8, body=65536))

    def _bodies(self) -> None:
        entry = self.entry
        self._count(pace.bulk(entry.address, entry.host, {}, upload=BIG, connections=2))
        self._count(pace.bulk(entry.address, entry.host, {}, path=f"/bytes/{BIG}", connections=2))

    def _unary(self) -> None:
        url = f"http://{self.entry.address[0]}:{self.entry.address[1]}/bench.Echo/Unary"
        assert self.entry.http2 is not None
        headers = {**h2load.GRPC, ":authority": self.entry.http2.host}
        self._count(h2load.run(url, headers, seconds=1, connections=2, streams=4, body=h2load.message(100)))

    def _streams(self) -> None:
        assert self.entry.http2 is not None
        self._count(pace.streams(self.entry.address, self.entry.http2.host, {}, seconds=1, connections=2, each=4))

    def _messages(self) -> None:
        self._count(pace.messages(self.entry.address, self.entry.host, {}, seconds=1, connections=8))

    def _hostile(self) -> None:
        """Forty connections that are given up in four ways, and are closed by us in the end."""
        head = f"POST / HTTP/1.1\r\nHost: {self.entry.host}\r\n".encode()
        says = (
            b"",
            head,
            head + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1000,
            f"GET /bytes/{BIG} HTTP/1.1\r\nHost: {self.entry.host}\r\n\r\n".encode(),
        )
        opened = []
        for number in range(40):
            connection = socket.create_connection(self.entry.address, timeout=5)
            connection.sendall(says[number % len(says)])
            opened.append(connection)
        time.sleep(0.5)
        for connection in opened:
            connection.close()
        self.abandoned += len(opened)


def _look(one: Running) -> dict[str, float]:
    return {
        "rss_mb": round(memory(one.pid).rss / 1e6, 2),
        "descriptors": len(os.listdir(Path("/proc", str(one.pid), "fd"))),
    }


def _metrics(one: Running) -> str:
    assert one.admin is not None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{one.admin[0]}:{one.admin[1]}/metrics", timeout=10) as answer:
        text: bytes = answer.read()
        return text.decode()


def held(text: str) -> dict[str, float]:
    """Gauges of what a proxy holds, by name and labels, of those that are not zero."""
    found = {f"{one['name']}{one['labels'] or ''}": float(one["value"]) for one in HELD.finditer(text)}
    return {name: value for name, value in found.items() if value}


def _tell(
    report: Report,
    traffic: Traffic,
    samples: Mapping[str, Sequence[Mapping[str, float]]],
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    left: Mapping[str, Mapping[str, float]],
) -> None:
    shown: dict[str, list[float | str]] = {}
    rows = []
    for name, taken in samples.items():
        third = max(1, len(taken) // 3)
        middle = statistics.median(sample["rss_mb"] for sample in taken[third : 2 * third] or taken)
        end = statistics.median(sample["rss_mb"] for sample in taken[-third:])
        shown[name] = [
            *(f"{value:.1f}" for value in (before[name]["rss_mb"], middle, end, after[name]["rss_mb"])),
            f"{before[name]['descriptors']:.0f}",
            f"{after[name]['descriptors']:.0f}",
            str(sum(left.get(name, {}).values())),
        ]
        rows += [
            PassLine(scenario=f"soak/{name}", metric="RSS, last third / second third", bound=1.05).row(end / middle),
            PassLine(scenario=f"soak/{name}", metric="descriptors left over", bound=0.0).row(
                max(0.0, after[name]["descriptors"] - before[name]["descriptors"])
            ),
        ]
        if name in left:
            rows.append(
                PassLine(scenario=f"soak/{name}", metric="held at the end, by its metrics", bound=0.0).row(
                    sum(left[name].values())
                )
            )
    failures: dict[str, Any] = {
        "answered": traffic.answered,
        "failed": traffic.failed,
        "abandoned_connections": traffic.abandoned,
        "held_at_the_end": left,
        "before": before,
        "after": after,
    }
    rows.append(PassLine(scenario="soak", metric="failed requests", bound=0.0).row(traffic.failed))
    report.summary.update(failures)
    report.samples.update(samples)
    report.rows.extend(rows)
    report.say(
        f"soak: {traffic.answered:,} answers, {traffic.failed} failed, {traffic.abandoned} connections given up",
        *table(("RSS at start", "middle", "end", "after", "fds before", "after", "held"), shown),
        *(f"held by {name}: {dict(what)}" for name, what in left.items() if what),
        *lines(rows),
    )
