"""Tables: the columns of kubectl get, cell by cell."""

from typing import Any

import pytest

from torpor.embedded.apiserver.builtin import KINDS, Kind, from_crd
from torpor.embedded.apiserver.columns import human_duration
from torpor.embedded.apiserver.jsonpath import compile_path
from torpor.embedded.apiserver.table import render, render_event, render_row

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z
HOUR_AGO = "2023-11-14T21:13:20Z"
BY_KIND = {kind.kind: kind for kind in KINDS if kind.group != "events.k8s.io"}


def cells(kind: str, obj: dict[str, Any], *, wide: bool = False) -> dict[str, Any]:
    """The cells of one object by column name."""
    obj = {**obj, "metadata": {"name": "x", "creationTimestamp": HOUR_AGO, **obj.get("metadata", {})}}
    table = render(BY_KIND[kind], [obj], metadata={}, now=NOW)
    shown = zip(table["columnDefinitions"], table["rows"][0]["cells"], strict=True)
    return {column["name"]: cell for column, cell in shown if wide or not column["priority"]}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (185, "3m5s"),
        (600, "10m"),
        (179 * 60, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (9 * 3600 + 60, "9h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (123 * 3600, "5d3h"),
        (8 * 86400 + 3600, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (740 * 86400, "2y10d"),
        (9 * 365 * 86400 + 86400, "9y"),
    ],
)
def test_durations_are_humanised_as_kubectl_does(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


# ------------------------------------------------------------------------------------------------------ built-in kinds

RUNNING = {"name": "a", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": HOUR_AGO}}}


def pod(*statuses: dict[str, Any], phase: str = "Running", **rest: Any) -> dict[str, Any]:
    containers = [{"name": status["name"]} for status in statuses] or [{"name": "a"}]
    return {
        "metadata": rest.pop("metadata", {}),
        "spec": {"containers": containers, **rest.pop("spec", {})},
        "status": {"phase": phase, "containerStatuses": list(statuses), **rest},
    }


def test_a_running_pod() -> None:
    obj = pod(RUNNING, spec={"nodeName": "torpor"}, podIPs=[{"ip": "127.2.128.1"}])
    assert cells("Pod", obj, wide=True) == {
        "Name": "x",
        "Ready": "1/1",
        "Status": "Running",
        "Restarts": "0",
        "Age": "60m",
        "IP": "127.2.128.1",
        "Node": "torpor",
        "Nominated Node": "<none>",
        "Readiness Gates": "<none>",
    }


@pytest.mark.parametrize(
    ("obj", "ready", "status", "restarts"),
    [
        (pod(phase="Pending"), "0/1", "Pending", "0"),
        (
            pod({"name": "a", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}),
            "0/1",
            "CrashLoopBackOff",
            "3",
        ),
        (
            pod(
                {
                    **RUNNING,
                    "restartCount": 2,
                    "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2023-11-14T22:08:20Z"}},
                }
            ),
            "1/1",
            "Running",
            "2 (5m ago)",
        ),
        (
            pod({"name": "a", "state": {"terminated": {"exitCode": 2}}}, phase="Failed"),
            "0/1",
            "ExitCode:2",
            "0",
        ),
        (
            pod({"name": "a", "state": {"terminated": {"exitCode": 137, "signal": 9}}}, phase="Failed"),
            "0/1",
            "Signal:9",
            "0",
        ),
        (
            pod(
                RUNNING,
                {"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                conditions=[{"type": "Ready", "status": "True"}],
            ),
            "1/2",
            "Running",
            "0",
        ),
        (
            pod(
                {"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                RUNNING,
                conditions=[{"type": "Ready", "status": "False"}],
            ),
            "1/2",
            "NotReady",
            "0",
        ),
        (pod(RUNNING, metadata={"deletionTimestamp": HOUR_AGO}), "1/1", "Terminating", "0"),
        (
            pod(phase="Pending", conditions=[{"type": "PodScheduled", "reason": "SchedulingGated"}]),
            "0/1",
            "SchedulingGated",
            "0",
        ),
        (
            pod(
                phase="Pending",
                spec={"initContainers": [{"name": "i"}, {"name": "j"}]},
                initContainerStatuses=[
                    {"name": "i", "state": {"terminated": {"exitCode": 0}}},
                    {"name": "j", "state": {"running": {}}, "restartCount": 1},
                ],
            ),
            "0/1",
            "Init:1/2",
            "1",
        ),
        (
            pod(
                phase="Pending",
                spec={"initContainers": [{"name": "i"}]},
                initContainerStatuses=[{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}],
            ),
            "0/1",
            "Init:Error",
            "0",
        ),
        (
            pod(
                RUNNING,
                spec={"initContainers": [{"name": "s", "restartPolicy": "Always"}]},
                initContainerStatuses=[{"name": "s", "started": True, "ready": True, "state": {"running": {}}}],
            ),
            "2/2",
            "Running",
            "0",
        ),
    ],
)
def test_the_status_word_of_a_pod(obj: dict[str, Any], ready: str, status: str, restarts: str) -> None:
    shown = cells("Pod", obj)
    assert (shown["Ready"], shown["Status"], shown["Restarts"]) == (ready, status, restarts)


@pytest.mark.parametrize(
    ("kind", "obj", "expected"),
    [
        (
            "Deployment",
            {
                "spec": {
                    "replicas": 3,
                    "selector": {"matchLabels": {"app": "x"}},
                    "template": {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}},
                },
                "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2},
            },
            ["x", "2/3", 3, 2, "60m", "a,b", "i,j", "app=x"],
        ),
        ("ReplicaSet", {"spec": {"replicas": 2}, "status": {"replicas": 1}}, ["x", 2, 1, 0, "60m", "", "", "<none>"]),
        (
            "Service",
            {
                "spec": {
                    "type": "ClusterIP",
                    "clusterIP": "None",
                    "clusterIPs": ["None"],
                    "ports": [{"port": 80, "protocol": "TCP"}, {"port": 90, "nodePort": 30090, "protocol": "UDP"}],
                    "selector": {"b": "2", "a": "1"},
                }
            },
            ["x", "ClusterIP", "None", "<none>", "80/TCP,90:30090/UDP", "60m", "a=1,b=2"],
        ),
        (
            "Service",
            {"spec": {"type": "ExternalName", "externalName": "y.default.svc"}},
            ["x", "ExternalName", "<none>", "y.default.svc", "<none>", "60m", "<none>"],
        ),
        (
            "Service",
            {"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [{"port": 80}]}},
            ["x", "LoadBalancer", "10.0.0.1", "<pending>", "80/TCP", "60m", "<none>"],
        ),
        (
            "Endpoints",
            {
                "subsets": [
                    {
                        "addresses": [{"ip": f"127.0.0.{index}"} for index in range(1, 6)],
                        "ports": [{"port": 80}],
                    }
                ]
            },
            ["x", "127.0.0.1:80,127.0.0.2:80,127.0.0.3:80 + 2 more...", "60m"],
        ),
        ("Endpoints", {}, ["x", "<none>", "60m"]),
        (
            "EndpointSlice",
            {
                "addressType": "IPv4",
                "ports": [{"port": 8012}, {"name": "q"}],
                "endpoints": [{"addresses": ["127.0.0.1"]}],
            },
            ["x", "IPv4", "8012,q", "127.0.0.1", "60m"],
        ),
        ("EndpointSlice", {"addressType": "IPv4"}, ["x", "IPv4", "<unset>", "<unset>", "60m"]),
        ("ConfigMap", {"data": {"a": "1"}, "binaryData": {"b": ""}}, ["x", 2, "60m"]),
        ("Secret", {"type": "Opaque", "data": {"a": ""}}, ["x", "Opaque", 1, "60m"]),
        ("Namespace", {"status": {"phase": "Active"}}, ["x", "Active", "60m"]),
        ("ServiceAccount", {}, ["x", 0, "60m"]),
        ("Lease", {"spec": {"holderIdentity": "me"}}, ["x", "me", "60m"]),
        ("CustomResourceDefinition", {}, ["x", HOUR_AGO]),
        (
            "Node",
            {
                "metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}},
                "spec": {"unschedulable": True},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "nodeInfo": {"kubeletVersion": "v1.32.0"},
                    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                },
            },
            [
                "x",
                "Ready,SchedulingDisabled",
                "control-plane",
                "60m",
                "v1.32.0",
                "127.0.0.1",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>",
            ],
        ),
        (
            "Event",
            {
                "type": "Normal",
                "reason": "Created",
                "involvedObject": {"kind": "Service", "name": "hello"},
                "message": " made it \n",
                "firstTimestamp": HOUR_AGO,
                "lastTimestamp": "2023-11-14T22:13:00Z",
                "count": 4,
                "source": {"component": "service-controller"},
            },
            [
                "20s",
                "Normal",
                "Created",
                "service/hello",
                "",
                "service-controller",
                "made it",
                "60m",
                4,
                "x",
            ],
        ),
        (
            "Job",
            {"spec": {"completions": 1}, "status": {"succeeded": 1, "startTime": HOUR_AGO}},
            ["x", "Running", "1/1", "60m", "60m", "", "", "<none>"],
        ),
    ],
)
def test_a_row_of_a_built_in_kind(kind: str, obj: dict[str, Any], expected: list[Any]) -> None:
    assert list(cells(kind, obj, wide=True).values()) == expected


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.resource}")
def test_every_kind_can_show_an_empty_object(kind: Kind) -> None:
    row = render_row(kind, {}, now=NOW)
    assert len(row["cells"]) == len(kind.columns)
    row = render_row(kind, {"metadata": None, "spec": "odd", "status": ["odd"]}, now=NOW)
    assert len(row["cells"]) == len(kind.columns)


def test_an_event_without_old_timestamps_uses_the_new_ones() -> None:
    event = {"eventTime": "2023-11-14T22:13:10.123456Z", "involvedObject": {"kind": "Pod"}}
    shown = cells("Event", event, wide=True)
    assert (shown["Last Seen"], shown["First Seen"], shown["Count"], shown["Object"]) == ("9s", "9s", 1, "pod")


# -------------------------------------------------------------------------------------------------------- custom kinds


def custom(*columns: tuple[str, str]) -> Kind:
    return from_crd(
        {
            "spec": {
                "group": "example.com",
                "names": {"kind": "Widget", "plural": "widgets"},
                "versions": [
                    {
                        "name": "v1",
                        "additionalPrinterColumns": [
                            {"name": f"C{index}", "type": kind, "jsonPath": path}
                            for index, (kind, path) in enumerate(columns)
                        ],
                    }
                ],
            }
        }
    )[0]


OBJ: dict[str, Any] = {
    "metadata": {"name": "w", "labels": {"serving.knative.dev/service": "hello"}, "creationTimestamp": HOUR_AGO},
    "status": {
        "url": "http://x",
        "n": 3,
        "f": 1.5,
        "on": True,
        "none": None,
        "traffic": [{"percent": 90}, {"percent": 10}],
        "conditions": [
            {"type": "RoutesReady", "status": "Unknown"},
            {"type": "Ready", "status": "False", "reason": "Bad"},
        ],
    },
}


@pytest.mark.parametrize(
    ("kind", "path", "cell"),
    [
        ("string", ".status.url", "http://x"),
        ("string", ".status.missing", None),
        ("string", ".status.none", None),
        ("string", ".metadata.labels.serving\\.knative\\.dev/service", "hello"),
        ("string", ".metadata.labels['serving\\.knative\\.dev/service']", "hello"),
        ("string", '.status.conditions[?(@.type=="Ready")].status', "False"),
        ("string", ".status.conditions[?(@.type=='Ready')].reason", "Bad"),
        ("string", '.status.conditions[?(@.type=="Absent")].reason', None),
        ("string", "{.status.conditions[?(@.reason)].reason}", "Bad"),
        ("integer", ".status.traffic[?(@.percent>50)].percent", 90),
        ("integer", ".status.traffic[1].percent", 10),
        ("integer", ".status.traffic[-1].percent", 10),
        ("integer", ".status.traffic[*].percent", 90),
        ("integer", ".status.traffic[5].percent", None),
        ("integer", ".status.n", 3),
        ("integer", ".status.f", 1),
        ("integer", ".status.url", None),
        ("number", ".status.n", 3.0),
        ("boolean", ".status.on", True),
        ("boolean", ".status.n", None),
        ("string", ".status.on", "true"),
        ("string", ".status.n", "3"),
        ("string", ".status.traffic", '[{"percent":90},{"percent":10}]'),
        ("date", ".metadata.creationTimestamp", "60m"),
        ("date", ".status.url", "<invalid>"),
        ("date", ".status.n", None),
        ("date", ".status.none", None),
        ("string", "..broken[", None),
    ],
)
def test_a_cell_of_a_custom_kind(kind: str, path: str, cell: Any) -> None:
    row = render_row(custom((kind, path)), OBJ, now=NOW)
    assert row["cells"] == ["w", cell]


@pytest.mark.parametrize("path", ["..a", ".a[", ".a[?(b==1)]", ".a b", "a[?(@.b==c)]"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="JSONPath"):
        compile_path(path)


def test_rows_carry_as_much_of_the_object_as_was_asked_for() -> None:
    kind = custom()
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": OBJ["metadata"]}
    assert render_row(kind, OBJ, now=NOW)["object"] == partial
    assert render_row(kind, OBJ, include_object="Object", now=NOW)["object"] is OBJ
    assert "object" not in render_row(kind, OBJ, include_object="None", now=NOW)


def test_a_list_is_one_table_and_a_watch_names_its_columns_once() -> None:
    kind = custom(("string", ".status.url"))
    table = render(kind, [OBJ, OBJ], metadata={"resourceVersion": "7"}, now=NOW)
    assert (table["kind"], table["apiVersion"], table["metadata"]) == (
        "Table",
        "meta.k8s.io/v1",
        {"resourceVersion": "7"},
    )
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "C0"]
    assert table["columnDefinitions"][0]["format"] == "name"
    assert len(table["rows"]) == 2
    assert render_event(kind, OBJ, first=True, now=NOW)["columnDefinitions"] == table["columnDefinitions"]
    assert render_event(kind, OBJ, first=False, now=NOW)["columnDefinitions"] is None
