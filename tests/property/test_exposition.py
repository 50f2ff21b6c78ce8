"""Whatever is measured, Prometheus' own parsers read back what was meant."""

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from kncore.telemetry.exposition import render
from kncore.telemetry.metrics import Distribution, Metric, Registry

# Names of metrics and attributes are ours, values are anybody's.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))
GAUGE = Metric("torpor.some.gauge", "gauge", "{thing}", "A gauge.", ("some.name", "other"))
COUNTER = Metric("torpor.some.counter", "counter", "By", "A counter.", ("some.name",))
HISTOGRAM = Metric("torpor.some.duration", "histogram", "s", "A duration.", ("some.name",), (0.1, 1.0, 10.0))
VALUES = st.floats(allow_nan=False)


def parsed(registry: Registry, *, modern: bool) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    accept = "application/openmetrics-text" if modern else ""
    text = render(registry, accept)[1].decode()
    families = openmetrics.text_string_to_metric_families(text) if modern else text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def labels(**given: str) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in given.items() if value)


@given(
    st.dictionaries(st.tuples(TEXT, TEXT), VALUES, max_size=5),
    st.dictionaries(TEXT, st.floats(0, 1e300), max_size=5),
    st.dictionaries(TEXT, st.lists(st.floats(0, 1e6), min_size=1), max_size=3),
    st.booleans(),
)
def test_round_trip(
    gauges: dict[tuple[str, str], float],
    counters: dict[str, float],
    observed: dict[str, list[float]],
    modern: bool,
) -> None:
    distributions = {}
    for name, values in observed.items():
        seen = distributions[name] = Distribution(HISTOGRAM.buckets)
        for value in values:
            seen.observe(value)
    registry = Registry()
    registry.add(lambda: [(GAUGE, key, value) for key, value in gauges.items()])
    registry.add(lambda: [(COUNTER, (key,), value) for key, value in counters.items()])
    registry.add(lambda: [(HISTOGRAM, (key,), value) for key, value in distributions.items()])

    found = parsed(registry, modern=modern)

    for (name, other), value in gauges.items():
        assert found.pop(("torpor_some_gauge", labels(some_name=name, other=other))) == value
    for name, value in counters.items():
        assert found.pop(("torpor_some_counter_bytes_total", labels(some_name=name))) == value
    for name, values in observed.items():
        own = labels(some_name=name)
        assert found.pop(("torpor_some_duration_seconds_count", own)) == len(values)
        assert math.isclose(found.pop(("torpor_some_duration_seconds_sum", own)), sum(values))
        for bound in (*HISTOGRAM.buckets, math.inf):
            le = "+Inf" if bound == math.inf else str(bound)
            key = ("torpor_some_duration_seconds_bucket", own | {("le", le)})
            assert found.pop(key) == sum(value <= bound for value in values)
    assert not found
