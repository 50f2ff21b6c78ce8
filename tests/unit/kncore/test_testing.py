import pytest

from kncore.clock import SystemClock
from kncore.testing import FakeClock


def test_the_fake_clock_only_moves_when_told() -> None:
    clock = FakeClock(start=100)
    assert (clock.monotonic(), clock.wall()) == (0, 100)
    clock.advance(1.5)
    assert (clock.monotonic(), clock.wall()) == (1.5, 101.5)
    clock.step_wall(-50)
    assert (clock.monotonic(), clock.wall()) == (1.5, 51.5)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-1)


def test_it_offers_what_the_real_one_does() -> None:
    assert {name for name in dir(SystemClock) if not name.startswith("_")} <= set(dir(FakeClock))
