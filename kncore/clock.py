"""Time as an argument.

Pure code takes *now*; the few objects that must read the time themselves take a `Clock`, so that tests decide what
time it is (`kncore.testing.FakeClock`). Durations are measured with `monotonic`, dates shown to people with `wall`:
the wall clock may jump.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SteadyClock", "SystemClock", "rfc3339"]


class Clock(Protocol):
    """Where the time comes from; both readings are in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary origin; never goes back."""

    def wall(self) -> float:
        """Seconds since the Unix epoch; may jump either way."""


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class SteadyClock:
    """Another clock without its jumps: its wall reading at the start, counted on monotonically.

    For what sorts values by the second they belong to and must go on when somebody sets the machine's clock. After
    that it is off by as much, so it is not for dates that others compare with theirs.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._origin = clock.wall() - clock.monotonic()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def wall(self) -> float:
        return self._origin + self._clock.monotonic()


def rfc3339(seconds: float) -> str:
    """A Unix time as Kubernetes writes it: UTC, whole seconds, `Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
