"""What a PodAutoscaler's status says, row by row of serving §4.7."""

from typing import Any

import pytest

from autoscaler.decide import Spec
from autoscaler.multiscaler import Result
from autoscaler.scale import UNKNOWN, Activity
from autoscaler.status import (
    NO_TRAFFIC,
    QUEUED,
    TIMED_OUT,
    active_threshold,
    activity_of,
    fill,
    number_of_activators,
    sks_mode,
)
from kncore.api.conditions import manage

NOW = "2024-01-01T00:00:00Z"


def conditions_of(activity: Activity) -> tuple[dict[str, Any], Any]:
    pa: dict[str, Any] = {"kind": "PodAutoscaler", "status": {"serviceName": "hello-1"}}
    conditions = manage(pa, NOW)
    conditions.initialize()
    if activity is Activity.ACTIVE:
        conditions.mark_true("Active")
    elif activity is Activity.INACTIVE:
        conditions.mark_false("Active", *NO_TRAFFIC)
    return pa["status"], conditions


A, N, U = Activity.ACTIVE, Activity.INACTIVE, Activity.ACTIVATING


@pytest.mark.parametrize(
    ("before", "want", "ready", "threshold", "after", "reason"),
    [
        (U, 0, 0, 1, N, TIMED_OUT),
        (U, 0, 0, 0, N, NO_TRAFFIC),
        (A, 0, 1, 1, N, NO_TRAFFIC),
        (N, 0, 0, 1, N, NO_TRAFFIC),
        (A, 3, 3, 0, N, NO_TRAFFIC),
        (N, 1, 0, 1, U, QUEUED),
        (A, 1, 0, 1, U, QUEUED),
        (U, UNKNOWN, 0, 1, U, QUEUED),
        (A, UNKNOWN, 0, 1, U, QUEUED),
        (N, UNKNOWN, 0, 1, N, NO_TRAFFIC),
        (U, 1, 1, 1, A, None),
        (N, 2, 1, 1, A, None),
        (A, UNKNOWN, 1, 1, A, None),
        (N, UNKNOWN, 1, 1, N, NO_TRAFFIC),
    ],
)
def test_active_condition(before, want, ready, threshold, after, reason) -> None:
    status, conditions = conditions_of(before)
    fill(status, conditions, want=want, ready=ready, threshold=threshold)
    assert activity_of(conditions) is after
    found = conditions.get("Active")
    if reason:
        assert (found["reason"], found["message"]) == reason


def test_missing_condition_counts_as_activating() -> None:
    pa: dict[str, Any] = {"kind": "PodAutoscaler", "status": {}}
    assert activity_of(manage(pa, NOW)) is Activity.ACTIVATING


def test_unknown_never_replaces_a_known_scale() -> None:
    status, conditions = conditions_of(A)
    fill(status, conditions, want=UNKNOWN, ready=0, threshold=1)
    assert (status["desiredScale"], status["actualScale"]) == (UNKNOWN, 0)
    fill(status, conditions, want=4, ready=2, threshold=1)
    fill(status, conditions, want=UNKNOWN, ready=3, threshold=1)
    assert (status["desiredScale"], status["actualScale"]) == (4, 3)


def test_initialized_once_and_for_all() -> None:
    status, conditions = conditions_of(U)
    fill(status, conditions, want=3, ready=2, threshold=3)
    assert not conditions.is_true("ScaleTargetInitialized")
    fill(status, conditions, want=3, ready=3, threshold=3)
    assert conditions.is_true("ScaleTargetInitialized")
    fill(status, conditions, want=0, ready=0, threshold=1)
    assert conditions.is_true("ScaleTargetInitialized")


def test_not_initialized_without_a_service() -> None:
    status, conditions = conditions_of(U)
    status.pop("serviceName")
    fill(status, conditions, want=1, ready=1, threshold=1)
    assert not conditions.is_true("ScaleTargetInitialized")


@pytest.mark.parametrize(
    ("minimum", "initial", "initialized", "expected"),
    [(0, 1, False, 1), (0, 5, False, 5), (0, 5, True, 1), (3, 1, True, 3), (0, 0, False, 0), (3, 5, False, 5)],
)
def test_threshold(minimum, initial, initialized, expected) -> None:
    assert active_threshold(min_scale=minimum, initial_scale=initial, initialized=initialized) == expected


@pytest.mark.parametrize(
    ("want", "excess", "mode"),
    [(0, 5, "Proxy"), (1, 0, "Serve"), (1, -1, "Proxy"), (UNKNOWN, 5, "Proxy"), (3, 100, "Serve")],
)
def test_who_is_behind_the_public_service(want: int, excess: int, mode: str) -> None:
    assert sks_mode(want, Result(want, excess)) == mode


@pytest.mark.parametrize(
    ("burst", "ready", "expected"), [(0.0, 100, 2), (211.0, 1, 4), (-1.0, 10, 10), (211.0, 0, 3), (10.0, 0, 2)]
)
def test_number_of_activators(burst: float, ready: int, expected: int) -> None:
    spec = Spec(total=100.0, target_burst_capacity=burst)
    assert number_of_activators(spec, ready, activator_capacity=100.0) == expected
