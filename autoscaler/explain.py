"""Why a revision has the pods it has: the last decisions with their inputs, in memory.

A ring per revision, filled by the evaluation loop and by the scaler, read by `torpor explain`, `torpor status` and
the console through the stat server's `GET /explain/<namespace>/<revision>`. Nothing here influences a decision.
"""

from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from autoscaler.decide import Decision

__all__ = ["Explanations", "Wake"]

KEPT: Final = 32
"""Decisions, and wakes, kept per revision: a minute of two-second ticks."""


@dataclass
class Wake:
    """One wake-up from zero, as Unix seconds; None until it happened."""

    reported: float
    """The activator's poke arrived."""
    decided: float | None = None
    scaled: float | None = None
    """The API server acknowledged the new scale."""


@dataclass
class _Revision:
    decisions: deque[Decision] = field(default_factory=lambda: deque(maxlen=KEPT))
    wakes: deque[Wake] = field(default_factory=lambda: deque(maxlen=KEPT))
    want: int | None = None


class Explanations:
    """The recent decisions of every revision, by `(namespace, name)`; bounded by the revisions that exist."""

    def __init__(self) -> None:
        self._revisions: dict[tuple[str, str], _Revision] = {}

    def decided(self, key: tuple[str, str], decision: Decision) -> None:
        """Keep an evaluation; the one before it is replaced when nothing but the time changed."""
        kept = self._revisions.setdefault(key, _Revision())
        if kept.decisions:
            last = kept.decisions[-1]
            if (last.desired, last.bound, last.observed) == (decision.desired, decision.bound, decision.observed):
                kept.decisions.pop()
        kept.decisions.append(decision)
        if kept.wakes and kept.wakes[-1].decided is None and decision.desired > 0:
            kept.wakes[-1].decided = decision.at

    def woken(self, key: tuple[str, str], now: float) -> None:
        """A sleeping revision was poked; poking it again before it wakes is the same wake-up."""
        kept = self._revisions.setdefault(key, _Revision())
        if not kept.wakes or kept.wakes[-1].decided is not None:
            kept.wakes.append(Wake(now))

    def scaled(self, key: tuple[str, str], want: int, now: float) -> None:
        """The scale `want` (after bounds) was written."""
        kept = self._revisions.setdefault(key, _Revision())
        kept.want = want
        if want > 0 and kept.wakes and kept.wakes[-1].scaled is None:
            kept.wakes[-1].scaled = now

    def forget(self, key: tuple[str, str]) -> None:
        """Drop a deleted revision."""
        self._revisions.pop(key, None)

    def show(self, key: tuple[str, str]) -> dict[str, Any] | None:
        """What is known of one revision as JSON-ready data, newest decision last; None when nothing is."""
        kept = self._revisions.get(key)
        if kept is None:
            return None
        return {
            "namespace": key[0],
            "revision": key[1],
            "want": kept.want,
            "decisions": [asdict(decision) for decision in kept.decisions],
            "wakes": [asdict(wake) for wake in kept.wakes],
        }
