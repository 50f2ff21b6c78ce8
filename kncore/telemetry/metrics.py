"""Metrics: everything bounded has `statistics()`, and metrics are nothing but a view of those.

A component registers functions that read its statistics and yield `Sample`s; they run when somebody scrapes, so
counting costs nothing in between. Latencies need memory of their own: `Histogram`. Names are OpenTelemetry's, as
Knative documents them (`kn.revision.pods.desired`), and are turned into Prometheus' spelling here, in one place.

prometheus-client is imported when a registry is made, not with this module: a queue-proxy without metrics must not
pay for it.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

__all__ = ["LATENCY_BUCKETS", "Histogram", "Registry", "Sample", "prometheus_name"]

Kind = Literal["gauge", "counter"]

LATENCY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds in seconds; OpenTelemetry's advice for request durations."""

_ODD: Final = re.compile(r"[^a-zA-Z0-9_:]")


def prometheus_name(name: str, unit: str = "") -> str:
    """An OpenTelemetry name as Prometheus spells it: underscores for dots, the unit as suffix."""
    spelled = _ODD.sub("_", name)
    return f"{spelled}_{unit}" if unit and not spelled.endswith(f"_{unit}") else spelled


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric at the moment of a scrape."""

    name: str
    """OpenTelemetry name, e.g. `kn.revision.pods.desired`."""
    value: float
    attributes: Mapping[str, str] = field(default_factory=dict)
    kind: Kind = "gauge"
    help: str = ""
    unit: str = ""
    """Unit suffix, e.g. `seconds`."""


class Histogram:
    """Counts of observed values by bucket, per set of attributes; the number of sets is bounded.

    Args:
        name: OpenTelemetry name.
        help: what it measures.
        attributes: names of the attributes, in the order `observe` gets their values.
        unit: unit suffix.
        buckets: rising upper bounds; a last one without bound is added.
        limit: most sets of attributes; further ones are counted together under empty values, so that clients cannot
            fill memory.
    """

    def __init__(
        self,
        name: str,
        help: str,
        attributes: Sequence[str] = (),
        *,
        unit: str = "seconds",
        buckets: Sequence[float] = LATENCY_BUCKETS,
        limit: int = 1000,
    ) -> None:
        self.name = name
        self.help = help
        self.unit = unit
        self.attributes = tuple(attributes)
        self.buckets = tuple(buckets)
        self._limit = limit
        self._rest = ("",) * len(self.attributes)
        self._series: dict[tuple[str, ...], list[float]] = {}  # counts per bucket, then the sum

    def observe(self, value: float, *attributes: str) -> None:
        """Count one value."""
        series = self._series.get(attributes)
        if series is None:
            if len(attributes) != len(self.attributes):
                raise ValueError(f"{self.name} wants {len(self.attributes)} attributes, got {len(attributes)}")
            if len(self._series) >= self._limit:
                attributes = self._rest
            series = self._series.setdefault(attributes, [0.0] * (len(self.buckets) + 2))
        series[bisect_left(self.buckets, value)] += 1
        series[-1] += value

    def forget(self, *attributes: str) -> None:
        """Drop a set of attributes, e.g. of a deleted revision."""
        self._series.pop(attributes, None)

    def series(self) -> Iterator[tuple[tuple[str, ...], list[tuple[float, float]], float]]:
        """(attribute values, [(upper bound, cumulative count)], sum) of each set."""
        bounds = (*self.buckets, float("inf"))
        for attributes, series in self._series.items():
            total = 0.0
            cumulative = []
            for bound, count in zip(bounds, series, strict=False):
                total += count
                cumulative.append((bound, total))
            yield attributes, cumulative, series[-1]


class Registry:
    """What a process exposes to Prometheus.

    Args:
        process: also expose the process's own CPU, memory and garbage collector.
    """

    def __init__(self, *, process: bool = True) -> None:
        import prometheus_client  # see the module's docstring

        self._registry = prometheus_client.CollectorRegistry(auto_describe=False)
        if process:
            prometheus_client.ProcessCollector(registry=self._registry)
            prometheus_client.GCCollector(registry=self._registry)
            prometheus_client.PlatformCollector(registry=self._registry)
        self._sources: list[Callable[[], Iterable[Sample]]] = []
        self._histograms: list[Histogram] = []
        self._registry.register(_Collector(self))

    def add(self, source: Callable[[], Iterable[Sample]]) -> None:
        """Have `source()` called at every scrape."""
        self._sources.append(source)

    def histogram(self, histogram: Histogram) -> Histogram:
        """Expose a histogram; returns it."""
        self._histograms.append(histogram)
        return histogram

    def samples(self) -> Iterator[Sample]:
        """What the sources say now."""
        for source in self._sources:
            yield from source()

    def histograms(self) -> Sequence[Histogram]:
        """The registered histograms."""
        return self._histograms

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """(content type, body) of an answer to a scrape with this Accept header."""
        from prometheus_client.exposition import choose_encoder  # see the module's docstring

        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)


class _Collector:
    """Bridges a Registry to prometheus-client, which calls `collect` at every scrape."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Any]:
        from prometheus_client import core  # see the module's docstring

        families: dict[str, Any] = {}
        for sample in self._registry.samples():
            name = prometheus_name(sample.name, sample.unit)
            family = families.get(name)
            if family is None:
                kind = core.GaugeMetricFamily if sample.kind == "gauge" else core.CounterMetricFamily
                family = families[name] = kind(name, sample.help or sample.name)
            labels = {prometheus_name(key): value for key, value in sample.attributes.items()}
            suffix = "_total" if sample.kind == "counter" else ""
            family.add_sample(family.name + suffix, labels, sample.value)
        yield from families.values()
        for histogram in self._registry.histograms():
            name = prometheus_name(histogram.name, histogram.unit)
            names = [prometheus_name(attribute) for attribute in histogram.attributes]
            made = core.HistogramMetricFamily(name, histogram.help, labels=names)
            for values, cumulative, total in histogram.series():
                buckets = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in cumulative]
                made.add_metric(list(values), buckets, total)
            yield made
