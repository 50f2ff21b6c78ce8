"""Environment variables, arguments and the downward API, as the kubelet makes them."""

import base64
from typing import Any

import pytest

from torpor.embedded.node.environment import (
    ConfigMissing,
    Facts,
    References,
    expand,
    field_value,
    make_environment,
    resource_value,
)

FACTS = Facts(pod_ip="127.2.128.1", host_ip="127.2.0.1", cpu_milli=4000, memory_bytes=8 << 30)
POD: Any = {
    "metadata": {
        "name": "p",
        "namespace": "ns",
        "uid": "u",
        "labels": {"b": "2", "a": "1"},
        "annotations": {"k": 'line\n"quoted"\\'},
    },
    "spec": {
        "nodeName": "torpor",
        "containers": [
            {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": "100m"}}},
            {"name": "bare"},
        ],
    },
}


def references(config_maps: Any = None, secrets: Any = None) -> References:
    def found(objects: Any, name: str) -> Any:
        return {"data": objects[name]} if objects and name in objects else None

    return References(config_map=lambda name: found(config_maps, name), secret=lambda name: found(secrets, name))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(NO)", "$(NO)"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("$($(A))", "$($(A))"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2", "$(A": "?"}).replace("?)", "$($(A))") == expected


def test_later_variables_see_earlier_ones_and_win_over_env_from() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}, "prefix": "S_"}],
        "env": [
            {"name": "FIRST", "value": "$(FROM_MAP)!"},
            {"name": "SECOND", "value": "$(FIRST)$(THIRD)"},
            {"name": "THIRD", "value": "3"},
            {"name": "OVER", "value": "mine"},
            {"name": "EMPTY"},
        ],
    }
    made = make_environment(
        container,
        POD,
        FACTS,
        references(
            {"cm": {"FROM_MAP": "m", "OVER": "theirs", "1bad": "x"}}, {"s": {"KEY": base64.b64encode(b"v").decode()}}
        ),
        {"PATH": "/bin", "OVER": "base"},
    )
    assert made.variables == {
        "PATH": "/bin",
        "FROM_MAP": "m",
        "S_KEY": "v",
        "FIRST": "m!",
        "SECOND": "m!$(THIRD)",
        "THIRD": "3",
        "OVER": "mine",
        "EMPTY": "",
    }
    assert made.skipped == [
        "Keys [1bad] from the EnvFrom configmap ns/cm were skipped since they are considered invalid environment "
        "variable names."
    ]


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"envFrom": [{"configMapRef": {"name": "x"}}]}, 'configmap "x" not found'),
        ({"envFrom": [{"secretRef": {"name": "x"}}]}, 'secret "x" not found'),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}]}, 'secret "x" not found'),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]},
            "couldn't find key k in ConfigMap ns/cm",
        ),
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}}}]}, "unsupported fieldPath"),
    ],
)
def test_what_is_missing_is_named(container: Any, message: str) -> None:
    with pytest.raises(ConfigMissing, match=message):
        make_environment(container, POD, FACTS, references({"cm": {}}))


def test_optional_references_may_be_missing() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "x", "optional": True}}],
        "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k", "optional": True}}},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k", "optional": True}}},
        ],
    }
    assert make_environment(container, POD, FACTS, references({"cm": {}})).variables == {}


def test_downward_api_fields() -> None:
    expected = {
        "metadata.name": "p",
        "metadata.uid": "u",
        "metadata.labels": 'a="1"\nb="2"',
        "metadata.labels['a']": "1",
        "metadata.annotations": 'k="line\\n\\"quoted\\"\\\\"',
        "metadata.annotations['none']": "",
        "spec.nodeName": "torpor",
        "spec.serviceAccountName": "default",
        "status.podIP": "127.2.128.1",
        "status.hostIP": "127.2.0.1",
    }
    assert {path: field_value(POD, path, FACTS) for path in expected} == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"resource": "limits.cpu"}, "2"),  # rounded up
        ({"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "1024"),
        ({"resource": "requests.cpu", "divisor": "1m"}, "100"),
        ({"resource": "requests.memory"}, "0"),
        ({"resource": "limits.cpu", "containerName": "bare"}, "4"),  # the node's
        ({"resource": "limits.memory", "containerName": "bare", "divisor": "1Gi"}, "8"),
    ],
)
def test_resources_in_units_of_the_divisor(reference: Any, expected: str) -> None:
    assert resource_value(POD, POD["spec"]["containers"][0], reference, FACTS) == expected
