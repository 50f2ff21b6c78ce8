"""scale-from-zero: 1, 5, 25 and 100 sleeping services, one request to each at the same moment.

The original measures from the request to the right 200 and wants p95 and maximum within 50 ms for 1 and 5 services,
2 s and 5 s for 25, 25 s for 100. The first line is its published one, and below what starting a pod takes on any
Kubernetes; here it is below what starting the app takes by itself, which the control shows: as many of the same app
started bare at once.
"""

import asyncio

from benchmarks import bare
from benchmarks.client import Answer, ask_nowait
from benchmarks.platform import NotMeasured, Platform, hello, platform
from benchmarks.report import Report
from benchmarks.samples import percentile, table
from benchmarks.scenarios.passline import PassLine, lines

__all__ = ["measure"]

LINES = {1: (50.0, 50.0), 5: (50.0, 50.0), 25: (2000.0, 5000.0), 100: (25_000.0, 25_000.0)}
"""Services -> p95 and maximum, ms."""
ROUNDS = {1: 3, 5: 2, 25: 1, 100: 1}


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    sizes = [1, 5] if report.options.quick else list(LINES)
    rows = []
    shown: dict[str, list[float | str]] = {}
    async with platform() as running:
        names: list[str] = []
        for size in sizes:
            more = [f"zero-{number:03d}" for number in range(len(names), size)]
            await _apply(running, more)
            names += more
            woken: list[float] = []
            alone: list[float] = []
            for _ in range(1 if report.options.quick else ROUNDS[size]):
                await running.asleep()
                alone += bare.start_many(size)
                await asyncio.sleep(0.5)
                woken += await _wake(running, names)
            p95, longest = percentile(woken, 95) * 1000, max(woken) * 1000
            control = percentile(alone, 95) * 1000
            report.note(f"{size} services: p95 {p95:,.0f} ms, max {longest:,.0f} ms (bare apps: p95 {control:,.0f} ms)")
            report.samples[f"woken_{size}_s"] = woken
            report.samples[f"alone_{size}_s"] = alone
            shown[f"{size} services"] = [
                str(len(woken)),
                *(f"{value:,.0f}" for value in (percentile(woken, 50) * 1000, p95, longest, control)),
            ]
            bounds = LINES[size]
            rows += [
                PassLine(scenario=f"scale-from-zero/{size}", metric="p95 ms", bound=bounds[0]).row(p95),
                PassLine(scenario=f"scale-from-zero/{size}", metric="max ms", bound=bounds[1]).row(longest),
            ]
    report.rows.extend(rows)
    report.say(
        "scale-from-zero: sleeping services woken at once",
        *table(("n", "p50 ms", "p95 ms", "max ms", "control p95 ms"), shown),
        *lines(rows),
    )


async def _apply(running: Platform, names: list[str]) -> None:
    """In groups: each service starts a pod once, to show that it can, and two processors start only so many."""
    for first in range(0, len(names), 10):
        await running.apply(*(hello(name) for name in names[first : first + 10]))


async def _wake(running: Platform, names: list[str]) -> list[float]:
    """Seconds each answer took.

    Raises:
        NotMeasured: a service did not answer 200.
    """
    answers = await asyncio.gather(
        *(ask_nowait(running.ingress, "/", running.host(name)) for name in names), return_exceptions=True
    )
    good = [answer for answer in answers if isinstance(answer, Answer) and answer.status == 200]
    if len(good) != len(names):
        raise NotMeasured(f"of {len(names)} sleeping services {len(good)} answered 200")
    return [answer.took for answer in good]
