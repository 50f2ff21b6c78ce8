"""What other clients notice while one is hostile: their p99 before and during each attack over HTTP/1.1.

A bystander sends 200 requests/s through the activator, alone and then beside an attacker with a processor's worth of
malice (`benchmarks.attackers`). The activator has a processor; attackers, bystander and app share the other, where the
bystander runs first, so that what it notices is the activator's doing.
"""

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.attackers import ATTACKS
from benchmarks.bed import Bed, Load, Service, Taken, bed, hurry
from benchmarks.procfs import pin
from benchmarks.report import Report
from benchmarks.samples import table

__all__ = ["measure"]

RATE = 200.0
SCALES = {"slow heads": 2000, "slow bodies": 500, "connection flood": 11_000, "slow readers": 500, "resets": 50}
"""Connections of an attack; else 20."""


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    rounds = report.options.samples(full=3, quick=1)
    seconds = 2.0 if report.options.quick else 6.0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 65_536)), hard))
    rows: dict[str, Sequence[float | str]] = {}
    for name in ATTACKS:
        taken = [_round(name, seconds) for _ in range(rounds)]
        rows[name] = (
            *(_middle(one.latencies[rank] for one, _, _, _ in taken) * 1000 for rank in ("p50", "p99")),
            *(_middle(one.latencies[rank] for _, one, _, _ in taken) * 1000 for rank in ("p50", "p99")),
            sum(one.failed + one.turned_away + one.due - one.good - one.late for _, one, _, _ in taken),
            _middle(cpu for _, _, cpu, _ in taken) * 100,
            _middle(rss for _, _, _, rss in taken) / 1e6,
        )
        report.samples[name] = [[_facts(alone), _facts(beside), cpu, rss] for alone, beside, cpu, rss in taken]
        report.summary[name] = {
            "p99_alone_ms": round(float(rows[name][1]), 3),
            "p99_during_ms": round(float(rows[name][3]), 3),
        }
        report.note(f"{name}: p99 {rows[name][1]:.2f} ms alone, {rows[name][3]:.2f} ms during")
    columns = ("alone p50 ms", "p99", "during p50 ms", "p99", "not served", "cpu %", "MB more")
    report.say(
        f"a bystander at {RATE:g} requests/s beside each attack, {rounds} rounds", *table(columns, rows, digits=2)
    )


def _round(name: str, seconds: float) -> tuple[Taken, Taken, float, float]:
    """(alone, during the attack, the activator's share of its processor, bytes it grew by)."""
    service = Service(namespace="small")
    load = Load(host=service.host, connections=8, rate=RATE, seconds=seconds)
    with bed([service]) as running:
        hurry(running.processes[0].pid)  # the app: an attack on the activator shall not be one on it
        (alone,) = running.load(load, urgent=0)
        rss, cpu = running.rss, running.cpu
        attacker = _begin(running, name, service.host)
        try:
            (during,) = running.load(load, urgent=0)
            spent, grown = running.cpu - cpu, running.rss - rss
        finally:
            attacker.kill()
            attacker.wait()
    return alone, during, spent / (seconds + load.warm), float(max(grown, 0))


def _begin(running: Bed, name: str, host: str) -> "subprocess.Popen[bytes]":
    scale = SCALES.get(name, 20)
    command = [sys.executable, "-P", "-m", "benchmarks.attackers", name, str(running.port), host, str(scale)]
    attacker = subprocess.Popen(command, preexec_fn=lambda: os.nice(10))
    pin([attacker.pid], running.others)
    return attacker


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)


def _facts(taken: Taken) -> dict[str, Any]:
    return {
        "due": taken.due,
        "good": taken.good,
        "failed": taken.failed,
        "turned_away": taken.turned_away,
        "latency_ms": {rank: round(value * 1000, 4) for rank, value in taken.latencies.items()},
    }
