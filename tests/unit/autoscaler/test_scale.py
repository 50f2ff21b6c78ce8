"""The gate before zero, branch by branch; kpa_scale in tests/vectors replays it over time."""

from dataclasses import replace

import pytest

from autoscaler.scale import PROXY_RECHECK, UNKNOWN, Activity, Bounds, Plan, Situation, plan

IDLE = Situation(
    desired=0,
    bounds=Bounds(),
    initial_scale=1,
    initialized=True,
    reachable=True,
    activity=Activity.INACTIVE,
    activity_age=0.0,
    proxying=True,
    proxy_age=0.0,
    scale_to_zero=True,
    stable_window=60.0,
    grace=30.0,
    retention=0.0,
    activation_timeout=630.0,
    activator_always=False,
)
"""A revision that became inactive just now, with the activator in its path since just now."""


def at(**changes) -> Situation:
    return replace(IDLE, **changes)


# above zero -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activity", Activity)
def test_what_is_wanted_is_applied(activity: Activity) -> None:
    assert plan(at(desired=3, activity=activity)) == Plan(want=3, apply=3)


@pytest.mark.parametrize(
    ("bounds", "desired", "applied"),
    [
        (Bounds(min=2), 1, 2),
        (Bounds(max=5), 9, 5),
        (Bounds(min=2, max=5), 3, 3),
        (Bounds(min=0, max=0), 9, 9),
        (Bounds(min=8, max=5), 6, 8),
        (Bounds(min=1), 0, 1),
    ],
)
def test_bounds(bounds: Bounds, desired: int, applied: int) -> None:
    assert plan(at(bounds=bounds, desired=desired)).apply == applied


def test_initial_scale_is_a_minimum_until_it_was_reached_once() -> None:
    fresh = at(desired=1, initial_scale=4, initialized=False)
    assert plan(fresh).apply == 4
    assert plan(replace(fresh, bounds=Bounds(min=6))).apply == 6
    assert plan(replace(fresh, initialized=True)).apply == 1
    assert plan(replace(fresh, reachable=False)).apply == 1


# nothing known yet ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activity", [Activity.ACTIVE, Activity.INACTIVE])
def test_nothing_known_changes_nothing(activity: Activity) -> None:
    assert plan(at(desired=UNKNOWN, activity=activity, bounds=Bounds(min=3))) == Plan(want=UNKNOWN)


def test_activating_revision_gets_its_minimum_before_anything_is_known() -> None:
    assert plan(at(desired=UNKNOWN, activity=Activity.ACTIVATING, bounds=Bounds(min=3))) == Plan(want=3, apply=3)


# to zero: not at all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activity", Activity)
def test_zero_is_one_where_scaling_to_zero_is_off(activity: Activity) -> None:
    assert plan(at(scale_to_zero=False, activity=activity)) == Plan(want=1, apply=1)


# to zero: activating --------------------------------------------------------------------------------------------------


def test_activation_has_its_time_and_is_then_given_up() -> None:
    activating = at(activity=Activity.ACTIVATING, activity_age=630.0)
    assert plan(activating) == Plan(want=UNKNOWN, recheck=630.0)
    assert plan(replace(activating, activity_age=630.1)) == Plan(want=0, apply=0)


# to zero: active ------------------------------------------------------------------------------------------------------


def test_active_revision_keeps_one_pod_for_a_stable_window() -> None:
    assert plan(at(activity=Activity.ACTIVE, activity_age=20.0)) == Plan(want=1, apply=1, recheck=40.0)


def test_then_it_becomes_inactive_with_its_pods_still_there() -> None:
    active = at(activity=Activity.ACTIVE, activity_age=60.0)
    assert plan(replace(active, proxying=False)) == Plan(want=0)
    assert plan(replace(active, proxying=True)) == Plan(want=0, recheck=PROXY_RECHECK), "nothing else would wake us"


# to zero: inactive ----------------------------------------------------------------------------------------------------


def test_activator_is_asked_first() -> None:
    assert plan(IDLE) == Plan(want=0, probe=True)
    assert plan(IDLE, activator_answers=False) == Plan(want=0)


def test_activator_that_never_leaves_the_path_is_not_asked() -> None:
    assert plan(at(activator_always=True)) == Plan(want=0, recheck=30.0)


def test_last_pod_goes_after_the_grace_period() -> None:
    assert plan(at(activity_age=10.0, proxy_age=10.0), activator_answers=True) == Plan(want=0, recheck=20.0)
    assert plan(at(activity_age=30.0), activator_answers=True) == Plan(want=0, apply=0)


def test_last_pod_goes_at_once_when_the_activator_was_in_the_path_that_long() -> None:
    assert plan(at(activity_age=1.0, proxy_age=30.0), activator_answers=True) == Plan(want=0, apply=0)


def test_retention_keeps_the_last_pod_longer_than_the_grace_period() -> None:
    kept = at(retention=100.0, activity_age=40.0, proxy_age=500.0)
    assert plan(kept, activator_answers=True) == Plan(want=0, recheck=60.0)
    assert plan(replace(kept, activity_age=100.0), activator_answers=True) == Plan(want=0, apply=0)


def test_retention_shorter_than_grace() -> None:
    kept = at(retention=10.0, activity_age=15.0, proxy_age=15.0)
    assert plan(kept, activator_answers=True) == Plan(want=0, recheck=15.0)


def test_end_of_the_retention_itself_is_late_enough() -> None:
    kept = at(retention=40.0, activity_age=40.0, proxy_age=0.0)
    assert plan(kept, activator_answers=True) == Plan(want=0, apply=0)
