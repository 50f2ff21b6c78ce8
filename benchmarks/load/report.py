"""What one run of a load generator tells, whichever it was."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Load", "NoTool"]


class NoTool(Exception):
    """A load generator is not installed; says what to install."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One run. Seconds."""

    requests: int
    """Or messages, or calls."""
    seconds: float
    errors: int
    """Answers that were not 2xx or 3xx, and connections that failed."""
    p50: float
    p99: float
    p999: float
    longest: float
    p95: float = math.nan
    """Not every generator tells it."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Errors by status or by what broke the connection, where the generator tells."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    def told_errors(self) -> str:
        """`3 errors (503: 2, EOF: 1)`, for people."""
        kinds = ", ".join(f"{what}: {count}" for what, count in sorted(self.failures.items()))
        return f"{self.errors} errors" + (f" ({kinds})" if kinds else "")

    def to_json(self) -> dict[str, Any]:
        """For the file; milliseconds where a name says so."""
        return {
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "errors": self.errors,
            **({"failures": dict(self.failures)} if self.failures else {}),
            "rate": round(self.rate, 1),
            **{
                f"{name}_ms": round(value * 1000, 3)
                for name, value in {
                    "p50": self.p50,
                    "p95": self.p95,
                    "p99": self.p99,
                    "p999": self.p999,
                    "max": self.longest,
                }.items()
                if math.isfinite(value)
            },
        }
