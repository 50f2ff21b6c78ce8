"""Growing, jittered waits between attempts.

Doubling keeps a sick server from being hammered, the cap keeps recovery quick, and full jitter (a uniform draw up to
the current bound) keeps many clients that failed together from returning together.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Backoff"]


@dataclass(kw_only=True)
class Backoff:
    """Waits in seconds: the n-th is drawn from `(bound/2, bound]`, `bound = min(cap, first * 2**n)`."""

    first: float = 0.05
    cap: float = 5.0
    draw: Callable[[], float] = random.random
    """Uniform in [0, 1); replaced in tests."""
    failures: int = field(default=0, init=False)

    def next(self) -> float:
        """The next wait, longer than the one before until the cap."""
        bound = min(self.cap, self.first * 2.0 ** min(self.failures, 64))
        self.failures += 1
        return bound * (1.0 - self.draw() / 2.0)

    def reset(self) -> None:
        """Start over after a success."""
        self.failures = 0
