"""Clocks: what they show, and what a jump of the machine's clock changes."""

from kncore.clock import SteadyClock
from kncore.testing import FakeClock


def test_a_steady_clock_goes_on_when_the_other_jumps() -> None:
    clock = FakeClock(1000.0)
    clock.advance(5.0)
    steady = SteadyClock(clock)
    assert steady.wall() == clock.wall() == 1005.0
    clock.step_wall(-3600.0)
    clock.advance(2.0)
    assert steady.wall() == 1007.0
    assert steady.monotonic() == clock.monotonic() == 7.0
