"""What a PodAutoscaler asks for, with the cluster's configuration filled in.

Annotations carry most of it. One that does not parse counts as absent: admission refuses it, so it can only have
slipped in while the webhook was away, and a revision must not stop scaling for it. A number that parses but is out of
range is used as it is, as the original does.

Source: knative/serving pkg/apis/autoscaling/v1alpha1/pa_lifecycle.go, pkg/reconciler/autoscaling/resources (serving
    §2.1, §4.5).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from kncore.api import keys
from kncore.api.meta import annotations, at
from kncore.config.autoscaler import TARGET_MIN, Autoscaler
from kncore.config.deployment import Deployment
from kncore.quantity import parse_duration
from kncore.strconv import parse_float, parse_int

__all__ = [
    "CONCURRENCY",
    "CPU",
    "MEMORY",
    "PANIC_WINDOW_MIN",
    "RPS",
    "activation_scale",
    "aggregation_algorithm",
    "class_",
    "container_concurrency",
    "default_metric",
    "initial_scale",
    "is_reachable",
    "metric",
    "panic_threshold",
    "panic_window",
    "pod_retention",
    "pod_retention_annotation",
    "progress_deadline",
    "scale_bounds",
    "scale_down_delay",
    "scale_to_zero_grace_period",
    "stable_window",
    "target_annotation",
    "target_burst_capacity",
    "targets",
]

CONCURRENCY: Final = "concurrency"
RPS: Final = "rps"
CPU: Final = "cpu"
MEMORY: Final = "memory"

PANIC_WINDOW_MIN: Final = 1.0
"""Seconds; one bucket of the metric windows."""

_T = TypeVar("_T")


def _read(pa: Mapping[str, Any], aliases: Sequence[str], parse: Callable[[str], _T]) -> _T | None:
    text = keys.lookup(annotations(pa), aliases)
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError:
        return None


def _int(pa: Mapping[str, Any], aliases: Sequence[str]) -> int | None:
    return _read(pa, aliases, lambda text: parse_int(text, 32))


def _number(pa: Mapping[str, Any], aliases: Sequence[str]) -> float | None:
    value = _read(pa, aliases, parse_float)
    return value if value is not None and math.isfinite(value) else None


def _duration(pa: Mapping[str, Any], aliases: Sequence[str]) -> float | None:
    return _read(pa, aliases, parse_duration)


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def class_(pa: Mapping[str, Any]) -> str:
    """Which autoscaler looks after it; KPA unless said otherwise."""
    return _or(keys.lookup(annotations(pa), keys.AUTOSCALER_CLASS), keys.KPA_CLASS)


def default_metric(class_name: str) -> str:
    """The metric of a class that was not told one; "" for a foreign class."""
    return {keys.KPA_CLASS: CONCURRENCY, keys.HPA_CLASS: CPU}.get(class_name, "")


def metric(pa: Mapping[str, Any]) -> str:
    """The name of the metric to scale by."""
    found = keys.lookup(annotations(pa), keys.METRIC)
    return default_metric(class_(pa)) if found is None else found


def container_concurrency(pa: Mapping[str, Any]) -> int:
    """Hard limit of requests in one pod; 0 = none."""
    return int(at(pa, "spec", "containerConcurrency", default=0))


def is_reachable(pa: Mapping[str, Any]) -> bool:
    """Whether a route uses the revision, or nobody knows yet."""
    return bool(at(pa, "spec", "reachability", default="") != "Unreachable")


def scale_bounds(pa: Mapping[str, Any], config: Autoscaler) -> tuple[int, int]:
    """Least and most pods; most 0 = no bound. An unreachable revision has no least."""
    low = _or(_int(pa, keys.MIN_SCALE), config.min_scale) if is_reachable(pa) else 0
    return low, _or(_int(pa, keys.MAX_SCALE), config.max_scale)


def initial_scale(pa: Mapping[str, Any], config: Autoscaler) -> int:
    """Pods to reach before the revision is first Ready; 0 only if the cluster allows it."""
    wanted = _int(pa, keys.INITIAL_SCALE)
    if wanted is None or (wanted == 0 and not config.allow_zero_initial_scale):
        return config.initial_scale
    return wanted


def activation_scale(pa: Mapping[str, Any]) -> int:
    """Smallest scale other than zero; 0 = not set."""
    return _or(_int(pa, keys.ACTIVATION_SCALE), 0)


def target_annotation(pa: Mapping[str, Any]) -> float | None:
    """The target as the user wrote it, None if absent; what HPA uses directly."""
    return _number(pa, keys.TARGET)


def targets(pa: Mapping[str, Any], config: Autoscaler) -> tuple[float, float]:
    """What one pod should get and what it could get at most: (target, total), in requests or requests per second."""
    limit = container_concurrency(pa)
    name = metric(pa)
    if name == RPS:
        total, utilization = config.requests_per_second_target_default, config.target_utilization
    else:
        total = float(limit or config.container_concurrency_target_default)
        utilization = config.container_concurrency_target_fraction
    wanted = target_annotation(pa)
    if wanted is not None:
        total = min(wanted, float(limit)) if name == CONCURRENCY and limit else wanted
    percentage = _number(pa, keys.TARGET_UTILIZATION)
    if percentage is not None:
        utilization = percentage / 100
    return max(TARGET_MIN, total * utilization), total


def target_burst_capacity(pa: Mapping[str, Any], config: Autoscaler) -> float:
    """Burst the pods must absorb without the activator; -1 = activator always in the path."""
    return _or(_number(pa, keys.TARGET_BURST_CAPACITY), config.target_burst_capacity)


def stable_window(pa: Mapping[str, Any], config: Autoscaler) -> float:
    """Averaging window, seconds."""
    return _or(_duration(pa, keys.WINDOW), config.stable_window)


def panic_window(pa: Mapping[str, Any], config: Autoscaler) -> float:
    """Short averaging window: a percentage of the stable one, whole seconds, at least 1."""
    percentage = _or(_number(pa, keys.PANIC_WINDOW_PERCENTAGE), config.panic_window_percentage)
    seconds = stable_window(pa, config) * percentage / 100
    # half a second rounds away from zero
    return max(PANIC_WINDOW_MIN, float(math.floor(seconds + 0.5)))


def panic_threshold(pa: Mapping[str, Any], config: Autoscaler) -> float:
    """Ratio of wanted to ready pods at which panic mode begins."""
    return _or(_number(pa, keys.PANIC_THRESHOLD_PERCENTAGE), config.panic_threshold_percentage) / 100


def scale_down_delay(pa: Mapping[str, Any], config: Autoscaler) -> float:
    """How long a decision to shrink waits, seconds."""
    return _or(_duration(pa, keys.SCALE_DOWN_DELAY), config.scale_down_delay)


def aggregation_algorithm(pa: Mapping[str, Any]) -> str:
    """`linear`, `weighted-exponential`, or "" for the default (linear)."""
    found = _or(keys.lookup(annotations(pa), keys.AGGREGATION_ALGORITHM), "")
    return "weighted-exponential" if found == "weightedExponential" else found


def pod_retention_annotation(pa: Mapping[str, Any]) -> float | None:
    """Least time the last pod stays, as the user wrote it; None if absent."""
    return _duration(pa, keys.RETENTION_PERIOD)


def pod_retention(pa: Mapping[str, Any], config: Autoscaler) -> float:
    """Least time the last pod stays after it is no longer needed, seconds; none for an unreachable revision."""
    if not is_reachable(pa):
        return 0.0
    return _or(pod_retention_annotation(pa), config.scale_to_zero_pod_retention_period)


def scale_to_zero_grace_period(pa: Mapping[str, Any], config: Autoscaler) -> float:
    """Longest wait for the activator before the last pod goes, seconds.

    Upstream it is a cluster setting only; many tutorials write it as an annotation, so a positive one is honoured.
    """
    wanted = _duration(pa, keys.GRACE_PERIOD)
    return wanted if wanted is not None and wanted > 0 else config.scale_to_zero_grace_period


def progress_deadline(pa: Mapping[str, Any], config: Deployment) -> float:
    """How long pods may take to become ready, seconds."""
    return _or(_duration(pa, keys.PROGRESS_DEADLINE), config.progress_deadline)
