"""Three times more requests than the activator can serve: what is still served, how soon, and what it costs in memory.

First the most that it serves: many connections that ask again as soon as they are answered. Then requests at three
times that rate, whatever happens to them (an open loop): those answered 200 within a second count as good. Who is
refused is told so (503, `Retry-After`) rather than left waiting; how soon is part of the result. Last the memory, with
ten thousand connections that do nothing and two thousand that are busy.

So that one processor can bring up three times as much as the other can serve, the activator here has a quarter of its
processor: three other processes that only count take the rest.
"""

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.bed import Bed, Load, Service, Taken, bed, prefer
from benchmarks.procfs import pin
from benchmarks.report import Report
from benchmarks.samples import table
from benchmarks.scenarios.passline import PassLine

__all__ = ["measure"]

TIMES = 3.0
RIVALS = 3
WITHIN = 1.0
KEPT = 0.9
"""Share of the peak that is to be served beyond it."""


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    rounds = report.options.samples(full=3, quick=1)
    seconds = 4.0 if report.options.quick else 10.0
    connections = 500 if report.options.quick else 1000
    taken = [_round(seconds, connections) for _ in range(rounds)]
    ratio = statistics.median(over.goodput / peak.goodput for peak, over in taken)
    rows = {}
    for number, (peak, over) in enumerate(taken, 1):
        rows[f"round {number}"] = (
            peak.goodput,
            over.due / over.seconds,
            over.goodput,
            over.goodput / peak.goodput,
            over.latencies.get("p50", 0.0) * 1000,
            over.latencies.get("p99", 0.0) * 1000,
            sum(count for status, count in over.statuses.items() if status == "503") / over.seconds,
            over.refusals.get("p99", 0.0) * 1000,
            float(over.failed),
        )
    report.samples["overload"] = [{"peak": _facts(peak), "over": _facts(over)} for peak, over in taken]
    line = PassLine(scenario="overload/3x", metric="goodput / peak", bound=KEPT, at_least=True)
    report.rows.append(line.row(ratio))
    held = _memory(report)
    report.summary.update(goodput_of_peak=round(ratio, 3), memory=held)
    columns = ("peak/s", "due/s", "good/s", "of peak", "p50 ms", "p99 ms", "refused/s", "p99 ms", "broken")
    report.say(
        f"{TIMES:g} times the peak over {connections} connections, good within {WITHIN:g} s, {rounds} rounds",
        *table(columns, rows, digits=2),
        f"goodput under overload: {ratio:.2f} of the peak",
        *(f"memory, {name}: {value}" for name, value in held.items()),
    )


def _round(seconds: float, connections: int) -> tuple[Taken, Taken]:
    service = Service(namespace="default")
    with bed([service]) as running, _rivals(running):
        (peak,) = running.load(Load(host=service.host, connections=64, seconds=seconds, within=WITHIN))
        rate = TIMES * peak.goodput
        (over,) = running.load(
            Load(host=service.host, connections=connections, rate=rate, seconds=seconds, warm=1.0, within=WITHIN)
        )
    return peak, over


@contextlib.contextmanager
def _rivals(running: Bed) -> Iterator[None]:
    """Processes that want the activator's processor as much as it does."""
    rivals = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(RIVALS)]
    pin([rival.pid for rival in rivals], running.ours)
    for rival in rivals:
        prefer(rival.pid)
    try:
        yield
    finally:
        for rival in rivals:
            rival.kill()
        for rival in rivals:
            rival.wait(10)


def _memory(report: Report) -> dict[str, str]:
    """MB of the activator at rest, with idle connections, and with busy ones."""
    idle, busy = (2_000, 500) if report.options.quick else (9_900, 2_000)
    service = Service(namespace="default", delay_ms=50.0)
    made = {}
    for name, load in {
        f"{idle} idle connections": Load(host=service.host, connections=idle, rate=1.0, seconds=5.0),
        f"{busy} busy connections": Load(host=service.host, connections=busy, seconds=5.0),
    }.items():
        with bed([service]) as running:
            before = running.rss
            client = running.begin(load)
            most, deadline = 0, time.monotonic() + 60
            while client.poll() is None and time.monotonic() < deadline:
                most = max(most, running.rss)
                time.sleep(0.1)
            (taken,) = running.end(client)
            each = (most - before) / load.connections / 1024
            made[name] = f"{before / 1e6:.0f} MB before, {most / 1e6:.0f} MB at most: {each:.1f} KiB each"
            report.samples[name] = {"before": before, "most": most, "load": _facts(taken)}
    return made


def _facts(taken: Taken) -> dict[str, Any]:
    return {
        "due": taken.due,
        "good": taken.good,
        "late": taken.late,
        "statuses": dict(taken.statuses),
        "failed": taken.failed,
        "seconds": taken.seconds,
        "latency_ms": {rank: round(value * 1000, 3) for rank, value in taken.latencies.items()},
        "refusal_ms": {rank: round(value * 1000, 3) for rank, value in taken.refusals.items()},
    }
