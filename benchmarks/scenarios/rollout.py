"""rollout-probe: steady load while a new revision takes over.

The original sends 1,000 requests/s of 100 ms to a service with containerConcurrency 30 and 50 to 100 pods, changes its
template after 30 s, and wants p95 within 110 ms and a rate within 1 %: through the queue-proxy, through the activator,
and with a linear rollout over 240 s. On two processors the new revision's pods start beside the load, so there are 5 of
them instead of 50; with requests that wait for 100 ms, 1,000 of them need no more than four.
"""

import asyncio
import copy

from benchmarks.load import pace
from benchmarks.load.report import Load
from benchmarks.platform import Platform, platform
from benchmarks.report import Report
from benchmarks.samples import table
from benchmarks.scenarios.passline import PassLine, lines
from benchmarks.scenarios.services import settle, target, work

__all__ = ["measure"]

RATE = 1000.0
PODS = 5
CONCURRENCY = 30
CONNECTIONS = 600
ROLLOUT = "serving.knative.dev/rollout-duration"


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    seconds = 8.0 if report.options.quick else 20.0
    variants: dict[str, dict[str, str]] = {"activator": {}, "activator, linear": {ROLLOUT: f"{seconds * 0.6:.0f}s"}}
    rows = []
    shown: dict[str, list[float | str]] = {}
    async with platform() as running:
        for number, (variant, annotations) in enumerate(variants.items()):
            load, revisions = await _roll(running, f"roll-{number}", annotations, seconds)
            report.note(f"{variant}: p95 {load.p95 * 1000:.1f} ms, {revisions} revisions, {load.told_errors()}")
            report.samples[variant] = {**load.to_json(), "revisions": revisions}
            shown[variant] = [
                f"{load.rate:,.1f}",
                *(f"{value * 1000:.1f}" for value in (load.p50, load.p95, load.p99, load.longest)),
                str(load.errors),
            ]
            scenario = f"rollout-probe/{variant}"
            rows += [
                PassLine(scenario=scenario, metric="p95 ms", bound=110.0).row(load.p95 * 1000),
                PassLine(scenario=scenario, metric="share of requests answered", bound=0.99, at_least=True).row(
                    load.requests / (RATE * seconds)
                ),
            ]
    report.rows.extend(rows)
    report.say(
        f"rollout-probe: {RATE:,.0f} requests/s for {seconds:.0f} s, a new revision of {PODS} pods after a fifth of it",
        *table(("answers/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors"), shown),
        *lines(rows),
    )


async def _roll(running: Platform, name: str, annotations: dict[str, str], seconds: float) -> tuple[Load, int]:
    """Load a service and change it; the load's figures, and how many revisions have pods at the end."""
    scaling = {"min-scale": str(PODS), "max-scale": str(2 * PODS), "target-burst-capacity": "-1"}
    service = work(name, scaling=scaling, annotations=annotations, concurrency=CONCURRENCY)
    await running.apply(service)
    await settle()
    loading = asyncio.create_task(
        asyncio.to_thread(
            pace.stages,
            [running.ingress],
            [target(running, name)],
            rates=[RATE],
            seconds=seconds,
            connections=CONNECTIONS,
        )
    )
    await asyncio.sleep(seconds / 5)
    changed = copy.deepcopy(service)
    changed["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "VERSION", "value": "2"}]
    await running.api.apply(changed, "default")
    load = await loading
    revisions = {pod["metadata"]["labels"]["serving.knative.dev/revision"] for pod in await running.pods(name)}
    await running.remove(name)
    return load, len(revisions)
