"""Every wake-up, timed part by part as this process saw it, and kept for whoever asks.

A wake-up begins when a request meets a revision without pods and ends with the first byte of its answer. The record
is read by `torpor status`, the demo and the benchmarks; `torpor.wakes` adds what autoscaler and node saw. Times are
Unix seconds, so that they compare.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["KEPT", "Wake", "Wakes"]

KEPT = 256
KNOWN = 4096
"""Revisions whose usual time to start is remembered."""


@dataclass(eq=False)
class Wake:
    """One wake-up of one revision; None until it happened."""

    namespace: str
    revision: str
    requested: float
    """The first request arrived."""
    poked: float | None = None
    """The autoscaler was told; None if the stream was down."""
    endpoint: float | None = None
    """A pod's address appeared."""
    probed: float | None = None
    """A pod answered its probe."""
    pod: str = ""
    """Which: `ip:port`."""
    first_byte: float | None = None
    """The answer to the first request began."""
    waited: int = 0
    """Requests that were waiting when the pod was ready."""

    def to_json(self) -> dict[str, Any]:
        """As others read it."""
        return {
            "namespace": self.namespace,
            "revision": self.revision,
            "requestedAt": self.requested,
            "pokedAt": self.poked,
            "endpointAt": self.endpoint,
            "probedAt": self.probed,
            "pod": self.pod,
            "firstByteAt": self.first_byte,
            "waited": self.waited,
        }


class Wakes:
    """The last wake-ups, and the one under way for each revision."""

    def __init__(self) -> None:
        self.on_end: Callable[[Wake], None] | None = None
        """Told of every wake-up that is over or given up; for metrics."""
        self._kept: deque[Wake] = deque(maxlen=KEPT)
        self._current: dict[tuple[str, str], Wake] = {}
        self._usual: OrderedDict[tuple[str, str], float] = OrderedDict()

    def current(self, key: tuple[str, str]) -> Wake | None:
        """The wake-up of a revision that is under way."""
        return self._current.get(key)

    def begin(self, key: tuple[str, str], now: float) -> Wake | None:
        """A request waits for a revision without pods; the new wake-up, None if one is under way.

        Whoever gets one ends it: there is at most one for each request that waits.
        """
        if key in self._current:
            return None
        wake = self._current[key] = Wake(*key, requested=now)
        self._kept.append(wake)
        return wake

    def end(self, wake: Wake) -> None:
        """It is over, or given up; ending it twice does no harm to the one that followed."""
        key = (wake.namespace, wake.revision)
        if self._current.get(key) is wake:
            del self._current[key]
            if self.on_end is not None:
                self.on_end(wake)
            if wake.first_byte is not None:
                took = wake.first_byte - wake.requested
                self._usual[key] = (self._usual.pop(key, took) + took) / 2
                if len(self._usual) > KNOWN:
                    self._usual.popitem(last=False)

    def expected(self, key: tuple[str, str], now: float) -> float:
        """Seconds until the wake-up under way is over, as far as earlier ones say; 1 if nothing does."""
        wake = self._current.get(key)
        begun = now if wake is None else wake.requested
        return max(1.0, begun + self._usual.get(key, 0.0) - now)

    def select(self, namespace: str = "", revision: str = "") -> Iterator[Wake]:
        """Kept wake-ups, oldest first; empty arguments select all."""
        for wake in self._kept:
            if namespace in ("", wake.namespace) and revision in ("", wake.revision):
                yield wake

    def statistics(self) -> dict[str, int]:
        """Wake-ups under way, and kept ones."""
        return {"under_way": len(self._current), "kept": len(self._kept)}
