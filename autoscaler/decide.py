"""How many pods a revision needs: one evaluation, as a function of values and a time.

`decide` is the whole rule of serving §4.6. It keeps no state and reads no clock: the panic state goes in and comes
out. `Evaluator` owns what must be remembered between evaluations (the panic state and the scale-down delay window)
and nothing else; it is called every two seconds per revision, and at once when a sleeping revision is poked.

Each decision carries the numbers it was made from and the name of the rule that bound it, so that `torpor explain`
can answer "why" without repeating the arithmetic.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from kncore.window import MaxWindow

__all__ = [
    "TICK",
    "Decision",
    "Evaluator",
    "Observed",
    "Panic",
    "Spec",
    "decide",
    "excess_burst_capacity",
    "initial_excess_burst_capacity",
]

TICK: Final = 2.0
"""Seconds between evaluations, and the width of one slot of the delay window; Knative's tick interval."""
INT32_MAX: Final = 2**31 - 1

Bound = Literal["metric", "max-scale-up-rate", "max-scale-down-rate", "activation-scale", "panic", "scale-down-delay"]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a revision asked for, resolved against config-autoscaler (serving §4.5)."""

    metric: str = "concurrency"
    """`concurrency` (requests in flight) or `rps` (requests per second): the unit of `target` and `total`."""
    total: float = 100.0
    """Capacity of one pod, in the metric's unit."""
    target: float = 70.0
    """What one pod should carry: total times the target utilization, at least 0.01."""
    target_burst_capacity: float = 211.0
    """Burst to keep free before the activator leaves the path, in the metric's unit; 0 never, -1 always keeps it in."""
    panic_threshold: float = 2.0
    """Panic once the panic window wants this many times the ready pods."""
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    """Largest factor by which one evaluation may grow or shrink the ready pods."""
    stable_window: float = 60.0
    """Seconds; also how long a panic lasts after its last cause."""
    scale_down_delay: float = 0.0
    """Seconds for which the largest decision is held; fixed when the evaluator is made."""
    activation_scale: int = 0
    """Smallest non-zero scale; 0 and 1 mean none."""
    initial_scale: int = 1
    """Pods of a new revision, for the burst capacity before the first evaluation."""
    reachable: bool = True
    """False for a revision that no route names: it may shrink without a rate limit."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What the windows and the pod lister say at one moment, in the metric's unit."""

    ready: int
    """Ready pods, 0 or more."""
    stable: float
    panic: float


@dataclass(frozen=True)
class Panic:
    """The panic state: `since` is the time of its last cause (None: calm), `max_pods` the largest decision while in
    it.
    """

    since: float | None = None
    max_pods: int = 0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One evaluation: the result, and the inputs and rule that led to it."""

    desired: int
    """Pods wanted, before min-scale and max-scale."""
    excess_burst_capacity: int
    """Capacity left above load and target burst capacity; negative keeps the activator in the path."""
    bound: Bound = "metric"
    """The last rule that changed the result; `metric` when load over target decided alone."""
    observed: Observed
    target: float
    wanted_stable: int = 0
    wanted_panic: int = 0
    """ceil(load / target) of each window, before any limit."""
    panicking: bool = False
    at: float = 0.0
    """Unix seconds."""


def _int32(value: float) -> int:
    return int(min(value, INT32_MAX))


def excess_burst_capacity(spec: Spec, ready: int, panic: float) -> int:
    """Burst capacity left once the panic window's load and the target burst are served by `ready` pods (which may be
    0).
    """
    if spec.target_burst_capacity == 0:
        return 0
    if spec.target_burst_capacity < 0:
        return -1
    return math.floor(ready * spec.total - spec.target_burst_capacity - panic)


def initial_excess_burst_capacity(spec: Spec) -> int:
    """The excess burst capacity assumed before the first evaluation, from the initial scale."""
    if spec.target_burst_capacity in (-1, 0):
        return int(spec.target_burst_capacity)
    return int(spec.initial_scale * spec.total - spec.target_burst_capacity)


def decide(spec: Spec, seen: Observed, panic: Panic, now: float) -> tuple[Decision, Panic]:
    """Desired pods for one revision, and the panic state after it; no clock, no lock, no I/O.

    Args:
        now: Unix seconds; compared with `panic.since` only.
    Source: serving §4.6 (knative/serving pkg/autoscaler/scaling/autoscaler.go, Scale).
    """
    ready = max(1, seen.ready)
    # At least one more than `ready` is always allowed: rates are above 1 and this rounds up (1.1 x 3 pods = 3.3 -> 4).
    ceiling = math.ceil(spec.max_scale_up_rate * ready)
    floor = math.floor(ready / spec.max_scale_down_rate) if spec.reachable else 0
    wanted_stable = math.ceil(seen.stable / spec.target)
    wanted_panic = math.ceil(seen.panic / spec.target)
    stable = _int32(min(max(wanted_stable, floor), ceiling))
    panicked = _int32(min(max(wanted_panic, floor), ceiling))

    bound: Bound = "metric"
    if stable != wanted_stable:
        bound = "max-scale-up-rate" if stable < wanted_stable else "max-scale-down-rate"
    if spec.activation_scale > 1:
        if wanted_stable > 0 and spec.activation_scale > stable:
            stable, bound = spec.activation_scale, "activation-scale"
        if wanted_panic > 0 and spec.activation_scale > panicked:
            panicked = spec.activation_scale

    # The unclamped wish decides about panic: a rate limit must not hide a burst.
    if wanted_panic / ready >= spec.panic_threshold:
        panic = replace(panic, since=now)
    elif panic.since is not None and panic.since + spec.stable_window < now:
        panic = Panic()

    desired = stable
    if panic.since is not None:
        desired = max(stable, panicked, panic.max_pods)  # never shrinks while in panic
        panic = replace(panic, max_pods=desired)
        if desired != stable:
            bound = "panic"
    decision = Decision(
        desired=desired,
        excess_burst_capacity=excess_burst_capacity(spec, seen.ready, seen.panic),
        bound=bound,
        observed=seen,
        target=spec.target,
        wanted_stable=wanted_stable,
        wanted_panic=wanted_panic,
        panicking=panic.since is not None,
        at=now,
    )
    return decision, panic


@dataclass
class Evaluator:
    """The memory of one revision's evaluations: panic state and delay window. Single owner, not shared.

    Args:
        spec: replaced as a whole by `update`; its scale-down delay counts only at creation.
        ready_at_start: ready pods when made, None if they could not be counted. More than one means that a
            predecessor was serving: the evaluator starts in panic, so that an autoscaler restart cannot shrink the
            revision for one stable window.
        now: Unix seconds.
    """

    spec: Spec
    ready_at_start: int | None
    now: float
    panic: Panic = field(init=False, default=Panic())
    last: Decision | None = field(init=False, default=None)
    _delay: MaxWindow | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        ready = self.ready_at_start or 0
        self.panic = Panic(self.now if ready > 1 else None, ready)
        if self.spec.scale_down_delay > 0:
            self._delay = MaxWindow(math.ceil(self.spec.scale_down_delay / TICK), TICK)

    def update(self, spec: Spec) -> None:
        """Use another spec from the next evaluation on."""
        self.spec = spec

    def evaluate(self, seen: Observed, now: float) -> Decision:
        """One evaluation at Unix time `now`; the result is also kept as `last`."""
        decision, self.panic = decide(self.spec, seen, self.panic, now)
        if self._delay is not None and self.spec.reachable:
            self._delay.record(now, decision.desired)
            held = self._delay.current()
            if held > decision.desired:
                decision = replace(decision, desired=held, bound="scale-down-delay")
        self.last = decision
        return decision
