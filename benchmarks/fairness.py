"""One tenant beside another that sends a hundred times as much: what the small one notices.

A small tenant sends 100 requests/s. Its p99 is taken alone, and beside a neighbour (wrk) who keeps 256 connections
busy as fast as they are answered, which is all that the activator can do and a hundred times the small one's rate.
With the turns of `kncore.net.overload` and without them; with an app that answers at once, where every microsecond of
the activator shows, and with one that takes 10 ms. All rounds interleaved; ratios are taken within a round.

The apps, both clients and the kernel's part of it share one processor, the activator has the other. The small
tenant's client and app run before others there, as if on a machine of their own: so what is measured is the
activator's delay.
"""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.bed import Load, Service, Taken, bed, hurry
from benchmarks.load import wrk
from benchmarks.report import Report
from benchmarks.samples import table
from benchmarks.scenarios.passline import PassLine

__all__ = ["measure"]

RATE = 100.0
CONNECTIONS = 8
NEIGHBOUR = 256
DELAYS = (0.0, 10.0)
BESIDE = 1.2
"""What the small tenant's p99 may grow by."""


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    rounds = report.options.samples(full=5, quick=1)
    seconds = 2.0 if report.options.quick else 8.0
    rows: dict[str, Sequence[float | str]] = {}
    for delay in DELAYS:
        taken: dict[bool, list[tuple[Taken, Taken, float]]] = {True: [], False: []}
        for number in range(rounds):
            for fair in (True, False) if number % 2 == 0 else (False, True):
                taken[fair].append(_round(delay, seconds, fair=fair))
        for fair, samples in taken.items():
            name = f"app {delay:g} ms, " + ("turns" if fair else "no turns")
            rows[name] = _row(samples)
            report.samples[name] = [
                {"alone": _facts(alone), "beside": _facts(beside), "neighbour": rate} for alone, beside, rate in samples
            ]
            report.summary[name] = {
                "p99_ratio": round(_median(samples, "p99"), 3),
                "p50_ratio": round(_median(samples, "p50"), 3),
                "neighbour_per_second": round(statistics.median(rate for _, _, rate in samples)),
            }
            if fair:
                line = PassLine(scenario=f"fairness/app {delay:g} ms", metric="p99 beside / p99 alone", bound=BESIDE)
                report.rows.append(line.row(_median(samples, "p99")))
            report.note(f"{name}: p99 beside / alone {_median(samples, 'p99'):.2f}")
    columns = ("alone p50 ms", "p99", "beside p50 ms", "p99", "p99 ratio", "neighbour/s", "times as much")
    report.say(
        f"{RATE:g} requests/s of one tenant beside {NEIGHBOUR} busy connections of another, {rounds} rounds",
        *table(columns, rows, digits=2),
    )


def _round(delay: float, seconds: float, *, fair: bool) -> tuple[Taken, Taken, float]:
    """(alone, beside the neighbour, the neighbour's requests per second)."""
    services = (Service(namespace="small", delay_ms=delay), Service(namespace="large"))
    small = Load(host=services[0].host, connections=CONNECTIONS, rate=RATE, seconds=seconds)
    with bed(services, fair=fair) as running, ThreadPoolExecutor(1) as thread:
        hurry(running.processes[0].pid)  # the small tenant's app
        (alone,) = running.load(small, urgent=0)
        url, host = f"http://127.0.0.1:{running.port}/", {"Host": services[1].host}
        (first,) = running.others
        neighbour = thread.submit(wrk.run, url, host, seconds=seconds + 4, connections=NEIGHBOUR, processor=first)
        time.sleep(0.5)
        (beside,) = running.load(small, urgent=0)
        return alone, beside, neighbour.result().rate


def _median(samples: Sequence[tuple[Taken, Taken, float]], rank: str) -> float:
    return statistics.median(beside.latencies[rank] / alone.latencies[rank] for alone, beside, _ in samples)


def _row(samples: Sequence[tuple[Taken, Taken, float]]) -> Sequence[float]:
    def middle(which: int, rank: str) -> float:
        return statistics.median(sample[:2][which].latencies[rank] for sample in samples) * 1000

    neighbour = statistics.median(rate for _, _, rate in samples)
    return (
        middle(0, "p50"),
        middle(0, "p99"),
        middle(1, "p50"),
        middle(1, "p99"),
        _median(samples, "p99"),
        neighbour,
        neighbour / RATE,
    )


def _facts(taken: Taken) -> dict[str, Any]:
    return {
        "due": taken.due,
        "good": taken.good,
        "statuses": dict(taken.statuses),
        "failed": taken.failed,
        "seconds": taken.seconds,
        "latency_ms": {rank: round(value * 1000, 4) for rank, value in taken.latencies.items()},
    }
