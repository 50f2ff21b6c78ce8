"""Sums and maxima over the last seconds: what the autoscaler decides by.

A window is a ring of buckets, one per `granularity` seconds; everything recorded in one granule adds up in one
bucket. Time is an argument (Unix seconds), nothing here reads a clock. Memory is fixed by the window's length.

Source: knative/serving pkg/autoscaler/aggregation/bucketing.go and aggregation/max (serving §4.4).
"""

import math
from collections import deque
from typing import Final

__all__ = ["MaxWindow", "TimedBuckets", "WeightedBuckets"]

_MICRO: Final = 10**6
_SMOOTHING_FLOOR: Final = 0.2
_SMOOTHING_WEIGHT: Final = 0.9999  # share of the total weight that falls inside the window


class TimedBuckets:
    """Mean of recorded values per granule, over the part of the window that was observed.

    Args:
        window: length, seconds.
        granularity: seconds per bucket, a whole number of them.
    """

    def __init__(self, window: float, granularity: float = 1.0) -> None:
        self._granularity = int(granularity)
        if self._granularity < 1 or self._granularity != granularity:
            raise ValueError(f"granularity must be whole seconds, was {granularity}")
        self._window = window
        self._buckets = [0.0] * math.ceil(window / self._granularity)
        self._total = 0.0
        # Slots are Unix time divided by the granularity. None: never written, or forgotten by a resize.
        self._first: int | None = None
        self._last: int | None = None

    def _slot(self, now: float) -> int:
        return int(now // self._granularity)

    def _covers(self, slots: int) -> bool:
        """Whether a gap of so many slots is shorter than the window."""
        return slots * self._granularity < self._window

    def is_empty(self, now: float) -> bool:
        """Whether nothing was written for longer than the window (exactly the window does not count)."""
        return self._last is None or (self._slot(now) - self._last) * self._granularity > self._window

    def record(self, now: float, value: float) -> None:
        """Add to the bucket of `now`; skipped granules count as 0, values older than the window are ignored."""
        slot = self._slot(now)
        if self._last is None:
            self._first = self._last = slot
        elif slot != self._last:
            if not self._covers(self._last - slot):
                return
            if self._first is None or self._first > slot:
                self._first = slot
            if slot > self._last:
                self._advance(slot)
        self._buckets[slot % len(self._buckets)] += value
        self._total += value

    def _advance(self, slot: int) -> None:
        """Make `slot` the newest, forgetting what its bucket and the skipped ones held a window ago."""
        assert self._last is not None
        if not self._covers(slot - self._last):
            self._first = slot
            self._buckets = [0.0] * len(self._buckets)
            self._total = 0.0
        else:
            for i in range(self._last + 1, slot + 1):
                i %= len(self._buckets)
                self._total -= self._buckets[i]
                self._buckets[i] = 0.0
        self._last = slot

    def average(self, now: float) -> float:
        """Mean per granule from the first write, at most a window ago, up to the last write; 0.0 without data.

        Silence after the last write does not dilute the mean, it only drops what has expired. Rounded down to 6
        decimals, so that what adding and subtracting leaves of an idle revision is a clean 0.
        """
        if self._last is None:
            return 0.0
        gap = max(0, self._slot(now) - self._last)
        if gap and not self._covers(gap):
            return 0.0
        total = self._total
        for i in range(self._last + 1, self._last + gap + 1):
            total -= self._buckets[i % len(self._buckets)]
        held = len(self._buckets) - gap
        if self._first is not None:
            held = min(held, self._last - self._first + 1)
        return math.floor(total / held * _MICRO + 0.5) / _MICRO

    def resize(self, now: float, window: float) -> None:
        """Change the length, keeping the newest buckets that fit.

        Afterwards the old window counts as having been observed in full, unless it is stale by `now` and starts
        empty: as the original does (serving §10.3), whose users see a brief under-estimate for a revision younger
        than its window.
        """
        if window == self._window:
            return
        buckets = [0.0] * math.ceil(window / self._granularity)
        total = 0.0
        if self._last is not None and not self.is_empty(now):
            for slot in range(self._last, self._last - min(len(buckets), len(self._buckets)), -1):
                held = self._buckets[slot % len(self._buckets)]
                buckets[slot % len(buckets)] = held
                total += held
            self._first = self._last - (len(self._buckets) - 1)
        else:
            self._first = None
        self._window, self._buckets, self._total = window, buckets, total


class WeightedBuckets(TimedBuckets):
    """Exponentially weighted sum of recorded values, the newest granule weighing most.

    The weights halve fast enough that 99.99 % of them lie inside the window, and never slower than 0.2 per granule.
    """

    def average(self, now: float) -> float:
        """Sum of `value * c * (1 - c) ** age`, age in granules; 0.0 without data. Neither rounded nor normalised."""
        if self._last is None or self.is_empty(now):
            return 0.0
        size = len(self._buckets)
        coefficient = max(1 - (1 - _SMOOTHING_WEIGHT) ** (1 / size), _SMOOTHING_FLOOR)
        gap = max(0, self._slot(now) - self._last)
        multiplier = coefficient * (1 - coefficient) ** gap
        total = 0.0
        for slot in range(self._last, self._last - (size - gap), -1):
            total += self._buckets[slot % size] * multiplier
            multiplier *= 1 - coefficient
        return total


class MaxWindow:
    """Largest value of the last `slots` granules, in amortised constant time.

    Args:
        slots: how many granules a value stays.
        granularity: seconds per granule; several values in one granule keep the largest.
    """

    def __init__(self, slots: int, granularity: float) -> None:
        self._slots = slots
        self._granularity = int(granularity)
        self._maxima: deque[tuple[int, int]] = (
            deque()
        )  # (slot, value), values falling: each is the maximum once those before expire

    def record(self, now: float, value: int) -> None:
        """Note a value; one that is not larger than a newer one is never needed and not kept."""
        slot = int(now // self._granularity)
        while self._maxima and self._maxima[-1][1] <= value:
            self._maxima.pop()
        while self._maxima and slot - self._maxima[0][0] >= self._slots:
            self._maxima.popleft()
        self._maxima.append((slot, value))

    def current(self) -> int:
        """The maximum as of the last record; 0 before any."""
        return self._maxima[0][1] if self._maxima else 0
