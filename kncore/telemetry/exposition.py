"""Metrics as text for Prometheus: its own format 0.0.4, or OpenMetrics 1.0 for who accepts it.

Names are turned from OpenTelemetry's into Prometheus' here and nowhere else: underscores for dots, the unit as suffix,
`_total` for counters. So `kn.serving.invocation.duration` in `s` is `kn_serving_invocation_duration_seconds`, the name
that the original's exporter gives it. What a process is (`service.name` and so on) is in `target_info`.

Source: Prometheus' exposition formats; OpenTelemetry's "Prometheus and OpenMetrics Compatibility".
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Final

from kncore.telemetry.metrics import Distribution, Family, Metric, Registry

__all__ = ["prometheus_name", "render"]

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ODD: Final = re.compile(r"[^a-zA-Z0-9_]")
_UNITS: Final = {"s": "seconds", "By": "bytes"}


def prometheus_name(metric: Metric) -> str:
    """The metric's family name: without `_total`, which belongs to the sample."""
    name = _ODD.sub("_", metric.name)
    unit = _UNITS.get(metric.unit, "")
    return f"{name}_{unit}" if unit and not name.endswith(f"_{unit}") else name


def render(registry: Registry, accept: str = "") -> tuple[str, bytes]:
    """(content type, body) of an answer to a scrape with this Accept header."""
    modern = "application/openmetrics-text" in accept
    lines: list[str] = []
    if registry.resource:
        labels = _labels([_ODD.sub("_", name) for name in registry.resource], list(registry.resource.values()))
        kind, family = ("info", "target") if modern else ("gauge", "target_info")
        lines += (f"# HELP {family} What this process is.", f"# TYPE {family} {kind}", f"target_info{labels} 1")
    for family_ in registry.collect():
        lines += _family(family_, modern=modern)
    lines += ("# EOF", "") if modern else ("",)
    return OPENMETRICS if modern else TEXT, "\n".join(lines).encode()


def _family(family: Family, *, modern: bool) -> Iterator[str]:
    metric, points = family
    name = prometheus_name(metric)
    total = f"{name}_total" if metric.kind == "counter" else name
    shown = name if modern else total  # the older format names the sample, the newer one the family
    yield f"# HELP {shown} {_escape(metric.help, quotes=modern)}"
    yield f"# TYPE {shown} {metric.kind}"
    names = [_ODD.sub("_", attribute) for attribute in metric.attributes]
    for values, value in points:
        if isinstance(value, Distribution):
            yield from _histogram(name, names, values, value)
        else:
            yield f"{total}{_labels(names, values)} {_number(value)}"


def _histogram(name: str, names: Sequence[str], values: Sequence[str], seen: Distribution) -> Iterator[str]:
    below = 0
    for bound, count in zip((*seen.bounds, math.inf), seen.counts, strict=True):
        below += count
        yield f"{name}_bucket{_labels((*names, 'le'), (*values, _number(bound)))} {below}"
    labels = _labels(names, values)
    yield f"{name}_sum{labels} {_number(seen.sum)}"
    yield f"{name}_count{labels} {below}"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    """In braces; an empty value means the same as no label, so it is left out."""
    made = ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True) if value)
    return f"{{{made}}}" if made else ""


def _escape(text: str, *, quotes: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return repr(float(value))
