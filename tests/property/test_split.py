"""Splits are exact: in every stretch of picks as long as the rotation, and never far off in between."""

import itertools
from collections import Counter
from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activator.split import LONGEST, Rotation, smooth

percentages = st.lists(st.integers(0, 100), min_size=1, max_size=6).filter(any)


def test_ninety_ten_has_exactly_one_in_every_ten() -> None:
    split = Rotation([("old", 90), ("new", 10)])
    picks = [split.pick() for _ in range(1000)]
    assert all(picks[start : start + 10].count("new") == 1 for start in range(991))


@given(percentages, st.integers(0, 500))
def test_any_stretch_as_long_as_the_rotation_is_exact(weights: list[int], skip: int) -> None:
    split = Rotation(list(enumerate(weights)))
    for _ in range(skip):
        split.pick()
    length = sum(weights) // gcd(*weights)
    picks = Counter(split.pick() for _ in range(length))
    assert [picks[index] * gcd(*weights) for index in range(len(weights))] == weights


@given(percentages)
def test_share_is_never_further_off_than_one_pick_per_competitor(weights: list[int]) -> None:
    total = sum(weights)
    seen: Counter[int] = Counter()
    for number, index in enumerate(smooth(weights), 1):
        seen[index] += 1
        for one, weight in enumerate(weights):
            assert abs(seen[one] - number * weight / total) < len(weights)


@given(st.integers(2, 50), st.integers(1, 49))
def test_small_share_never_comes_in_a_bunch(large: int, small: int) -> None:
    if small >= large:
        small, large = large - 1, small + 1
    picks = smooth([large, small]) * 2
    assert all(not (one == other == 1) for one, other in itertools.pairwise(picks))


def test_single_target_needs_no_share() -> None:
    split = Rotation([("only", 0)])
    assert [split.pick() for _ in range(3)] == ["only"] * 3


def test_target_without_share_is_never_picked() -> None:
    split = Rotation([("none", 0), ("negative", -5), ("all", 100)])
    assert {split.pick() for _ in range(100)} == {"all"}


@pytest.mark.parametrize("weights", [[], [0, 0], [1, LONGEST], [999_983, 1_000_003]])
def test_senseless_weights_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="split"):
        Rotation(list(enumerate(weights)))
