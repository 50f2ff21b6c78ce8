"""What the autoscaler relies on; the arithmetic is covered by vectors and models."""

import pytest

from kncore.window import MaxWindow, TimedBuckets

NOW = 1_700_000_000.0


def test_young_data_is_averaged_over_its_age() -> None:
    window = TimedBuckets(60)
    for second in range(3):
        window.record(NOW + second, 10)
    assert window.average(NOW + 2) == 10


def test_silence_does_not_dilute_but_expires() -> None:
    window = TimedBuckets(6)
    window.record(NOW, 12)
    assert [window.average(NOW + gap) for gap in (0, 5, 6)] == [12, 12, 0]
    assert [window.is_empty(NOW + gap) for gap in (6, 7)] == [False, True]


def test_skipped_seconds_count_as_zero() -> None:
    window = TimedBuckets(60)
    window.record(NOW, 9)
    window.record(NOW + 2, 0)
    assert window.average(NOW + 2) == 3


def test_reports_of_one_second_add_up_and_stale_ones_are_ignored() -> None:
    window = TimedBuckets(6)
    window.record(NOW, 1)
    window.record(NOW + 0.9, 2)
    window.record(NOW - 6, 100)
    assert window.average(NOW) == 3


def test_nothing_written_is_empty_and_zero() -> None:
    assert TimedBuckets(6).is_empty(NOW)
    assert TimedBuckets(6).average(NOW) == 0


def test_resizing_stale_data_forgets_it() -> None:
    window = TimedBuckets(6)
    window.record(NOW, 12)
    window.resize(NOW + 100, 12)
    window.record(NOW + 1, 3)
    assert window.average(NOW + 1) == 3


def test_maximum_of_nothing_is_zero() -> None:
    window = MaxWindow(2, 2)
    assert window.current() == 0
    window.record(NOW, 5)
    window.record(NOW + 4, 1)
    assert window.current() == 1


def test_granularity_is_whole_seconds() -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        TimedBuckets(6, 0.5)
