"""What the autoscaler hears, and when."""

import asyncio

import pytest

from activator.reporter import FRAME, Reporter, Statistics
from kncore.testing import FakeClock
from kncore.wire import decode_messages

KEY = ("default", "hello-1")


class Heard:
    """The stream; `up` says whether it takes frames."""

    def __init__(self) -> None:
        self.up = True
        self.frames: list[list[tuple[str, float, float]]] = []

    def send(self, frame: bytes) -> bool:
        if self.up:
            decoded = decode_messages(frame)
            assert {stat.pod_name for _, _, stat in decoded} == {"activator-1"}
            assert {stat.timestamp for _, _, stat in decoded} == {0}, "the receiver stamps"
            self.frames.append(
                [(name, round(stat.average_concurrent_requests, 6), stat.request_count) for _, name, stat in decoded]
            )
        return self.up

    def take(self) -> list[list[tuple[str, float, float]]]:
        frames, self.frames = self.frames, []
        return frames


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def reporter(heard: Heard, clock: FakeClock) -> Reporter:
    return Reporter("activator-1", heard.send, clock)


def test_first_request_is_told_at_once_and_not_twice(reporter, heard, clock) -> None:
    first = reporter.arrive(KEY)
    assert heard.take() == [[("hello-1", 1, 1)]]
    second = reporter.arrive(KEY)
    assert heard.take() == []
    clock.advance(1)
    reporter.report()
    assert heard.take() == [[("hello-1", 1, 1)]], "of two in flight, one was told already"
    clock.advance(1)
    reporter.report()
    assert heard.take() == [[("hello-1", 2, 0)]]
    first.leave()
    second.leave()


def test_short_request_never_reports_less_than_nothing(reporter, heard, clock) -> None:
    reporter.arrive(KEY).leave()
    clock.advance(1)
    reporter.report()
    assert heard.take() == [[("hello-1", 1, 1)], [("hello-1", 0, 0)]]


def test_concurrency_is_averaged_over_the_period(reporter, heard, clock) -> None:
    held = reporter.arrive(KEY)
    clock.advance(1)
    reporter.report()
    heard.take()
    clock.advance(0.25)
    held.leave()
    clock.advance(0.75)
    reporter.report()
    assert heard.take() == [[("hello-1", 0.25, 0)]]


def test_idle_revision_is_reported_once_with_zero_and_then_dropped(reporter, heard, clock) -> None:
    reporter.arrive(KEY).leave()
    for _ in range(3):
        clock.advance(1)
        reporter.report()
    assert heard.take() == [[("hello-1", 1, 1)], [("hello-1", 0, 0)]]
    assert reporter.statistics().revisions == 0
    reporter.arrive(KEY).leave()
    assert heard.take() == [[("hello-1", 1, 1)]], "the next request is a first one again"


def test_revision_with_a_request_is_never_dropped(reporter, heard, clock) -> None:
    held = reporter.arrive(KEY)
    for _ in range(5):
        reporter.report()  # no time passes: an average over nothing is zero
    assert reporter.statistics().revisions == 1
    held.leave()


def test_request_that_outlives_its_entry_leaves_the_right_one(reporter, clock) -> None:
    reporter.arrive(KEY).leave()
    reporter.report()
    assert reporter.statistics().revisions == 0
    held = reporter.arrive(KEY)
    clock.advance(1)
    held.leave()
    assert held.stats.concurrency == 0


def test_poke_is_repeated_until_somebody_hears_it(reporter, heard, clock) -> None:
    heard.up = False
    held = reporter.arrive(KEY)
    assert not reporter.poke(held)
    heard.up = True
    clock.advance(1)
    reporter.report()
    assert heard.take() == [[("hello-1", 1, 1)]], "what was lost is not subtracted"
    assert reporter.poke(held)
    assert reporter.poke(held)
    assert heard.take() == [[("hello-1", 1, 1)]], "once a period is enough"
    clock.advance(1)
    reporter.report()
    assert heard.take() == [[("hello-1", 0, 0)]]
    held.leave()


def test_reconnecting_tells_who_is_waiting(reporter, heard, clock) -> None:
    heard.up = False
    held = reporter.arrive(KEY)
    reporter.arrive(("default", "done-1")).leave()
    heard.up = True
    reporter.connected(True)
    assert heard.take() == [[("hello-1", 1, 1)]]
    reporter.connected(False)
    assert heard.take() == []
    held.leave()


def test_lost_frames_are_counted(reporter, heard, clock) -> None:
    reporter.arrive(KEY)
    heard.up = False
    clock.advance(1)
    reporter.report()
    assert reporter.statistics() == Statistics(revisions=1, sent=1, lost=1, pokes=1)


def test_large_reports_are_cut_into_frames(reporter, heard, clock) -> None:
    for number in range(FRAME + 1):
        reporter.arrive(("default", f"r-{number}"))
    heard.take()
    clock.advance(1)
    reporter.report()
    assert [len(frame) for frame in heard.take()] == [FRAME, 1]


def test_nothing_to_say_sends_nothing(reporter, heard) -> None:
    reporter.report()
    assert heard.take() == []


@pytest.mark.looptime
async def test_reports_come_on_a_fixed_beat(reporter, heard) -> None:
    reporter.arrive(KEY)
    heard.take()
    beats: list[float] = []
    plain = reporter.report

    def slow_report() -> None:
        beats.append(asyncio.get_running_loop().time())
        plain()

    reporter.report = slow_report  # type: ignore[method-assign]
    task = asyncio.get_running_loop().create_task(reporter.run())
    await asyncio.sleep(5.5)
    task.cancel()
    assert [round(beat, 3) for beat in beats] == [1, 2, 3, 4, 5]
