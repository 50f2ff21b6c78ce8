"""Proxies of one kind taking turns under every load.

For each load all proxies take turns, round after round, every other round backwards, so that drift of the machine
meets all; a row's ratio is the median of the rounds' ratios. A proxy that cannot be started, or does not carry a load,
is left out of it and said to be.
"""

import contextlib
import os
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

from benchmarks.goals import GOALS, ORIGINALS
from benchmarks.load.report import NoTool
from benchmarks.loads import LOADS, NotCarried, Setting, Workload
from benchmarks.nginx import NoNginx
from benchmarks.peers import programs
from benchmarks.peers.process import Address, NotStarted, Running
from benchmarks.peers.programs import NotBuilt
from benchmarks.platform import NotMeasured
from benchmarks.procfs import memory
from benchmarks.report import Report
from benchmarks.rows import NOT_COMPARED, Row, compare, significant
from benchmarks.samples import table

__all__ = ["ABSENT", "Contest", "goal_lines", "processors"]

Start = Callable[[Address, int | None], AbstractContextManager[Running]]
ABSENT = (NotBuilt, NotStarted, NoNginx, NoTool)
PARTS = frozenset({"memory", *(load.name for load in LOADS)})
JUDGED = frozenset(load for load, _, _ in GOALS)
"""Loads with goals get more time."""
CONNECTIONS = (64, 1000)
"""At which memory is read; besides at rest."""


def processors() -> tuple[int | None, int | None]:
    """The one of generator and backend, and the one of the proxy; None where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[1]) if len(available) > 1 else (None, None)


class Contest:
    """Proxies of one kind, taking turns under every load.

    Args:
        component: of ours, as rows call it.
        starts: how to start each in front of the backend; ours first.
        backend: where it is.
    """

    def __init__(
        self,
        report: Report,
        component: str,
        starts: Mapping[str, Start],
        backend: Address,
        *,
        loads: Sequence[Workload] = LOADS,
    ) -> None:
        self._report = report
        self._component = component
        self._ours = next(iter(starts))
        self._starts = starts
        self._narrow = frozenset({self._ours, *ORIGINALS, "nginx"})
        self._backend = backend
        self._loads = loads
        self._rounds = report.options.samples(full=3, quick=1)
        self._quick = report.options.quick
        self._generator, self._proxy = processors()
        self._peaks: dict[str, float] = {}
        self.samples: dict[str, dict[str, list[dict[str, float]]]] = {}
        """load -> proxy -> one sample per round."""

    def run(self) -> list[Row]:
        """Take the samples, tell about them, and return the rows.

        Raises:
            NotMeasured: ours did not start.
        """
        with ExitStack() as stack:
            proxies = self._started(stack)
            if self._ours not in proxies:
                raise NotMeasured(f"{self._ours} did not start")
            self._memory(proxies)
            for load in self._loads:
                if self._report.options.chosen(load.name, PARTS):
                    self._take(load, proxies)
        return self._tell()

    def _started(self, stack: ExitStack) -> dict[str, Running]:
        running: dict[str, Running] = {}
        for name, start in self._starts.items():
            try:
                running[name] = stack.enter_context(start(self._backend, self._proxy))
            except ABSENT as exc:
                self._report.absent(name, str(exc))
        return running

    def _memory(self, proxies: Mapping[str, Running]) -> None:
        """At rest as started, then the largest while loaded."""
        if not self._report.options.chosen("memory", PARTS):
            return
        loads = {load.name: load for load in self._loads}
        for name, proxy in proxies.items():
            sample = {"RSS MB, at rest": memory(proxy.pid).rss / 1e6}
            for count in CONNECTIONS:
                with _watched(proxy.pid) as highest:
                    try:
                        loads[f"get-{count}"].sample(proxy, Setting(seconds=1.0, processor=self._generator))
                    except (NotCarried, NoTool, subprocess.CalledProcessError) as exc:
                        self._report.absent(name, f"memory at {count} connections: {exc}")
                        continue
                sample[f"RSS MB, {count:,} connections"] = max(highest) / 1e6
            self.samples.setdefault("memory", {})[name] = [sample]

    def _take(self, load: Workload, proxies: Mapping[str, Running]) -> None:
        taking = {name: proxy for name, proxy in proxies.items() if load.widely or name in self._narrow}
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in taking}
        for number in range(-1, self._rounds):
            for name in list(taking) if number % 2 == 0 else list(reversed(taking)):
                rate = self._rate(load, name)
                if rate is None:
                    taking.pop(name)
                    continue
                seconds = 2.0 if number >= 0 and not self._quick and load.name in JUDGED else 1.0
                setting = Setting(seconds=seconds, processor=self._generator, rate=rate)
                if number < 0 and load.share:
                    continue  # warm already
                try:
                    sample = load.sample(taking[name], setting)
                except (NotCarried, NoTool, NotBuilt, subprocess.SubprocessError) as exc:
                    self._report.absent(name, f"{load.name}: {str(exc).splitlines()[0][:300]}")
                    taking.pop(name)
                    continue
                if number >= 0:
                    taken[name].append(sample)
        # a proxy that failed half way has no figure
        self.samples[load.name] = {name: taken[name] for name in taking if taken[name]}
        if load.name == "get-64":
            for name, samples in self.samples[load.name].items():
                self._peaks[name] = statistics.median(sample["requests/s"] for sample in samples)
        self._note(load)

    def _rate(self, load: Workload, name: str) -> float | None:
        """What an open loop offers; None where no peak is known. 0 for closed loops."""
        if not load.share:
            return 0.0
        of = next((one for one in ORIGINALS if one in self._starts), "") if load.of_original else name
        peak = self._peaks.get(of)
        return None if peak is None else peak * load.share

    def _note(self, load: Workload) -> None:
        told = []
        for name, samples in self.samples[load.name].items():
            metric = next(iter(samples[0]))
            told.append(f"{name} {statistics.median(sample[metric] for sample in samples):,.0f}")
        first = next((next(iter(samples[0])) for samples in self.samples[load.name].values()), "")
        self._report.note(f"{self._component}/{load.name}, {first}: {', '.join(told) or 'nobody'}")

    def _tell(self) -> list[Row]:
        rows: list[Row] = []
        texts = {load.name: load.text for load in self._loads} | {"memory": "memory (RSS)"}
        for load, taken in self.samples.items():
            ours = taken.get(self._ours, [])
            for name, theirs in taken.items():
                if name != self._ours:
                    rows += compare(self._component, load, name, ours, theirs)
            self._report.say("", f"{self._component}, {load}: {texts[load]}", *_lines(taken))
        goals = [row for row in rows if row.goal is not None]
        self._report.rows.extend(rows)
        self._report.samples[self._component] = self.samples
        self._report.summary[self._component] = {"rounds": self._rounds}
        self._report.summary["peers"] = programs.versions()
        if goals:
            self._report.say("", *goal_lines(goals))
        return rows


def _lines(taken: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Medians by proxy, and the spread of the first figure."""
    if not taken:
        return ["nobody carried it"]
    metrics = [
        metric for metric in next(iter(taken.values()))[0] if metric not in NOT_COMPARED or metric == "offered/s"
    ]
    rows: dict[str, list[float | str]] = {}
    for name, samples in taken.items():
        first = [sample[metrics[0]] for sample in samples]
        middle = [statistics.median(sample.get(metric, float("nan")) for sample in samples) for metric in metrics]
        shown: list[float | str] = [f"{significant(value) or 0:,g}" for value in middle]
        rows[name] = [*shown, f"{significant(min(first), 3):,g} to {significant(max(first), 3):,g}"]
    return table((*metrics, "(range)"), rows)


def goal_lines(rows: Sequence[Row]) -> list[str]:
    """Goals and whether they are met."""
    cells: dict[str, Sequence[float | str]] = {
        f"{row.scenario}, {row.metric}, beside {row.peer}": (
            f"{significant(row.ours):,g}",
            f"{significant(row.theirs):,g}",
            f"{significant(row.ratio, 3):g}",
            str(row.goal),
            "met" if row.met else "MISSED",
        )
        for row in rows
    }
    return table(("ours", "theirs", "ratio", "goal", ""), cells)


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[list[int]]:
    """The process's RSS, read ten times a second meanwhile. Bytes."""
    seen = [memory(pid).rss]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            seen.append(memory(pid).rss)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
