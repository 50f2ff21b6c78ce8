"""Time as an argument.

Pure code takes *now*; the few objects that must read the time themselves take a `Clock`, so that tests decide what
time it is (`kncore.testing.FakeClock`). Durations are measured with `monotonic`, dates shown to people with `wall`:
the wall clock may jump.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock", "rfc3339"]


class Clock(Protocol):
    """Where the time comes from; both readings are in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary origin; never goes back."""

    def wall(self) -> float:
        """Seconds since the Unix epoch; may jump either way."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


def rfc3339(seconds: float) -> str:
    """A Unix time as Kubernetes writes it: UTC, whole seconds, `Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
