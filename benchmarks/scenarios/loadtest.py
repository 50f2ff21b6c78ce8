"""load-test: from zero to 1,000, then 2,000, then 3,000 requests/s that take 100 ms each.

The original runs two minutes at each rate for target-burst-capacity -1 (activator always in the path), 0 and 200, with
containerConcurrency 0, and wants p95 over the whole run, cold start included, within 115 ms, no answer later than 10 s,
no error, and 999 of 1,000 requests answered. Ours is the same with shorter stages, which makes the cold start weigh
more: it is within the first of them.
"""

from benchmarks.load import pace
from benchmarks.platform import platform
from benchmarks.report import Report
from benchmarks.samples import table
from benchmarks.scenarios.passline import PassLine, lines
from benchmarks.scenarios.services import target, work

__all__ = ["measure"]

RATES = (1000.0, 2000.0, 3000.0)
CONNECTIONS = 1500
VARIANTS = {"always": "-1", "zero": "0", "200": "200"}
"""Target burst capacity by the original's names."""


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    seconds = 3.0 if report.options.quick else 6.0
    variants = list(VARIANTS)[:1] if report.options.quick else list(VARIANTS)
    rows = []
    shown: dict[str, list[float | str]] = {}
    async with platform() as running:
        for variant in variants:
            name = f"load-{variant}"
            await running.apply(work(name, scaling={"target-burst-capacity": VARIANTS[variant]}))
            await running.asleep(name)
            load = pace.stages(
                [running.ingress],
                [target(running, name)],
                rates=RATES,
                seconds=seconds,
                connections=CONNECTIONS,
            )
            pods = len(await running.pods(name))
            report.note(
                f"{variant}: p95 {load.p95 * 1000:.1f} ms, max {load.longest:.2f} s, {pods} pods, {load.told_errors()}"
            )
            report.samples[variant] = {**load.to_json(), "pods": pods}
            offered = sum(RATES) * seconds
            shown[name] = [
                *(f"{value * 1000:.1f}" for value in (load.p50, load.p95, load.p99, load.longest)),
                str(load.errors),
                str(pods),
            ]
            scenario = f"load-test/{variant}"
            rows += [
                PassLine(scenario=scenario, metric="p95 ms", bound=115.0).row(load.p95 * 1000),
                PassLine(scenario=scenario, metric="max ms", bound=10_000.0).row(load.longest * 1000),
                PassLine(scenario=scenario, metric="errors", bound=0.0).row(load.errors),
                PassLine(scenario=scenario, metric="share of requests answered", bound=0.999, at_least=True).row(
                    load.requests / offered
                ),
            ]
    report.rows.extend(rows)
    report.say(
        f"load-test: from zero, {', '.join(f'{rate:,.0f}' for rate in RATES)} requests/s for {seconds:.0f} s each",
        *table(("p50 ms", "p95 ms", "p99 ms", "max ms", "errors", "pods"), shown),
        *lines(rows),
    )
