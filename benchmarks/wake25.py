"""Twenty-five sleeping services, one request to each at the same moment; all have to be answered.

Starting that many interpreters at once takes a small machine a while whoever starts them, so the control is just that:
the same number of the same app started bare at once, until each answers.
"""

import asyncio
from collections import Counter

from benchmarks import bare
from benchmarks.client import Answer, ask_nowait
from benchmarks.platform import NotMeasured, Platform, hello, platform
from benchmarks.report import Report
from benchmarks.samples import Summary, table

__all__ = ["measure"]

SERVICES = 25


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    rounds = report.options.samples(full=5, quick=1)
    names = [f"hello-{number:02d}" for number in range(1, SERVICES + 1)]
    woken: list[list[float]] = []
    alone: list[list[float]] = []
    async with platform() as running:
        await running.apply(*(hello(name) for name in names))
        report.note(f"{SERVICES} services are Ready; waiting for them to sleep")
        for number in range(rounds):
            await running.asleep()
            alone.append(bare.start_many(SERVICES))
            await asyncio.sleep(0.5)
            woken.append(await _wake(running, names))
            report.note(
                f"round {number + 1} of {rounds}: last answer after {max(woken[-1]):.2f} s "
                f"(bare apps: {max(alone[-1]):.2f} s)"
            )
    every = [seconds for one in woken for seconds in one]
    rows = {
        "wake, request to last byte": every,
        "control: as many apps started bare": [seconds for one in alone for seconds in one],
    }
    summaries = {name: Summary.of(taken) for name, taken in rows.items()}
    report.samples.update({"woken_s": woken, "alone_s": alone})
    report.summary.update({name: one.to_json(1000) for name, one in summaries.items()})
    report.summary.update({"unit": "ms", "last_of_each_round_s": [round(max(one), 4) for one in woken]})
    report.say(
        f"{SERVICES} sleeping services woken at once, {rounds} rounds, "
        f"{len(every)} of {rounds * SERVICES} answered 200; ms",
        *table(
            ("n", "min", "p50", "p95", "max"),
            {
                name: (str(one.count), *(value * 1000 for value in (one.low, one.p50, one.p95, one.high)))
                for name, one in summaries.items()
            },
        ),
    )


async def _wake(running: Platform, names: list[str]) -> list[float]:
    """Seconds each answer took.

    Raises:
        NotMeasured: a service did not answer, or not with 200.
    """
    answers = await asyncio.gather(
        *(ask_nowait(running.ingress, "/", running.host(name)) for name in names), return_exceptions=True
    )
    good = [answer for answer in answers if isinstance(answer, Answer) and answer.status == 200]
    if len(good) != len(names):
        bad = Counter(str(answer.status) if isinstance(answer, Answer) else repr(answer) for answer in answers)
        raise NotMeasured(f"of {len(names)} sleeping services {len(good)} answered 200: {dict(bad)}")
    return [answer.took for answer in good]
