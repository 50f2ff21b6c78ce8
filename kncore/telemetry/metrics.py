"""Metrics: everything bounded has `statistics()`, and metrics are mostly a view of those.

A component declares its metrics once, as `Metric` values in a table (the reference page is checked against it), and
registers sources: functions that read statistics and yield points. Sources run when somebody scrapes or a push is due,
so counting costs nothing in between. Only distributions need memory of their own: `Distribution`, a list of counters
that an observation costs a bisection and two additions.

    QUEUED = Metric("kn.revision.request.queued", "gauge", "{request}", "Requests that wait.", ("kn.revision.name",))
    registry = Registry({"service.name": "activator"})
    registry.add(lambda: ((QUEUED, (name,), throttler.waiting) for name, throttler in throttlers.items()))

Names, units and attributes are OpenTelemetry's, as Knative documents them. `kncore.telemetry.exposition` spells them as
Prometheus wants them, `kncore.telemetry.otlp` pushes them as they are. No library is needed for either the counting or
the text, because a sidecar has no megabytes to spare for one.
"""

import gc
import os
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "COUNT_BUCKETS",
    "LATENCY_BUCKETS",
    "PROCESS",
    "WAKE_BUCKETS",
    "Distribution",
    "Family",
    "Kind",
    "Metric",
    "Point",
    "Registry",
    "Source",
    "process",
]

REST: Final = 500
"""Points collected between two rests: about half a millisecond."""

Kind = Literal["gauge", "counter", "histogram"]

LATENCY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds in seconds; OpenTelemetry's advice for request durations, and what Knative uses."""
WAKE_BUCKETS: Final = (*LATENCY_BUCKETS, 15.0, 30.0, 60.0, 120.0, 300.0)
"""For what may have to pull an image first, seconds."""
COUNT_BUCKETS: Final = (0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1e3, 2.5e3, 5e3, 7.5e3, 1e4)
"""The default of OpenTelemetry's SDKs; body sizes have no advice of their own."""


@dataclass(frozen=True, kw_only=False)
class Metric:
    """What is measured; the same value for every point of it."""

    name: str
    """OpenTelemetry name, e.g. `kn.revision.pods.desired`."""
    kind: Kind
    unit: str
    """UCUM, as OpenTelemetry has it: `s`, `By`, `1`, or in braces what is counted: `{request}`."""
    help: str
    """One sentence."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes; every point has their values in this order, "" for one that does not apply."""
    buckets: tuple[float, ...] = ()
    """Rising upper bounds of a histogram; a last one without bound is added."""


class Distribution:
    """Counts of observed values by bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value; one that equals a bound is within it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Values observed."""
        return sum(self.counts)


Point = tuple[Metric, tuple[str, ...], float | Distribution]
"""A metric, the values of its attributes, and how much; a Distribution for a histogram."""
Source = Callable[[], Iterable[Point]]
Family = tuple[Metric, Sequence[tuple[tuple[str, ...], float | Distribution]]]
"""A metric with all its points."""


class Registry:
    """What a process tells about itself.

    Args:
        resource: attributes of the process, by OpenTelemetry names; on every push, and in the text as `target_info`.
    """

    def __init__(self, resource: Mapping[str, str] | None = None) -> None:
        self.resource = dict(resource or {})
        self.started = time.time()
        """Unix time from which counters count."""
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Have `source()` called at every collection."""
        self._sources.append(source)

    def collect(self) -> list[Family]:
        """What the sources say now, by metric in the order of first appearance."""
        work = self.collecting()
        while True:
            try:
                next(work)
            except StopIteration as end:
                found: list[Family] = end.value
                return found

    def collecting(self) -> Generator[None, None, list[Family]]:
        """As `collect`, with rests: a thousand revisions are 30 ms of work, for which nobody's request shall wait.

        Sources go on after a rest, so they must not iterate what may change meanwhile.
        """
        families: dict[str, tuple[Metric, list[tuple[tuple[str, ...], float | Distribution]]]] = {}
        points = 0
        for source in self._sources:
            for metric, attributes, value in source():
                family = families.get(metric.name)
                if family is None:
                    family = families[metric.name] = (metric, [])
                family[1].append((attributes, value))
                points += 1
                if not points % REST:
                    yield
        return list(families.values())


_CPU: Final = Metric("process.cpu", "counter", "s", "Processor time of the process.")
_RESIDENT: Final = Metric("process.resident_memory", "gauge", "By", "Memory of the process that is in RAM.")
_OPEN: Final = Metric("process.open_fds", "gauge", "{descriptor}", "Open descriptors.")
_START: Final = Metric("process.start_time", "gauge", "s", "Unix time at which the process began to count.")
_COLLECTIONS: Final = Metric(
    "cpython.gc.collections", "counter", "{collection}", "Runs of the garbage collector.", ("cpython.gc.generation",)
)
PROCESS: Final = (_CPU, _RESIDENT, _OPEN, _START, _COLLECTIONS)
"""Spelled so that Prometheus sees the names that every one of its client libraries uses."""


def process(started: float) -> Source:
    """The process itself; memory and descriptors only where /proc tells them.

    Args:
        started: Unix time.
    """
    page = os.sysconf("SC_PAGE_SIZE")

    def read() -> Iterator[Point]:
        yield _CPU, (), time.process_time()
        yield _START, (), started
        if sys.platform == "linux":
            with open("/proc/self/statm", "rb") as file:
                yield _RESIDENT, (), float(int(file.read().split()[1]) * page)
            yield _OPEN, (), float(len(os.listdir("/proc/self/fd")) - 1)
        for generation, stats in enumerate(gc.get_stats()):
            yield _COLLECTIONS, (str(generation),), float(stats["collections"])

    return read
