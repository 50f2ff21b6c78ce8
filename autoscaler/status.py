"""A PodAutoscaler's status, and what it wants of its ServerlessService, from the facts (serving §4.7).

Pure: what `kpa` writes is computed here. The SKS mode decides who is behind the revision's public Service: the
activator (Proxy) while there is no spare burst capacity or nothing is wanted, the pods themselves (Serve) otherwise.

Source: knative/serving pkg/reconciler/autoscaling/kpa/kpa.go.
"""

import math
from typing import Any

from autoscaler.decide import Spec
from autoscaler.multiscaler import Result
from autoscaler.scale import UNKNOWN, Activity
from kncore.api.conditions import Conditions

__all__ = ["MIN_ACTIVATORS", "active_threshold", "activity_of", "fill", "number_of_activators", "sks_mode"]

MIN_ACTIVATORS = 2

NO_TRAFFIC = ("NoTraffic", "The target is not receiving traffic.")
QUEUED = ("Queued", "Requests to the target are being buffered as resources are provisioned.")
TIMED_OUT = ("TimedOut", "The target could not be activated.")


def activity_of(conditions: Conditions) -> Activity:
    """The Active condition as the scaler sees it; missing counts as activating."""
    if conditions.is_true("Active"):
        return Activity.ACTIVE
    return Activity.INACTIVE if conditions.is_false("Active") else Activity.ACTIVATING


def sks_mode(want: int, result: Result) -> str:
    """`Serve` when pods are wanted and there is burst capacity to spare, else `Proxy`."""
    return "Serve" if want > 0 and result.excess_burst_capacity >= 0 else "Proxy"


def number_of_activators(spec: Spec, ready: int, activator_capacity: float) -> int:
    """How many activators should back the revision: enough for its pods' capacity and the burst, at least two."""
    if spec.target_burst_capacity == 0:
        return MIN_ACTIVATORS
    capacity = ready * spec.total + max(spec.target_burst_capacity, 0)
    return max(MIN_ACTIVATORS, math.ceil(capacity / activator_capacity))


def active_threshold(*, min_scale: int, initial_scale: int, initialized: bool) -> int:
    """Ready pods needed to be active: the initial scale once, one later, and never less than min-scale."""
    return max(min_scale, 1 if initialized else initial_scale)


def fill(status: dict[str, Any], conditions: Conditions, *, want: int, ready: int, threshold: int) -> None:
    """Set scale and activity in `status`, in place.

    Args:
        want: pods wanted; UNKNOWN never replaces a known number.
        ready: ready pods.
        threshold: see `active_threshold`.
    """
    status["actualScale"] = ready
    if want >= 0 or "desiredScale" not in status:
        status["desiredScale"] = want
    if ready >= threshold and status.get("serviceName"):
        conditions.mark_true("ScaleTargetInitialized")

    activity = activity_of(conditions)
    if want == 0 or threshold == 0:
        # Zero is only applied to an activating revision when it had its time and failed.
        reason = TIMED_OUT if activity is Activity.ACTIVATING and threshold > 0 else NO_TRAFFIC
        conditions.mark_false("Active", *reason)
    elif want == UNKNOWN and activity is Activity.INACTIVE:
        # A revision with initial scale 0 waits for its first metric; marking again keeps Ready from being "new
        # generation".
        if ready < threshold:
            conditions.mark_false("Active", *NO_TRAFFIC)
    elif ready < threshold:
        conditions.mark_unknown("Active", *QUEUED)
    else:
        conditions.mark_true("Active")
