"""ConfigMap config-autoscaler: cluster-wide scaling defaults (serving §3.1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from kncore.config.reader import Reader
from kncore.quantity import format_duration
from kncore.strconv import format_float

__all__ = ["TARGET_MIN", "WINDOW_MAX", "WINDOW_MIN", "Autoscaler"]

TARGET_MIN: Final = 0.01
"""Smallest target per pod: below it one request would want more pods than can exist."""
WINDOW_MIN: Final = 6.0
WINDOW_MAX: Final = 3600.0
"""Bounds of the stable window, seconds: shorter is less than a panic window of useful length, longer decides too
late.
"""


@dataclass(frozen=True, kw_only=True)
class Autoscaler:
    """Scaling defaults; annotations of a revision override many of them. Seconds, pods, ratios in 0..1."""

    container_concurrency_target_fraction: float = 0.7
    """Share of the concurrency total aimed for (key in percent; values up to 1 are fractions already)."""
    container_concurrency_target_default: float = 100.0
    """Total concurrency per pod when the revision sets no hard limit."""
    requests_per_second_target_default: float = 200.0
    """Total requests per second and pod for the rps metric."""
    target_utilization: float = 0.7
    """Share of the rps total aimed for; not configurable."""
    target_burst_capacity: float = 211.0
    """Burst the pods must absorb without the activator; 0 = activator only at zero, -1 = activator always."""
    activator_capacity: float = 100.0
    """Concurrent requests one activator is good for; sizes the activator subset."""
    stable_window: float = 60.0
    """Averaging window, whole seconds."""
    panic_window_percentage: float = 10.0
    """Length of the panic window as a percentage of the stable one."""
    panic_threshold_percentage: float = 200.0
    """Panic mode begins when the panic window wants this percentage of the ready pods."""
    max_scale_up_rate: float = 1000.0
    """Largest growth factor of one decision."""
    max_scale_down_rate: float = 2.0
    """Largest shrink factor of one decision."""
    enable_scale_to_zero: bool = True
    """Whether an idle revision may have no pods; otherwise it keeps one."""
    scale_to_zero_grace_period: float = 30.0
    """Longest wait for the activator to be in the path before the last pod goes."""
    scale_to_zero_pod_retention_period: float = 0.0
    """Least time the last pod stays after it is no longer needed."""
    scale_down_delay: float = 0.0
    """A decision to shrink waits this long, whole seconds."""
    pod_autoscaler_class: str = "kpa.autoscaling.knative.dev"
    """Which autoscaler scales a revision that does not say."""
    initial_scale: int = 1
    """Pods to reach before a revision is first Ready; 0 only if allowed."""
    allow_zero_initial_scale: bool = False
    """Whether a revision may ask to start without pods."""
    min_scale: int = 0
    """Pods that every reachable revision keeps, unless it says otherwise."""
    max_scale: int = 0
    """0 = no bound."""
    max_scale_limit: int = 0
    """Largest max-scale a user may set; 0 = no limit."""

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """The configuration in a ConfigMap's data.

        Raises:
            InvalidConfig: naming every bad key.
        """
        read = Reader(data, prefix="failed to parse data: ")
        class_ = read.string("pod-autoscaler-class", cls.pod_autoscaler_class)
        to_zero = read.boolean("enable-scale-to-zero", cls.enable_scale_to_zero)
        zero_initial = read.boolean("allow-zero-initial-scale", cls.allow_zero_initial_scale)
        up_rate = read.number("max-scale-up-rate", cls.max_scale_up_rate)
        down_rate = read.number("max-scale-down-rate", cls.max_scale_down_rate)
        fraction = read.number("container-concurrency-target-percentage", cls.container_concurrency_target_fraction)
        total = read.number("container-concurrency-target-default", cls.container_concurrency_target_default)
        rps = read.number("requests-per-second-target-default", cls.requests_per_second_target_default)
        burst = read.number("target-burst-capacity", cls.target_burst_capacity)
        panic_window = read.number("panic-window-percentage", cls.panic_window_percentage)
        capacity = read.number("activator-capacity", cls.activator_capacity)
        panic_threshold = read.number("panic-threshold-percentage", cls.panic_threshold_percentage)
        initial = read.int32("initial-scale", cls.initial_scale)
        low = read.int32("min-scale", cls.min_scale)
        high = read.int32("max-scale", cls.max_scale)
        limit = read.int32("max-scale-limit", cls.max_scale_limit)
        window = read.duration("stable-window", cls.stable_window)
        delay = read.duration("scale-down-delay", cls.scale_down_delay)
        grace = read.duration("scale-to-zero-grace-period", cls.scale_to_zero_grace_period)
        retention = read.duration("scale-to-zero-pod-retention-period", cls.scale_to_zero_pod_retention_period)

        if fraction > 1:
            fraction /= 100
        show, span = format_float, format_duration
        key = "scale-to-zero-grace-period"
        read.check(grace > 0, f"{key} must be positive, was: {span(grace)}", key)
        key = "scale-to-zero-pod-retention-period"
        read.check(retention >= 0, f"{key} cannot be negative, was: {span(retention)}", key)
        key = "scale-down-delay"
        read.check(delay >= 0, f"{key} cannot be negative, was: {span(delay)}", key)
        coarse = "must be specified with at most second precision"
        read.check(delay == int(delay), f"{key} = {span(delay)}, {coarse}", key)
        key = "target-burst-capacity"
        read.check(
            not burst < 0 or burst == -1,
            f"{key} must be either non-negative or -1 (for unlimited), was: {burst:.6f}",
            key,
        )
        percentage, default = "container-concurrency-target-percentage", "container-concurrency-target-default"
        shown = f"{fraction:.6f}" if math.isfinite(fraction) else show(fraction)
        read.check(
            not (fraction <= 0 or fraction > 1),
            f"{percentage} = {shown} is outside of valid range of (0, 100]",
            percentage,
        )
        read.check(
            not fraction * total < TARGET_MIN,
            f"{percentage} and {default} yield target concurrency of {show(fraction * total)}, "
            f"can't be less than {show(TARGET_MIN)}",
            percentage,
            default,
        )
        key = "requests-per-second-target-default"
        read.check(not rps < TARGET_MIN, f"{key} must be at least {show(TARGET_MIN)}, was: {show(rps)}", key)
        key = "activator-capacity"
        read.check(not capacity < 1, f"{key} = {show(capacity)}, must be at least 1", key)
        for key, rate in (("max-scale-up-rate", up_rate), ("max-scale-down-rate", down_rate)):
            read.check(not rate <= 1, f"{key} = {show(rate)}, must be greater than 1.0", key)
        key = "stable-window"
        bounds = f"[{span(WINDOW_MIN)}; {span(WINDOW_MAX)}]"
        read.check(WINDOW_MIN <= window <= WINDOW_MAX, f"{key} = {span(window)}, must be in {bounds} range", key)
        read.check(window == int(window), f"{key} = {span(window)}, {coarse}", key)
        key = "panic-window-percentage"
        read.check(
            not (panic_window < 1 or panic_window > 100),
            f"{key} = {show(panic_window)}, must be in [1, 100] interval",
            key,
        )
        key = "initial-scale"
        read.check(
            initial > 0 or (initial == 0 and zero_initial),
            f"{key} = {initial}, must be at least 0 (or at least 1 when allow-zero-initial-scale is false)",
            key,
            "allow-zero-initial-scale",
        )
        read.check(limit >= 0, f"max-scale-limit = {limit}, must be at least 0", "max-scale-limit")
        lowest = 1 if limit > 0 else 0  # with a limit, unlimited is no longer an option
        read.check(
            high >= lowest and not 0 < limit < high,
            f"max-scale = {high}, must be in [{lowest}, max-scale-limit({limit})] range",
            "max-scale",
            "max-scale-limit",
        )
        read.check(low >= 0, f"min-scale = {low}, must be at least 0", "min-scale")
        read.check(
            low <= high or high <= 0,
            f"min-scale ({low}) must be less than max-scale ({high})",
            "min-scale",
            "max-scale",
        )
        read.finish()
        return cls(
            container_concurrency_target_fraction=fraction,
            container_concurrency_target_default=total,
            requests_per_second_target_default=rps,
            target_burst_capacity=burst,
            activator_capacity=capacity,
            stable_window=window,
            panic_window_percentage=panic_window,
            panic_threshold_percentage=panic_threshold,
            max_scale_up_rate=up_rate,
            max_scale_down_rate=down_rate,
            enable_scale_to_zero=to_zero,
            scale_to_zero_grace_period=grace,
            scale_to_zero_pod_retention_period=retention,
            scale_down_delay=delay,
            pod_autoscaler_class=class_,
            initial_scale=initial,
            allow_zero_initial_scale=zero_initial,
            min_scale=low,
            max_scale=high,
            max_scale_limit=limit,
        )
