"""The evaluation loop on a fake clock: every revision every two seconds, and at once when it is woken."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from autoscaler.collect import Collector, Settings
from autoscaler.decide import TICK, Spec
from autoscaler.explain import KEPT, Explanations
from autoscaler.multiscaler import BATCH, MultiScaler, Result
from autoscaler.scale import UNKNOWN
from kncore.testing import FakeClock
from kncore.wire import Stat

KEY = ("default", "hello-1")
SPEC = Spec(total=10.0, target=7.0)
WAITING = Stat(pod_name="activator", average_concurrent_requests=1.0, request_count=1.0)
IDLE = Stat(pod_name="activator")


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.collector = Collector()
        self.explanations = Explanations()
        self.ready: int | None = 0
        self.changed: list[tuple[str, str]] = []
        self.scaler = MultiScaler(
            self.collector, lambda key: self.ready, self.explanations, self.clock, self.changed.append
        )

    def collect(self, *keys) -> None:
        for key in keys or (KEY,):
            self.collector.configure(
                key, Settings(stable_window=60.0, panic_window=6.0, scrape_target="x"), self.clock.wall()
            )

    def stat(self, stat: Stat, key=KEY) -> None:
        self.collector.record(key, self.clock.wall(), stat)
        self.scaler.poke(key, stat)

    def asleep(self) -> None:
        """Bring the revision to a desired scale of zero."""
        self.collect()
        self.scaler.ensure(KEY, SPEC)
        self.collector.record(KEY, self.clock.wall(), IDLE)
        self.pass_time(TICK)
        assert self.scaler.ensure(KEY, SPEC).desired == 0
        self.changed.clear()

    def pass_time(self, seconds: float) -> None:
        """Time passes, and the loop does what is due."""
        self.clock.advance(seconds)
        while self.scaler._run_due() == 0.0:
            pass


@pytest.fixture
def world() -> World:
    return World()


def test_new_decider_knows_nothing_but_its_burst_capacity(world) -> None:
    assert world.scaler.ensure(KEY, SPEC) == Result(UNKNOWN, 10 - 211)
    assert world.changed == []


def test_every_revision_is_evaluated_once_per_tick(world) -> None:
    keys = [("default", f"r-{number}") for number in range(300)]
    world.collect(*keys)
    for key in keys:
        world.scaler.ensure(key, SPEC)
        world.collector.record(key, world.clock.wall(), IDLE)
    world.pass_time(TICK)
    first = world.scaler.statistics().evaluations
    assert first >= 300
    for _ in range(40):
        world.pass_time(TICK / 8)
    assert world.scaler.statistics().evaluations == first + 5 * 300


def test_phases_are_spread(world) -> None:
    keys = [("default", f"r-{number}") for number in range(100)]
    world.collect(*keys)
    for key in keys:
        world.scaler.ensure(key, SPEC)
        world.collector.record(key, world.clock.wall(), IDLE)
    world.pass_time(TICK)
    for _ in range(10):
        before = world.scaler.statistics().evaluations
        world.pass_time(TICK / 10)
        assert world.scaler.statistics().evaluations - before <= 25, "never all at once"


def test_pause_of_the_process_is_not_made_up_for(world) -> None:
    world.collect()
    world.scaler.ensure(KEY, SPEC)
    world.collector.record(KEY, world.clock.wall(), IDLE)
    world.pass_time(50)
    assert world.scaler.statistics().evaluations == 1


def test_changes_are_announced_and_repetitions_are_not(world) -> None:
    world.collect()
    world.scaler.ensure(KEY, SPEC)
    for expected in (1, 1, 1):
        world.collector.record(KEY, world.clock.wall(), WAITING)
        world.pass_time(TICK)
        assert world.scaler.ensure(KEY, SPEC).desired == expected
    assert world.changed == [KEY]


def test_sign_of_the_burst_capacity_is_a_change_too(world) -> None:
    spec = Spec(total=100.0, target=70.0, target_burst_capacity=211.0)
    world.collect()
    world.ready = 2
    world.scaler.ensure(KEY, spec)
    world.collector.record(KEY, world.clock.wall(), WAITING)
    world.pass_time(TICK)
    world.changed.clear()
    world.ready = 3
    world.collector.record(KEY, world.clock.wall(), WAITING)
    world.pass_time(TICK)
    assert world.scaler.ensure(KEY, spec).excess_burst_capacity > 0
    assert world.changed == [KEY]


def test_no_data_changes_nothing(world) -> None:
    world.asleep()
    world.pass_time(100)
    invalid = world.scaler.statistics().invalid
    assert invalid >= 1
    world.ready = None
    world.stat(WAITING)
    assert world.scaler.statistics().invalid == invalid + 1
    assert world.scaler.ensure(KEY, SPEC).desired == 0
    assert world.changed == []


def test_sleeping_revision_is_woken_by_the_stat_itself(world) -> None:
    world.asleep()
    world.stat(WAITING)
    assert world.changed == [KEY], "without waiting for a tick"
    assert world.scaler.ensure(KEY, SPEC).desired == 1
    world.stat(WAITING)
    assert world.scaler.statistics().pokes == 1, "who is awake is not poked"


def test_idle_stats_wake_nobody(world) -> None:
    world.asleep()
    world.stat(IDLE)
    world.stat(Stat(pod_name="evil", average_concurrent_requests=float("nan")))
    world.stat(Stat(pod_name="evil", average_concurrent_requests=-1.0))
    world.scaler.poke(("default", "unknown"), WAITING)
    assert (world.scaler.statistics().pokes, world.changed) == (0, [])


def test_after_a_restart_nobody_waits_for_the_first_tick(world) -> None:
    world.collect()
    world.scaler.ensure(KEY, SPEC)
    world.stat(WAITING)
    assert world.scaler.ensure(KEY, SPEC).desired == 1
    assert world.changed == [KEY]


def test_revision_is_measured_in_its_metric(world) -> None:
    world.collect()
    spec = Spec(metric="rps", total=200.0, target=140.0)
    world.scaler.ensure(KEY, spec)
    busy = Stat(pod_name="activator", average_concurrent_requests=1.0, request_count=300.0)
    world.collector.record(KEY, world.clock.wall(), busy)
    world.pass_time(TICK)
    assert world.scaler.ensure(KEY, spec).desired == 3


def test_spec_follows_the_autoscaler(world) -> None:
    world.asleep()
    world.collector.record(KEY, world.clock.wall(), Stat(average_concurrent_requests=10.0))
    world.scaler.ensure(KEY, Spec(total=2.0, target=1.0))
    world.pass_time(TICK)
    assert world.scaler.ensure(KEY, SPEC).desired > 2, "with the old spec it would be 1"


def test_forgotten_revision_is_evaluated_no_more(world) -> None:
    world.asleep()
    world.scaler.forget(KEY)
    world.scaler.forget(KEY)
    before = world.scaler.statistics().evaluations
    world.pass_time(TICK)
    world.stat(WAITING)
    assert world.scaler.statistics().evaluations == before
    assert world.scaler.revisions() == []
    assert world.explanations.show(KEY) is None


def test_revision_made_anew_has_one_place_in_the_loop(world) -> None:
    world.asleep()
    world.scaler.forget(KEY)
    world.scaler.ensure(KEY, SPEC)
    world.collector.record(KEY, world.clock.wall(), IDLE)
    before = world.scaler.statistics().evaluations
    world.pass_time(TICK)
    assert world.scaler.statistics().evaluations == before + 1
    assert len(world.scaler._due) == 1


@pytest.mark.looptime
async def test_loop_sleeps_until_something_is_due_and_wakes_for_what_is_new(world) -> None:
    loop = asyncio.get_running_loop()
    world.clock.monotonic = loop.time  # type: ignore[method-assign]
    world.clock.wall = lambda: 1_700_000_000.0 + loop.time()  # type: ignore[method-assign]
    async with running(world.scaler):
        await asyncio.sleep(10)
        world.collect()
        world.scaler.ensure(KEY, SPEC)
        world.collector.record(KEY, world.clock.wall(), WAITING)
        await asyncio.sleep(TICK + 0.01)
        assert world.scaler.statistics().evaluations == 1
        await asyncio.sleep(10 * TICK)
        assert world.scaler.statistics().evaluations == 11


@pytest.mark.looptime
async def test_others_get_their_turn_between_batches(world) -> None:
    keys = [("default", f"r-{number}") for number in range(BATCH * 3)]
    world.collect(*keys)
    for key in keys:
        world.scaler.ensure(key, SPEC)
        world.collector.record(key, world.clock.wall(), IDLE)
    world.clock.advance(TICK)
    seen: list[int] = []
    async with running(world.scaler):
        while world.scaler.statistics().evaluations < BATCH * 3:
            await asyncio.sleep(0)
            seen.append(world.scaler.statistics().evaluations)
    assert {BATCH, 2 * BATCH} <= set(seen)


@asynccontextmanager
async def running(scaler: MultiScaler):
    task = asyncio.get_running_loop().create_task(scaler.run())
    yield
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# explanations ---------------------------------------------------------------------------------------------------------


def test_decisions_are_kept_with_their_inputs(world) -> None:
    world.asleep()
    world.stat(WAITING)
    shown = world.explanations.show(KEY)
    assert (shown["namespace"], shown["revision"], shown["want"]) == ("default", "hello-1", None)
    assert [decision["desired"] for decision in shown["decisions"]] == [0, 1]
    last = shown["decisions"][-1]
    assert last["observed"] == {"ready": 0, "stable": pytest.approx(1 / 3, abs=0.2), "panic": last["observed"]["panic"]}
    assert last["bound"] in {"metric", "panic"}


def test_same_decision_again_is_kept_once_with_its_latest_time(world) -> None:
    world.asleep()
    for _ in range(5):
        world.collector.record(KEY, world.clock.wall(), IDLE)
        world.pass_time(TICK)
    decisions = world.explanations.show(KEY)["decisions"]
    assert len(decisions) == 1
    assert decisions[0]["at"] == world.clock.wall()


def test_wakes_are_timed(world) -> None:
    world.asleep()
    world.explanations.woken(KEY, 1.0)
    world.explanations.woken(KEY, 2.0)
    world.stat(WAITING)
    world.explanations.scaled(KEY, 1, world.clock.wall() + 0.1)
    world.explanations.scaled(KEY, 2, world.clock.wall() + 9)
    (wake,) = world.explanations.show(KEY)["wakes"]
    assert wake == {"reported": 1.0, "decided": world.clock.wall(), "scaled": world.clock.wall() + 0.1}
    assert world.explanations.show(KEY)["want"] == 2


def test_explanations_are_bounded(world) -> None:
    for number in range(KEPT * 3):
        world.explanations.woken(KEY, number)
        world.explanations._revisions[KEY].wakes[-1].decided = number
    assert len(world.explanations.show(KEY)["wakes"]) == KEPT
