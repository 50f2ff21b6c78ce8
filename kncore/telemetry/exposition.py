"""Metrics as text for Prometheus: its own format 0.0.4, or OpenMetrics 1.0 for who accepts it.

Names are turned from OpenTelemetry's into Prometheus' here and nowhere else: underscores for dots, the unit as suffix,
`_total` for counters. So `kn.serving.invocation.duration` in `s` is `kn_serving_invocation_duration_seconds`, the name
that the original's exporter gives it. What a process is (`service.name` and so on) is in `target_info`.

Source: Prometheus' exposition formats; OpenTelemetry's "Prometheus and OpenMetrics Compatibility".
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from kncore.telemetry.metrics import Distribution, Family, Metric, Registry

__all__ = ["content_type", "pieces", "prometheus_name", "render", "wants_openmetrics"]

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
    modern = wants_openmetrics(accept)
    return content_type(modern=modern), "".join(pieces(registry, registry.collect(), modern=modern)).encode()


def wants_openmetrics(accept: str) -> bool:
    """Whether a scraper with this Accept header reads OpenMetrics."""
    return "application/openmetrics-text" in accept


def content_type(*, modern: bool) -> str:
    """Of OpenMetrics, or of the older text."""
    return OPENMETRICS if modern else TEXT


def pieces(registry: Registry, families: Iterable[Family], *, modern: bool) -> Iterator[str]:
    """The text, a point or a header at a time, for who must not be busy with it for long."""
    if registry.resource:
        labels = _labels([_ODD.sub("_", name) for name in registry.resource], list(registry.resource.values()))
        kind, family = ("info", "target") if modern else ("gauge", "target_info")
        shown = f"{{{labels}}}" if labels else ""
        yield f"# HELP {family} What this process is.\n# TYPE {family} {kind}\ntarget_info{shown} 1\n"
    for metric, points in families:
        yield from _family(metric, points, modern=modern)
    if modern:
        yield "# EOF\n"


def _family(
    metric: Metric, points: Sequence[tuple[tuple[str, ...], float | Distribution]], *, modern: bool
) -> Iterator[str]:
    name = prometheus_name(metric)
    total = f"{name}_total" if metric.kind == "counter" else name
    shown = name if modern else total  # the older format names the sample, the newer one the family
    yield f"# HELP {shown} {_escape(metric.help, quotes=modern)}\n# TYPE {shown} {metric.kind}\n"
    names = [_ODD.sub("_", attribute) for attribute in metric.attributes]
    bounds = [f'le="{_number(bound)}"}} ' for bound in (*metric.buckets, math.inf)]
    for values, value in points:
        labels = _labels(names, values)
        if isinstance(value, Distribution):
            yield _histogram(name, labels, bounds, value)
        else:
            yield f"{total}{{{labels}}} {_number(value)}\n" if labels else f"{total} {_number(value)}\n"


def _histogram(name: str, labels: str, bounds: Sequence[str], seen: Distribution) -> str:
    """The lines of one distribution. Many: a thousand revisions are a hundred thousand of them."""
    start = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
    below = 0
    lines = []
    for bound, count in zip(bounds, seen.counts, strict=True):
        below += count
        lines.append(f"{start}{bound}{below}\n")
    whole = f"{{{labels}}}" if labels else ""
    lines.append(f"{name}_sum{whole} {_number(seen.sum)}\n{name}_count{whole} {below}\n")
    return "".join(lines)


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    """Without braces; an empty value means the same as no label, so it is left out."""
    return ",".join([f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True) if value])


def _escape(text: str, *, quotes: bool = True) -> str:
    if text.isalnum():
        return text
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return repr(float(value))
