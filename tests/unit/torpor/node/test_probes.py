"""Timing and thresholds of probes, on a fake clock."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from torpor.embedded.node.probes import Outcome, Pace, Spec, Tally, watch

pytestmark = pytest.mark.looptime


class App:
    """An application whose answer depends on the time, and a log of attempts and verdicts."""

    def __init__(self, answers: Callable[[float], bool]) -> None:
        self._answers = answers
        self.attempts: list[float] = []
        self.verdicts: list[tuple[float, bool]] = []
        self.failures = 0

    async def check(self, deadline: float) -> Outcome:
        now = asyncio.get_running_loop().time()
        self.attempts.append(now)
        return Outcome(ok=self._answers(now), message="no")

    def tell(self, good: bool, outcome: Outcome) -> None:
        self.verdicts.append((round(asyncio.get_running_loop().time(), 3), good))

    def failed(self, outcome: Outcome) -> None:
        self.failures += 1

    async def watch(self, spec: Spec, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await watch(
                    spec, self.check, self.tell, started_at=asyncio.get_running_loop().time(), failed=self.failed
                )
        except TimeoutError:
            return


def spec(kind: Any, **probe: Any) -> Spec:
    return Spec.parse(kind, {"httpGet": {"port": 80}, **probe})


async def test_first_success_is_noticed_within_milliseconds_whatever_the_period() -> None:
    app = App(lambda now: now >= 0.437)
    await app.watch(spec("readiness", periodSeconds=10), 5)
    ((when, good),) = app.verdicts
    assert good
    assert 0.437 <= when <= 0.450
    assert app.failures == 1  # only attempts a period apart count


async def test_initial_delay_is_waited_for_and_then_the_probe_is_eager() -> None:
    app = App(lambda now: True)
    await app.watch(spec("readiness", initialDelaySeconds=5, periodSeconds=10), 20)
    assert app.verdicts == [(5.0, True)]
    assert app.attempts == [5.0, 15.0]


async def test_after_the_first_success_the_period_and_the_thresholds_are_the_users() -> None:
    app = App(lambda now: not 9 <= now < 31)
    await app.watch(spec("readiness", periodSeconds=5, failureThreshold=3, successThreshold=2), 60)
    # up at 0 and 5; down at 10, 15, 20; up again at 35 and 40
    assert app.verdicts == [(5.0, True), (20.0, False), (40.0, True)]


async def test_eager_attempts_do_not_use_up_a_startup_probes_threshold() -> None:
    app = App(lambda now: now >= 25)
    await app.watch(spec("startup", periodSeconds=10, failureThreshold=4), 60)
    assert app.verdicts[0][1]
    assert app.verdicts[0][0] == pytest.approx(25, abs=0.03)


async def test_startup_probe_fails_after_its_threshold_of_periods() -> None:
    late = App(lambda now: False)
    await late.watch(spec("startup", periodSeconds=10, failureThreshold=3), 60)
    assert late.verdicts == [(20.0, False)]
    assert late.failures == 3


async def test_liveness_is_never_eager_and_fails_after_its_threshold() -> None:
    app = App(lambda now: now < 12)
    await app.watch(spec("liveness", periodSeconds=5, failureThreshold=2), 24)
    assert app.attempts == [0.0, 5.0, 10.0, 15.0, 20.0]
    assert (20.0, False) in app.verdicts


async def test_probe_that_starts_processes_is_repeated_less_often() -> None:
    app = App(lambda now: now >= 1)
    await app.watch(Spec.parse("readiness", {"exec": {"command": ["x"]}}), 3)
    assert len(app.attempts) <= 12


async def test_many_pods_that_wake_at_once_probe_less_often_each() -> None:
    pace = Pace()
    apps = [App(lambda now: now >= 0.5) for _ in range(24)]
    async with asyncio.timeout(1):
        probes = (watch(spec("readiness"), app.check, app.tell, started_at=0.0, pace=pace) for app in apps)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*probes), 0.7)
    assert all(good for app in apps for _, good in app.verdicts)
    assert sum(len(app.attempts) for app in apps) < 300  # alone each would make 50
    assert pace.eager == 0


def test_zeros_mean_the_defaults() -> None:
    made = Spec.parse("readiness", {"tcpSocket": {"port": 1}, "periodSeconds": 0, "timeoutSeconds": 0})
    assert (made.period, made.timeout, made.success_threshold, made.failure_threshold) == (10.0, 1.0, 1, 3)


def test_tally_counts_only_runs_of_the_same_result() -> None:
    tally = Tally(spec("readiness", failureThreshold=2, successThreshold=2))
    assert [tally.add(ok) for ok in (True, False, True, True, False, False, True)] == [
        None,
        None,
        None,
        True,
        None,
        False,
        None,
    ]
