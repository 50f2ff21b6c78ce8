"""One service sleeps and is woken by one request, again and again: what the platform adds to the app's own start.

The app's own start is measured between the wakes (`benchmarks.bare`), so a slow moment of the machine meets both. A
wake's overhead is its total minus the median of the app's own starts; on a machine whose speed changes, the total minus
the own start measured just before it tells more. The parts of each wake, as the platform's components noted them, say
where it went. The control is a request to the same app running by itself all the time.
"""

import asyncio
import time
from typing import Any

from benchmarks import bare
from benchmarks.client import Answer, ask
from benchmarks.platform import NotMeasured, Platform, hello, platform
from benchmarks.procfs import cpu_seconds
from benchmarks.report import Report
from benchmarks.samples import Summary, table
from kncore.api import meta
from torpor.wakes import PARTS, ColdStart, compose

__all__ = ["measure"]

REVISION = "hello-00001"
RECORD_WITHIN = 8.0
"""Seconds; the node may tell of the app's start as late as with its first readiness probe, after 5 s."""
NAMES = {
    "decide": "decide: request -> decision",
    "scale": "scale: -> written",
    "pod": "pod: -> processes started",
    "app": "app: -> answers its probe",
    "probe": "probe: -> activator knows",
    "forward": "forward: -> first byte",
}


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    count = report.options.samples(full=50, quick=3)
    totals: list[float] = []
    own: list[float] = []
    controls: list[float] = []
    wakes: list[dict[str, Any]] = []
    cpu: dict[str, list[float]] = {}
    with bare.control() as alone:
        async with platform() as running:
            await running.apply(hello())
            report.note("hello is Ready; waiting for it to sleep")
            components = running.components()
            for number in range(count):
                await running.asleep("hello")
                own.append(bare.start_once())
                controls.append(ask(alone, "/", "localhost").took)
                time.sleep(0.2)  # blocking on purpose: nothing of ours may run meanwhile
                before = {name: cpu_seconds([pid]) for name, pid in components.items()}
                answer = ask(running.ingress, "/", running.host("hello"))
                for name, pid in components.items():
                    cpu.setdefault(name, []).append(cpu_seconds([pid]) - before[name])
                if answer.status != 200:
                    raise NotMeasured(f"a sleeping service answered {answer.status}: {answer.body!r}")
                totals.append(answer.took)
                cold, record = await _record(running, answer)
                wakes.append(record)
                parts = "  ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in cold.parts.items())
                report.note(
                    f"wake {number + 1} of {count}: {answer.took * 1000:.1f} ms"
                    f" (app alone {own[-1] * 1000:.1f})  {parts}"
                )
    _summarise(report, totals, own, controls, wakes, cpu)


async def _record(running: Platform, answer: Answer) -> tuple[ColdStart, dict[str, Any]]:
    """What the components noted of the wake that was just answered."""
    deadline = time.monotonic() + RECORD_WITHIN
    while time.monotonic() < deadline:
        wakes = [
            wake
            for wake in await running.inspector.wakes("default", REVISION)
            if wake["requestedAt"] >= answer.at and wake.get("firstByteAt")
        ]
        if wakes:
            pods = await running.pods("hello")
            decisions = await running.inspector.decisions("default", REVISION)
            cold = compose(wakes[-1], decisions, pods)
            if "app" in cold.parts or time.monotonic() > deadline - 0.5:
                kept = {
                    "requested": wakes[-1]["requestedAt"],
                    "activator": wakes[-1],
                    "autoscaler": (decisions or {}).get("wakes", [])[-1:],
                    "node": [meta.annotations(pod).get("torpor.dev/timeline") for pod in pods],
                    "total_s": cold.total,
                    "parts_s": dict(cold.parts),
                }
                return cold, kept
        await asyncio.sleep(0.25)
    raise NotMeasured("the activator kept no record of a wake")


def _summarise(
    report: Report,
    totals: list[float],
    own: list[float],
    controls: list[float],
    wakes: list[dict[str, Any]],
    cpu: dict[str, list[float]],
) -> None:
    alone = Summary.of(own).p50
    overheads = [total - alone for total in totals]
    inside = [wake["total_s"] - wake["parts_s"]["app"] for wake in wakes if "app" in wake["parts_s"]]
    parts = {name: [wake["parts_s"][name] for wake in wakes if name in wake["parts_s"]] for name in PARTS}
    rows = {
        "wake, request to last byte": totals,
        "app's own start": own,
        "overhead (wake - median own start)": overheads,
        "same, each less the start before it": [total - one for total, one in zip(totals, own, strict=True)],
        "same, by the parts (wake - app part)": inside,
        **{f"  {NAMES.get(name, name)}": taken for name, taken in parts.items()},
        **{f"CPU of {name} until the answer": taken for name, taken in cpu.items() if name != "supervisor"},
        "control: request to the app alone": controls,
    }
    report.samples.update(
        {"total_s": totals, "own_s": own, "control_s": controls, "overhead_s": overheads, "cpu_s": cpu, "wakes": wakes}
    )
    summaries = {name: Summary.of(taken) for name, taken in rows.items() if taken}
    report.summary.update({name.strip(): one.to_json(1000) for name, one in summaries.items()})
    report.summary["unit"] = "ms"
    report.say(
        f"cold start of examples/hello, {len(totals)} wakes; ms",
        *table(
            ("n", "min", "p50", "p95", "p99", "max"),
            {
                name: (str(one.count), *(value * 1000 for value in (one.low, one.p50, one.p95, one.p99, one.high)))
                for name, one in summaries.items()
            },
        ),
    )
