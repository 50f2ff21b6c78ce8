"""The autoscaling.knative.dev annotations of templates, Revisions and PodAutoscalers (serving §2.1).

Every check looks at one annotation under all its spellings and reports under the spelling that was used. NaN and the
infinities are numbers to Go, and the original lets some of them through; no scale can come of them, so they are refused
here (serving §10.9).
"""

import math
from collections.abc import Mapping
from typing import Final

from kncore.api import keys
from kncore.api.fielderror import OK, FieldError, generic, invalid_key, invalid_value, joined, out_of_bounds
from kncore.config.autoscaler import Autoscaler
from kncore.quantity import parse_duration_ns
from kncore.strconv import INT32_MAX, format_float, parse_float, parse_int

__all__ = ["found", "has_second_precision", "no_scaling_annotations", "scaling_annotations"]

Annotations = Mapping[str, str]

_SECOND_NS: Final = 10**9
_HOUR_NS: Final = 3600 * _SECOND_NS
_ALGORITHMS: Final = frozenset({"linear", "weighted-exponential", "weightedExponential"})


def found(annotations: Annotations, aliases: tuple[str, ...]) -> tuple[str, str] | None:
    """The first alias that is present and its value, which may be empty."""
    for alias in aliases:
        if alias in annotations:
            return alias, annotations[alias]
    return None


def has_second_precision(duration_ns: int) -> bool:
    """Whether a duration is a whole number of seconds."""
    return duration_ns % _SECOND_NS == 0


def no_scaling_annotations(annotations: Annotations) -> FieldError:
    """Outside templates these annotations do nothing, so they are refused with a hint where to put them."""
    hint = 'autoscaling annotations must be put under "spec.template.metadata.annotations" to work'
    return joined(invalid_key(key, "", hint) for key in annotations if key.startswith(keys.GROUP_AUTOSCALING))


def scaling_annotations(annotations: Annotations, config: Autoscaler) -> FieldError:
    """All of them, each by its own rule, and those that limit each other."""
    return (
        _class(annotations)
        + _scale_bounds(annotations, config)
        + _floats(annotations)
        + _window(annotations)
        + _duration(annotations, keys.RETENTION_PERIOD, whole_seconds=False)
        + _duration(annotations, keys.SCALE_DOWN_DELAY, whole_seconds=True)
        + _metric(annotations, config)
        + _algorithm(annotations)
        + _initial_scale(annotations, config)
    )


def _class(annotations: Annotations) -> FieldError:
    """Knative's own domain is reserved; classes of other domains are their owners' business."""
    if (given := found(annotations, keys.AUTOSCALER_CLASS)) is None:
        return OK
    key, value = given
    unknown = value.endswith(".knative.dev") and value not in {keys.KPA_CLASS, keys.HPA_CLASS}
    return invalid_value(value, key) if unknown else OK


def _scale(annotations: Annotations, aliases: tuple[str, ...]) -> tuple[int, FieldError]:
    """A count of pods; 0 when it is absent or wrong, so that the checks between bounds go on."""
    if (given := found(annotations, aliases)) is None:
        return 0, OK
    key, value = given
    try:
        scale = parse_int(value, 32)
    except ValueError as error:
        if "out of range" in str(error):
            return 0, out_of_bounds(value, 0, INT32_MAX, key)
        return 0, invalid_value(value, key)
    return (scale, OK) if scale >= 0 else (0, out_of_bounds(value, 0, INT32_MAX, key))


def _scale_bounds(annotations: Annotations, config: Autoscaler) -> FieldError:
    low, wrong = _scale(annotations, keys.MIN_SCALE)
    high, about_high = _scale(annotations, keys.MAX_SCALE)
    wrong += about_high
    if 0 < high < low:
        message = f"max-scale={high} is less than min-scale={low}"
        wrong += generic(message, keys.MAX_SCALE[0], keys.MIN_SCALE[0])
    limit = config.max_scale_limit
    if limit and (given := found(annotations, keys.MAX_SCALE)) is not None:
        if high > limit:
            wrong += out_of_bounds(high, 1, limit, given[0])
        elif high == 0:
            wrong += generic(f"max-scale=0 (unlimited), must be less than {limit}", given[0])
    return wrong + _activation_scale(annotations, low, high)


def _activation_scale(annotations: Annotations, low: int, high: int) -> FieldError:
    if (given := found(annotations, keys.ACTIVATION_SCALE)) is None:
        return OK
    key, value = given
    try:
        scale = parse_int(value, 32)
    except ValueError:
        return invalid_value(value, key)
    if low > scale:
        return generic(f"min-scale={low} is greater than activation-scale={scale}", key)
    if 0 != high < scale:
        return generic(f"max-scale={high} is less than activation-scale={scale}", key)
    return OK if scale > 1 else generic(f"activation-scale={scale} must be greater than 1", key)


def _floats(annotations: Annotations) -> FieldError:
    wrong = OK
    for aliases, low, high in (
        (keys.PANIC_WINDOW_PERCENTAGE, 1.0, 100.0),
        (keys.PANIC_THRESHOLD_PERCENTAGE, 110.0, 1000.0),
        (keys.TARGET_UTILIZATION, 1.0, 100.0),
        (keys.TARGET, 0.01, math.inf),
        (keys.TARGET_BURST_CAPACITY, -math.inf, math.inf),
    ):
        if (given := found(annotations, aliases)) is not None:
            wrong += _float(*given, low, high)
    return wrong


def _float(key: str, text: str, low: float, high: float) -> FieldError:
    try:
        value = parse_float(text)
    except ValueError:
        return invalid_value(text, key)
    if key in keys.TARGET_BURST_CAPACITY:
        usable = math.isfinite(value) and (value >= 0 or value == -1)
        return OK if usable else invalid_value(text, key)
    if key in keys.TARGET and value < low:
        return generic(f"target {text} should be at least {format_float(low)}", key)
    if value < low or value > high:
        return out_of_bounds(text, format_float(low), format_float(high), key)
    return OK if math.isfinite(value) else invalid_value(text, key)


def _window(annotations: Annotations) -> FieldError:
    if (given := found(annotations, keys.WINDOW)) is None:
        return OK
    key, text = given
    try:
        window = parse_duration_ns(text)
    except ValueError:
        return invalid_value(text, key)
    if not 6 * _SECOND_NS <= window <= _HOUR_NS:
        return out_of_bounds(text, "6s", "1h0m0s", key)
    return OK if has_second_precision(window) else generic("must be specified with at most second precision", key)


def _duration(annotations: Annotations, aliases: tuple[str, ...], *, whole_seconds: bool) -> FieldError:
    if (given := found(annotations, aliases)) is None:
        return OK
    key, text = given
    try:
        duration = parse_duration_ns(text)
    except ValueError:
        return invalid_value(text, key)
    if not 0 <= duration <= _HOUR_NS:
        return out_of_bounds(text, "0s", "1h0m0s", key)
    if whole_seconds and not has_second_precision(duration):
        return generic("must be specified with at most second precision", key)
    return OK


def _metric(annotations: Annotations, config: Autoscaler) -> FieldError:
    """What each class of autoscaler can measure; foreign classes are not asked."""
    if (given := found(annotations, keys.METRIC)) is None:
        return OK
    key, metric = given
    named = found(annotations, keys.AUTOSCALER_CLASS)
    class_ = named[1] if named is not None else config.pod_autoscaler_class
    if class_ == keys.KPA_CLASS and metric not in {"concurrency", "rps"}:
        return invalid_value(metric, key)
    if class_ == keys.HPA_CLASS and not metric:
        return invalid_value(metric, key)
    return OK


def _algorithm(annotations: Annotations) -> FieldError:
    """Checked only when the class is named and is ours: others may have algorithms of their own."""
    if keys.lookup(annotations, keys.AUTOSCALER_CLASS) != keys.KPA_CLASS:
        return OK
    given = found(annotations, keys.AGGREGATION_ALGORITHM)
    if given is None or not given[1] or given[1] in _ALGORITHMS:
        return OK
    key, value = given
    return invalid_value(value, key)


def _initial_scale(annotations: Annotations, config: Autoscaler) -> FieldError:
    if (given := found(annotations, keys.INITIAL_SCALE)) is None:
        return OK
    key, text = given
    try:
        scale = parse_int(text)
    except ValueError:
        return invalid_value(text, key)
    if scale < 0:
        return invalid_value(text, f"{key} must be greater than 0")
    if scale == 0 and not config.allow_zero_initial_scale:
        return invalid_value(text, f"{key}=0 not allowed by cluster")
    return OK
