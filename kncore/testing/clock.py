"""A clock that stands still until a test moves it."""

__all__ = ["FakeClock"]


class FakeClock:
    """A `kncore.clock.Clock` under the test's control; both readings move together.

    Args:
        start: the first wall reading, Unix seconds. The monotonic reading starts at 0.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._wall = start
        self._monotonic = 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass; a monotonic clock never goes back, so `seconds` must not be negative."""
        if seconds < 0:
            raise ValueError(f"time cannot go back by {-seconds} s; use step_wall to shift the wall clock alone")
        self._wall += seconds
        self._monotonic += seconds

    def step_wall(self, seconds: float) -> None:
        """Shift the wall clock alone, as an administrator or NTP does."""
        self._wall += seconds

    def monotonic(self) -> float:
        """Seconds this clock was advanced so far."""
        return self._monotonic

    def wall(self) -> float:
        """Unix seconds."""
        return self._wall
