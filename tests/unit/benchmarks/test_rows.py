"""Rows, ratios and goals: what the results say follows from the samples and nothing else."""

import math

import pytest

from benchmarks.goals import GOALS, Goal
from benchmarks.rows import Row, compare, significant


def row(ratio: float, goal: Goal | None) -> Row:
    return Row(scenario="queue-proxy/x", metric="m", peer="p", ours=1.0, theirs=1.0, ratio=ratio, goal=goal)


@pytest.mark.parametrize(
    ("goal", "ratio", "met"),
    [
        (Goal(at_least=3.0), 3.0, True),
        (Goal(at_least=3.0), 2.99, False),
        (Goal(at_most=1 / 3), 1 / 3, True),
        (Goal(at_most=1 / 3), 0.334, False),
        (Goal(at_least=1.0), math.nan, False),
        (Goal(at_most=1.0), math.nan, False),
        (None, 1.0, None),
    ],
)
def test_a_goal_bounds_the_ratio(goal: Goal | None, ratio: float, met: bool | None) -> None:
    assert row(ratio, goal).met is met


def test_goals_read_as_bounds() -> None:
    assert [str(Goal(at_least=2.5)), str(Goal(at_most=1 / 3))] == [">= 2.5", "<= 0.33"]


def test_ratio_is_of_rounds_and_not_of_medians() -> None:
    """The machine was three times as slow in the second round, for both."""
    ours = [{"requests/s": 30.0}, {"requests/s": 10.0}, {"requests/s": 33.0}]
    theirs = [{"requests/s": 10.0}, {"requests/s": 5.0}, {"requests/s": 11.0}]
    (made,) = compare("queue-proxy", "get-64", "knative queue-proxy", ours, theirs)
    assert (made.ours, made.theirs, made.ratio) == (30.0, 10.0, 3.0)
    assert made.goal == Goal(at_least=3.0)
    assert made.met


def test_only_metrics_that_both_have_make_rows() -> None:
    ours = [{"requests/s": 1.0, "p99 ms": 2.0}]
    rows = compare("activator", "get-1", "nginx", ours, [{"p99 ms": 4.0, "MB/s": 1.0}])
    assert [(made.scenario, made.metric, made.ratio, made.met) for made in rows] == [
        ("activator/get-1", "p99 ms", 0.5, None)
    ]


@pytest.mark.parametrize(("ours", "theirs"), [([], [{"m": 1.0}]), ([{"m": 1.0}], [])])
def test_nothing_is_compared_with_nothing(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    assert compare("c", "l", "p", ours, theirs) == []


def test_a_goal_by_which_ours_could_not_be_measured_is_missed() -> None:
    (made,) = compare("queue-proxy", "grpc-unary", "knative queue-proxy", [], [{"requests/s": 5.0, "p99 ms": 1.0}])
    assert (made.metric, made.theirs, made.met) == ("requests/s", 5.0, False)
    assert made.to_json()["ours"] is None


def test_a_ratio_to_zero_is_no_number_in_the_file() -> None:
    (made,) = compare("c", "l", "p", [{"MB/s": 1.0, "errors": 2.0}], [{"MB/s": 0.0, "errors": 2.0}])
    assert made.to_json()["ratio"] is None


@pytest.mark.parametrize(("number", "shown"), [(31234.7, 31230.0), (0.0123456, 0.01235), (math.inf, None), (0.0, 0.0)])
def test_numbers_are_rounded_to_what_is_known(number: float, shown: float | None) -> None:
    assert significant(number) == shown


def test_every_goal_is_about_a_load_that_exists() -> None:
    from benchmarks.loads import LOADS

    assert {load for load, _, _ in GOALS} <= {load.name for load in LOADS} | {"memory"}
