"""Objects with anything anywhere: the API server stores them or refuses them, and never breaks."""

import asyncio
import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kncore.testing import FakeClock
from torpor.embedded.apiserver.addresses import AddressPool
from torpor.embedded.apiserver.admission import KnativeAdmission
from torpor.embedded.apiserver.core import Core
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.lifecycle import Deletion
from torpor.embedded.apiserver.patching import How
from torpor.embedded.apiserver.resources import Selection, Write
from torpor.embedded.apiserver.table import render
from torpor.embedded.apiserver.views import obj_as

CONTAINER = {
    "name": "app",
    "image": "dev.local/app",
    "ports": [{"containerPort": 80}],
    "env": [{"name": "A", "value": "b"}],
    "resources": {"limits": {"cpu": "1"}},
    "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
}
POD = {"containers": [CONTAINER], "volumes": [{"name": "v", "configMap": {"name": "c"}}], "nodeName": "torpor"}
TEMPLATE = {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": POD}
SCHEMA = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}}}}}
CRD = {
    "group": "x.io",
    "scope": "Namespaced",
    "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["w"], "categories": ["all"]},
    "versions": [
        {
            "name": "v1",
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": SCHEMA},
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}},
            "additionalPrinterColumns": [{"name": "N", "type": "integer", "jsonPath": ".spec.n"}],
        }
    ],
}
SEEDS: dict[tuple[str, str, str], dict[str, Any]] = {
    ("", "v1", "pods"): {"spec": POD},
    ("", "v1", "services"): {"spec": {"ports": [{"port": 80, "name": "http"}], "selector": {"a": "b"}}},
    ("", "v1", "secrets"): {"data": {"a": "Yg=="}, "stringData": {"c": "d"}},
    ("", "v1", "configmaps"): {"data": {"a": "b"}, "binaryData": {"c": "Yg=="}},
    ("", "v1", "events"): {"involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "message": "m"},
    ("apps", "v1", "deployments"): {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE}},
    ("serving.knative.dev", "v1", "services"): {
        "spec": {
            "template": {
                "metadata": {"annotations": {"autoscaling.knative.dev/target": "5"}},
                "spec": {"containers": [CONTAINER]},
            },
            "traffic": [{"latestRevision": True, "percent": 100, "tag": "t"}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    },
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"): {"spec": CRD},
}
METADATA = {
    "name": "widgets.x.io",
    "labels": {"a": "b"},
    "annotations": {"c": "d"},
    "finalizers": ["x.io/f"],
    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}],
}

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "a", "-1", "80", "1e9", "Ünïcode", "a/b", "None", "x" * 300, "{}", "2024-01-01T00:00:00Z"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "name", "spec", "$patch"]), inner, max_size=3),
    ),
    max_leaves=6,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside an object."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def put(node: Any, path: tuple[Any, ...], value: Any) -> None:
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value


@st.composite
def mangled(draw: st.DrawFn) -> tuple[tuple[str, str, str], dict[str, Any], dict[str, Any]]:
    """A kind, a good object of it, and the same with one to three things replaced by anything."""
    place = draw(st.sampled_from(sorted(SEEDS)))
    good = {"metadata": copy.deepcopy(METADATA), **copy.deepcopy(SEEDS[place])}
    bad = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        if choices := list(places(bad)):
            put(bad, draw(st.sampled_from(choices)), draw(VALUES))
    return place, good, bad


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.run_until_complete(made.shutdown_default_executor())
    made.close()


@pytest.fixture(scope="module")
def core(loop: asyncio.AbstractEventLoop) -> Iterator[Core]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        made = Core(
            Path(folder), admission=KnativeAdmission(), clock=FakeClock(), cluster_ips=AddressPool("10.0.0.0/24")
        )
        loop.run_until_complete(made.open())
        yield made
        loop.run_until_complete(made.close())


async def survives(core: Core, place: tuple[str, str, str], good: Any, bad: Any) -> None:
    kind = core.kind(*place)
    namespace = "default" if kind.namespaced else ""
    identity = {"apiVersion": kind.api_version, "kind": kind.kind}
    name = METADATA["name"]
    if kind.resource == "services":
        good["metadata"]["name"] = name = "widgets"
    bad = {**identity, **bad}
    bad["metadata"] = bad["metadata"] if isinstance(bad["metadata"], dict) else {}
    verbs = [
        lambda: core.resources.create(kind, namespace, copy.deepcopy(bad), Write()),
        lambda: core.resources.patch(kind, namespace, name, How.APPLY, copy.deepcopy(bad), Write(manager="fuzz")),
        lambda: core.resources.create(kind, namespace, {**identity, **good}, Write()),
        lambda: core.resources.update(kind, namespace, name, copy.deepcopy(bad), Write()),
        *(
            lambda how=how, sub=sub: core.resources.patch(  # type: ignore[misc]
                kind, namespace, name, how, copy.deepcopy(bad), Write(), subresource=sub
            )
            for how in (How.MERGE, How.STRATEGIC)
            for sub in ("", "status")
            if not (kind.custom and how is How.STRATEGIC)
        ),
    ]
    faults: list[StatusError] = []
    for verb in verbs:
        try:
            await verb()
        except StatusError as fault:
            faults.append(fault)
    assert [str(fault) for fault in faults if fault.code >= 500] == []
    page = core.resources.select(kind, Selection())
    render(kind, [obj_as(kind, record) for record in page.records], metadata={}, now=0.0)
    ours = [record for record in page.records if record.key.name not in core.resources.platform_definitions]
    for record in ours:  # clean up for the next example
        cleared = await core.resources.edit_metadata(kind, record, {"finalizers": None}, Write())
        await core.resources.delete(kind, cleared.key.namespace, cleared.key.name, Deletion(grace=0), Write())
        left = core.resources.collection(kind).get(record.key)
        if left is not None:
            await core.resources.edit_metadata(kind, left, {"finalizers": None}, Write())
    assert len(core.resources.collection(kind)) == len(page.records) - len(ours)


@given(example=mangled())
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_no_object_breaks_the_server(
    core: Core, loop: asyncio.AbstractEventLoop, example: tuple[tuple[str, str, str], dict[str, Any], dict[str, Any]]
) -> None:
    loop.run_until_complete(survives(core, *example))
