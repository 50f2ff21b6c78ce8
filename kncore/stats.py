"""Concurrency over time: how many requests were in flight on average since the last report.

One instance counts one revision (in an activator) or one pod (in a queue-proxy). The average is the integral of the
concurrency divided by the time covered, so a request that lasted 10 ms weighs 10 ms. Constant size, a few additions
per request.

Source: knative.dev/networking pkg/http/stats/request.go (serving §6.7).
"""

from dataclasses import dataclass

__all__ = ["Report", "RequestStats"]


@dataclass(frozen=True, slots=True)
class Report:
    """What happened since the previous report."""

    average_concurrency: float
    average_proxied_concurrency: float
    """Requests that came through an activator; they count in average_concurrency too."""
    request_count: int
    """Arrivals, not divided by time."""
    proxied_request_count: int


class RequestStats:
    """Counts requests in flight.

    Args:
        now: when counting begins, in seconds of whatever clock the later calls use.
    """

    __slots__ = (
        "_area",
        "_changed",
        "_concurrency",
        "_count",
        "_covered",
        "_proxied",
        "_proxied_area",
        "_proxied_count",
    )

    def __init__(self, now: float) -> None:
        self._changed = now
        self._concurrency = 0
        self._proxied = 0
        self._reset()

    def _reset(self) -> None:
        self._count = 0
        self._proxied_count = 0
        self._area = 0.0  # request-seconds
        self._proxied_area = 0.0
        self._covered = 0.0  # seconds

    def _advance(self, now: float) -> None:
        elapsed = now - self._changed
        if elapsed > 0:  # a clock that went back is waited for
            self._covered += elapsed
            self._area += self._concurrency * elapsed
            self._proxied_area += self._proxied * elapsed
            self._changed = now

    def arrive(self, now: float, proxied: bool = False) -> None:
        """A request came in."""
        if now != self._changed:  # a loop's time stands still while it turns, and many requests come in one turn
            self._advance(now)
        self._count += 1
        self._concurrency += 1
        if proxied:
            self._proxied_count += 1
            self._proxied += 1

    def leave(self, now: float, proxied: bool = False) -> None:
        """A request that arrived is over; `proxied` as then."""
        if now != self._changed:
            self._advance(now)
        self._concurrency -= 1
        if proxied:
            self._proxied -= 1

    @property
    def concurrency(self) -> int:
        """Requests in flight now."""
        return self._concurrency

    def report(self, now: float) -> Report:
        """Averages and counts since the previous report, which start again; what is in flight stays."""
        self._advance(now)
        covered = self._covered
        made = Report(
            self._area / covered if covered else 0.0,
            self._proxied_area / covered if covered else 0.0,
            self._count,
            self._proxied_count,
        )
        self._reset()
        return made
