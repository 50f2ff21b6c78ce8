"""Ring buffers against models that remember every write."""

import math

from hypothesis import given
from hypothesis import strategies as st

from kncore.window import MaxWindow, TimedBuckets, WeightedBuckets

T0 = 1_700_000_000

VALUES = st.floats(0, 1000, allow_nan=False).map(lambda v: round(v, 3))
# (how far time moves, how far in the past the value is, value)
WRITES = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25), VALUES), min_size=1, max_size=60)
SIZES = st.sampled_from([(6, 1), (10, 1), (12, 5), (7, 2), (1, 1), (61, 6)])


class Naive:
    """Every value by slot; forgets only what the window has left."""

    def __init__(self, window: int, granularity: int) -> None:
        self.window, self.granularity = window, granularity
        self.size = math.ceil(window / granularity)
        self.values: dict[int, float] = {}
        self.first = self.last = 0

    def record(self, slot: int, value: float) -> None:
        if not self.values or (slot - self.last) * self.granularity >= self.window:
            self.values, self.first, self.last = {}, slot, slot
        elif (self.last - slot) * self.granularity >= self.window:
            return
        self.first, self.last = min(self.first, slot), max(self.last, slot)
        self.values[slot] = self.values.get(slot, 0.0) + value

    def held(self, slot: int) -> dict[int, float]:
        return {s: v for s, v in self.values.items() if slot - self.size < s}

    def average(self, slot: int) -> float:
        gap = max(0, slot - self.last)
        if gap * self.granularity >= self.window:
            return 0.0
        span = min(self.last - self.first + 1, self.size - gap)
        return sum(self.held(self.last + gap).values()) / span

    def weighted(self, slot: int) -> float:
        gap = max(0, slot - self.last)
        if gap * self.granularity > self.window:
            return 0.0
        c = max(1 - (1 - 0.9999) ** (1 / self.size), 0.2)
        newest = self.last + gap
        return math.fsum(v * c * (1 - c) ** (newest - s) for s, v in self.held(newest).items())


@given(size=SIZES, writes=WRITES, wait=st.integers(0, 80))
def test_buckets_agree_with_a_list(size: tuple[int, int], writes: list[tuple[int, int, float]], wait: int) -> None:
    window, granularity = size
    naive, linear, weighted = Naive(*size), TimedBuckets(*size), WeightedBuckets(*size)
    now = T0
    for step, age, value in writes:
        now += step
        for ring in (linear, weighted):
            ring.record(now - age, value)
        naive.record((now - age) // granularity, value)
        slot = now // granularity
        assert math.isclose(linear.average(now), naive.average(slot), rel_tol=1e-9, abs_tol=2e-6)
        assert math.isclose(weighted.average(now), naive.weighted(slot), rel_tol=1e-9, abs_tol=1e-6)
    later = (now + wait) // granularity
    assert math.isclose(linear.average(now + wait), naive.average(later), rel_tol=1e-9, abs_tol=2e-6)
    assert linear.is_empty(now + wait) == ((later - naive.last) * granularity > window)


@given(slots=st.integers(1, 8), writes=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 100)), max_size=60))
def test_max_window_agrees_with_a_list(slots: int, writes: list[tuple[int, int]]) -> None:
    window = MaxWindow(slots, 2)
    seen: list[tuple[int, int]] = []
    slot = T0 // 2
    assert window.current() == 0
    for step, value in writes:
        slot += step
        window.record(slot * 2 + 1, value)
        seen.append((slot, value))
        assert window.current() == max(v for s, v in seen if slot - s < slots)


@given(size=SIZES, writes=WRITES, other=st.sampled_from([3, 6, 30]))
def test_resizing_keeps_the_newest(size: tuple[int, int], writes: list[tuple[int, int, float]], other: int) -> None:
    window, granularity = size
    ring, naive = TimedBuckets(*size), Naive(*size)
    now = T0
    for step, _, value in writes:
        now += step
        ring.record(now, value)
        naive.record(now // granularity, value)
    ring.resize(now, other)
    kept = min(naive.size, math.ceil(other / granularity))
    total = sum(v for s, v in naive.values.items() if s > naive.last - kept)
    # after a real resize the old window counts as observed in full (serving §10.3)
    span = kept if other != window else min(naive.last - naive.first + 1, kept)
    assert math.isclose(ring.average(now), total / span, rel_tol=1e-9, abs_tol=2e-6)
