"""Counting and the two text formats; Prometheus' own parsers read what we write."""

import math

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from kncore.telemetry.exposition import prometheus_name, render
from kncore.telemetry.metrics import LATENCY_BUCKETS, PROCESS, Distribution, Metric, Point, Registry, process

PODS = Metric("kn.revision.pods.desired", "gauge", "{item}", "Pods wanted.", ("kn.revision.name", "k8s.namespace.name"))
REFUSED = Metric("torpor.queue.refused", "counter", "{request}", 'Turned away: "full" \\ or not.\n')
DURATION = Metric("kn.d", "histogram", "s", "d", ("code",), (0.1, 1.0))


def registry(*points: Point, **resource: str) -> Registry:
    made = Registry({name.replace("_", "."): value for name, value in resource.items()})
    made.add(lambda: points)
    return made


def samples(made: Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    content_type, body = render(made)
    assert content_type.startswith("text/plain; version=0.0.4")
    found = [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in found}


def modern(made: Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    content_type, body = render(made, "application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    families = openmetrics.text_string_to_metric_families(body.decode())
    found = [sample for family in families for sample in family.samples]
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in found}


@pytest.mark.parametrize("read", [samples, modern])
def test_sources_are_read_when_scraped(read) -> None:
    pods = {"hello": 1}
    made = Registry()
    made.add(lambda: [(PODS, (name, "ns"), count) for name, count in pods.items()])
    made.add(lambda: [(REFUSED, (), 2)])
    labels = (("k8s_namespace_name", "ns"), ("kn_revision_name", "hello"))
    assert read(made) == {("kn_revision_pods_desired", labels): 1.0, ("torpor_queue_refused_total", ()): 2.0}
    pods["hello"] = 3
    assert read(made)["kn_revision_pods_desired", labels] == 3.0


@pytest.mark.parametrize("read", [samples, modern])
def test_histograms_count_cumulatively_and_a_bound_is_within_its_bucket(read) -> None:
    seen = Distribution(DURATION.buckets)
    for value in (0.1, 0.5, 7):
        seen.observe(value)
    assert seen.count == 3
    found = read(registry((DURATION, ("200",), seen)))
    assert found == {
        ("kn_d_seconds_bucket", (("code", "200"), ("le", "0.1"))): 1.0,
        ("kn_d_seconds_bucket", (("code", "200"), ("le", "1.0"))): 2.0,
        ("kn_d_seconds_bucket", (("code", "200"), ("le", "+Inf"))): 3.0,
        ("kn_d_seconds_count", (("code", "200"),)): 3.0,
        ("kn_d_seconds_sum", (("code", "200"),)): 7.6,
    }


@pytest.mark.parametrize("read", [samples, modern])
@pytest.mark.parametrize("value", ["", 'quo"te', "back\\slash", "new\nline", "ünï", "{}=,"])
def test_what_a_client_sends_as_an_attribute_cannot_break_the_text(read, value: str) -> None:
    found = read(registry((PODS, (value, "ns"), 1)))
    expected = [("k8s_namespace_name", "ns"), *([("kn_revision_name", value)] if value else [])]
    assert found == {("kn_revision_pods_desired", tuple(expected)): 1.0}


def test_numbers_that_are_none() -> None:
    found = samples(registry((PODS, ("a", ""), math.inf), (PODS, ("b", ""), math.nan), (PODS, ("c", ""), -math.inf)))
    values = {labels[0][1]: value for (_, labels), value in found.items()}
    assert (values["a"], values["c"]) == (math.inf, -math.inf)
    assert math.isnan(values["b"])


@pytest.mark.parametrize("read", [samples, modern])
def test_the_resource_is_told_once(read) -> None:
    found = read(registry((PODS, ("a", ""), 1), service_name="activator", k8s_pod_name="p"))
    assert found["target_info", (("k8s_pod_name", "p"), ("service_name", "activator"))] == 1.0


@pytest.mark.parametrize(
    ("name", "unit", "spelled"),
    [
        ("http.server.request.duration", "s", "http_server_request_duration_seconds"),
        ("http.server.request.body.size", "By", "http_server_request_body_size_bytes"),
        ("kn.serving.queue.depth", "{request}", "kn_serving_queue_depth"),
        ("up.seconds", "s", "up_seconds"),
    ],
)
def test_names_are_spelled_as_prometheus_wants_them(name: str, unit: str, spelled: str) -> None:
    assert prometheus_name(Metric(name, "gauge", unit, "")) == spelled


def test_the_process_shows_itself_under_the_usual_names() -> None:
    made = Registry()
    made.add(process(made.started))
    found = samples(made)
    assert found["process_cpu_seconds_total", ()] > 0
    assert found["process_start_time_seconds", ()] == made.started
    assert ("cpython_gc_collections_total", (("cpython_gc_generation", "2"),)) in found
    assert {metric.name for metric, _ in made.collect()} <= {metric.name for metric in PROCESS}


def test_buckets_are_those_of_the_original() -> None:
    assert LATENCY_BUCKETS == (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
