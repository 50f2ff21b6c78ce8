"""real-traffic: many services whose requests, answers and starts are of every size.

The original sends 300 requests/s for 5 minutes to ten services: requests take 0 to 5 s, answers have 10 to 50,000
bytes, apps take 0 to 10 s to start, burst capacities are such that the activator is in the path or not. It wants no
error, and the planned rate. Ours is the same, shorter, with starts up to 3 s; random numbers are the same every time.
"""

import random

from benchmarks.load import pace
from benchmarks.platform import platform
from benchmarks.report import Report
from benchmarks.samples import table
from benchmarks.scenarios.passline import PassLine, lines
from benchmarks.scenarios.services import target, work

__all__ = ["measure"]

RATE = 300.0
SERVICES = 10
LONGEST_MS = 5000
LONGEST_START = 3.0
LARGEST = 50_000
CONNECTIONS = 3000
PATIENCE = 20.0


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    seconds = 6.0 if report.options.quick else 30.0
    chance = random.Random(4)
    names = [f"real-{number}" for number in range(SERVICES)]
    services = [
        work(
            name,
            scaling={"target-burst-capacity": chance.choice(["-1", "0", "200"])},
            environment={"START": f"{chance.uniform(0, LONGEST_START):.2f}"},
        )
        for name in names
    ]
    async with platform() as running:
        await running.apply(*services)
        targets = [
            target(
                running, chance.choice(names), sleep_ms=chance.randint(0, LONGEST_MS), size=chance.randint(10, LARGEST)
            )
            for _ in range(int(RATE * seconds))
        ]
        load = pace.stages(
            [running.ingress],
            targets,
            rates=[RATE],
            seconds=seconds,
            connections=CONNECTIONS,
            patience=PATIENCE,
        )
        pods = len(await running.pods())
    report.note(f"{load.requests} answers, {load.told_errors()}, {pods} pods at the end")
    report.samples["real-traffic"] = {**load.to_json(), "pods": pods}
    rows = [
        PassLine(scenario="real-traffic", metric="errors", bound=0.0).row(load.errors),
        PassLine(scenario="real-traffic", metric="requests/s", bound=RATE, at_least=True).row(round(load.rate)),
    ]
    report.rows.extend(rows)
    shown = [f"{load.rate:,.1f}", *(f"{value * 1000:,.0f}" for value in (load.p50, load.p95, load.longest)), str(pods)]
    report.say(
        f"real-traffic: {RATE:,.0f} requests/s for {seconds:.0f} s to {SERVICES} services, each taking 0 to 5 s",
        *table(("answers/s", "p50 ms", "p95 ms", "max ms", "pods"), {"all services": shown}),
        *lines(rows),
    )
