"""From a decision to a replica count: bounds, activation, and the gate before zero (serving §4.8).

Pure. `plan` says what to write now, what to report as wanted, and when to look again. Going to zero takes four steps,
so that no request can meet a revision without pods *and* without an activator in its path:

1. active: held at one pod until it has been active for a stable window, then
2. marked inactive, which puts the activator in the path (SKS mode Proxy);
3. the activator is asked, through the public Service, whether it really answers there (the caller probes), and
4. after the grace period, or at once when the activator had been in the path that long already, zero is applied.

Source: knative/serving pkg/reconciler/autoscaling/kpa/scaler.go.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

__all__ = ["ACTIVATION_BUFFER", "PROXY_RECHECK", "UNKNOWN", "Activity", "Bounds", "Plan", "Situation", "plan"]

UNKNOWN: Final = -1
"""No opinion: no data yet, or activation is still under way."""
ACTIVATION_BUFFER: Final = 30.0
"""Seconds on top of the progress deadline before an activation is given up."""
PROXY_RECHECK: Final = 3.0
"""Seconds until an inactive revision that already is in Proxy mode is looked at again."""


class Activity(Enum):
    """The PodAutoscaler's Active condition."""

    ACTIVATING = auto()
    """Unknown: pods are being provisioned."""
    ACTIVE = auto()
    INACTIVE = auto()


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Pods a revision may have; `max` 0 means no limit."""

    min: int = 0
    max: int = 0

    def clamp(self, pods: int) -> int:
        """`pods`, moved into the bounds; `min` wins over a smaller `max`, so an initial-scale above max-scale is
        reached.
        """
        if pods < self.min:
            return self.min
        return min(pods, self.max) if self.max else pods


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Everything the gate looks at. Durations in seconds."""

    desired: int
    """The evaluator's result, UNKNOWN before the first one."""
    bounds: Bounds
    """min-scale already ignored for an unreachable revision."""
    initial_scale: int
    initialized: bool
    """Whether the initial scale was reached once."""
    reachable: bool
    """False only for a revision known to be out of every route."""
    activity: Activity
    activity_age: float
    """Since the Active condition last changed."""
    proxying: bool
    """The SKS is asked to keep the activator in the path."""
    proxy_age: float
    """Since the activator's endpoints were populated; 0 when they are not."""
    scale_to_zero: bool
    stable_window: float
    grace: float
    retention: float
    """Minimum life of the last pod after traffic ended; 0 for an unreachable revision."""
    activation_timeout: float
    activator_always: bool
    """Target burst capacity -1: the activator never leaves the path, so there is nothing to probe."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now."""

    want: int
    """Reported as desired scale; UNKNOWN keeps the previous report."""
    apply: int | None = None
    """Replicas the Deployment should have; None leaves it alone."""
    recheck: float | None = None
    """Seconds until the plan should be made again, if nothing else causes it."""
    probe: bool = False
    """The outcome depends on a probe of the activator: probe, then plan again with its answer."""


def plan(situation: Situation, *, activator_answers: bool | None = None) -> Plan:
    """What a revision's Deployment should be scaled to.

    Args:
        activator_answers: outcome of the probe, None if it was not made; only needed when the plan says so.
    """
    desired = situation.desired
    if desired < 0 and situation.activity is not Activity.ACTIVATING:
        return Plan(want=UNKNOWN)
    bounds = situation.bounds
    if situation.initial_scale > 1 and not situation.initialized and situation.reachable:
        bounds = Bounds(min=max(situation.initial_scale, bounds.min), max=bounds.max)
    desired = bounds.clamp(desired)
    if desired != 0:
        return Plan(want=desired, apply=desired)
    if not situation.scale_to_zero:
        return Plan(want=1, apply=1)
    match situation.activity:
        case Activity.ACTIVATING:
            if situation.activity_age > situation.activation_timeout:
                return Plan(want=0, apply=0)
            return Plan(want=UNKNOWN, recheck=situation.activation_timeout)
        case Activity.ACTIVE:
            return _leave_activity(situation)
        case Activity.INACTIVE:
            return _last_pods(situation, activator_answers)


def _leave_activity(situation: Situation) -> Plan:
    remaining = situation.stable_window - situation.activity_age
    if remaining > 0:
        return Plan(want=1, apply=1, recheck=remaining)
    # Not applied: wanting zero makes the PodAutoscaler inactive, and that brings us back here by way of the SKS. If
    # the SKS already is in Proxy mode nothing changes there, so nothing would bring us back.
    return Plan(want=0, recheck=PROXY_RECHECK if situation.proxying else None)


def _last_pods(situation: Situation, activator_answers: bool | None) -> Plan:
    if not situation.activator_always:
        if activator_answers is None:
            return Plan(want=0, probe=True)
        if not activator_answers:
            return Plan(want=0)
    inactive = situation.activity_age
    if inactive >= max(situation.grace, situation.retention):
        return Plan(want=0, apply=0)
    if situation.retention > 0 and inactive < situation.retention:
        return Plan(want=0, recheck=situation.retention - inactive)
    remaining = situation.grace - situation.proxy_age
    if remaining <= 0:
        return Plan(want=0, apply=0)
    return Plan(want=0, recheck=remaining)
