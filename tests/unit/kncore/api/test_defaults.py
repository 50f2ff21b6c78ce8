"""Defaulting: what a short manifest becomes, and what is left alone."""

import copy
from typing import Any

import pytest

from kncore.api.defaults import set_defaults
from kncore.api.meta import Obj
from kncore.api.shapes import DecodeError
from kncore.config.store import Store

STOCK = Store()
CREATOR, MODIFIER = "serving.knative.dev/creator", "serving.knative.dev/lastModifier"


def service(*containers: Obj, name: str = "hello", revision: str = "", **spec: Any) -> Obj:
    template: Obj = {"spec": {"containers": list(containers) or [{"image": "example.com/app"}], **spec}}
    if revision:
        template["metadata"] = {"name": revision}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": template},
    }


def config(**maps: dict[str, str]) -> Store:
    return Store.of({name.replace("_", "-"): data for name, data in maps.items()})


def pod(obj: Obj, **how: Any) -> Obj:
    """The pod of a Service after defaulting."""
    made: Obj = set_defaults(obj, **{"config": STOCK, **how})["spec"]["template"]["spec"]
    return made


def test_a_short_service_becomes_complete() -> None:
    made = set_defaults(service(), config=STOCK, user="alice")
    assert made == {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "hello", "namespace": "default", "annotations": {CREATOR: "alice", MODIFIER: "alice"}},
        "spec": {
            "template": {
                "metadata": {},
                "spec": {
                    "containerConcurrency": 0,
                    "containers": [
                        {
                            "image": "example.com/app",
                            "name": "user-container",
                            "readinessProbe": {"successThreshold": 1, "tcpSocket": {"port": 0}},
                            "resources": {},
                        }
                    ],
                    "enableServiceLinks": False,
                    "timeoutSeconds": 300,
                },
            },
            "traffic": [{"latestRevision": True, "percent": 100}],
        },
        "status": {},
    }


def test_the_clients_object_is_not_touched() -> None:
    sent = service()
    before = copy.deepcopy(sent)
    set_defaults(sent, config=STOCK, user="alice")
    assert sent == before


def test_a_wrong_type_is_refused() -> None:
    with pytest.raises(DecodeError, match=r"spec\.template\.spec\.timeoutSeconds"):
        set_defaults(service(timeoutSeconds="10"), config=STOCK)


@pytest.mark.parametrize(
    ("given", "timeouts"),
    [
        ({}, (300, None, None)),
        ({"timeoutSeconds": 0}, (300, None, None)),
        ({"timeoutSeconds": 400}, (400, None, 300)),
        ({"timeoutSeconds": 100, "idleTimeoutSeconds": 0}, (100, 0, None)),
    ],
)
def test_shorter_timeouts_are_filled_in_only_below_the_total(given: Obj, timeouts: tuple[Any, ...]) -> None:
    made = pod(service(**given))
    fields = ("timeoutSeconds", "idleTimeoutSeconds", "responseStartTimeoutSeconds")
    assert tuple(made.get(field) for field in fields) == timeouts


def test_a_clusters_idle_timeout_applies() -> None:
    cluster = config(config_defaults={"revision-idle-timeout-seconds": "20"})
    assert pod(service(), config=cluster)["idleTimeoutSeconds"] == 20
    assert "idleTimeoutSeconds" not in pod(service(timeoutSeconds=20), config=cluster)


def test_unnamed_containers_are_numbered_around_taken_names() -> None:
    made = pod(service({"image": "a"}, {"name": "user-container-1", "image": "b"}, {"image": "c"}))
    assert [container["name"] for container in made["containers"]] == [
        "user-container-0",
        "user-container-1",
        "user-container-2",
    ]


def test_names_come_from_the_clusters_template() -> None:
    cluster = config(config_defaults={"container-name-template": "{{.Name}}-app"})
    assert pod(service(), config=cluster)["containers"][0]["name"] == "hello-app"


def test_only_the_serving_container_gets_a_probe() -> None:
    web, sidecar = pod(service({"image": "web", "ports": [{"containerPort": 80}]}, {"image": "side"}))["containers"]
    assert web["readinessProbe"] == {"successThreshold": 1, "tcpSocket": {"port": 0}}
    assert "readinessProbe" not in sidecar


def test_probe_timings_follow_the_period() -> None:
    def probe(**given: Any) -> Obj:
        made: Obj = pod(service({"image": "a", "readinessProbe": given}))["containers"][0]["readinessProbe"]
        return made

    assert probe(periodSeconds=5, exec={"command": ["true"]}) == {
        "exec": {"command": ["true"]},
        "failureThreshold": 3,
        "periodSeconds": 5,
        "successThreshold": 1,
        "timeoutSeconds": 1,
    }
    assert "failureThreshold" not in probe(periodSeconds=0)
    assert probe(grpc={"port": 9000})["grpc"] == {"port": 9000, "service": ""}


def test_cluster_resources_fill_what_is_missing() -> None:
    cluster = config(config_defaults={"revision-cpu-request": "100m", "revision-memory-limit": "1024Mi"})
    made = pod(service({"image": "a", "resources": {"requests": {"cpu": "2000m"}}}), config=cluster)
    assert made["containers"][0]["resources"] == {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}


def test_mounts_are_made_read_only_where_they_must_be() -> None:
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "keys", "mountPath": "/keys"}]
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "keys", "secret": {"secretName": "k"}}]
    made = pod(service({"image": "a", "volumeMounts": mounts}, volumes=volumes))
    assert [mount.get("readOnly", False) for mount in made["containers"][0]["volumeMounts"]] == [False, True]


@pytest.mark.parametrize(
    ("flag", "context"),
    [
        ("Disabled", None),
        ("AllowRootBounded", {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}),
        ("Enabled", {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}, "runAsNonRoot": True}),
    ],
)
def test_secure_defaults(flag: str, context: Obj | None) -> None:
    cluster = config(config_features={"secure-pod-defaults": flag})
    made = pod(service({"image": "a", "ports": [{"containerPort": 80}]}), config=cluster)["containers"][0]
    base = {"allowPrivilegeEscalation": False, "seccompProfile": {"type": "RuntimeDefault"}}
    assert made.get("securityContext") == (base | context if context else None)


def test_service_links_are_decided_at_creation_only() -> None:
    first = set_defaults(service(), config=STOCK)
    del first["spec"]["template"]["spec"]["enableServiceLinks"]
    assert "enableServiceLinks" not in pod(first, old=first, operation="UPDATE")


def test_a_template_with_a_name_of_its_own_is_left_alone_while_the_name_stays() -> None:
    stored = set_defaults(service(revision="hello-v1"), config=STOCK)
    cluster = config(config_defaults={"revision-cpu-request": "100m"})
    same = set_defaults(stored, config=cluster, old=stored, operation="UPDATE")
    assert same["spec"]["template"] == stored["spec"]["template"]
    renamed = copy.deepcopy(stored)
    renamed["spec"]["template"]["metadata"]["name"] = "hello-v2"
    assert pod(renamed, config=cluster, old=stored, operation="UPDATE")["containers"][0]["resources"] == {
        "requests": {"cpu": "100m"}
    }


def test_the_last_modifier_follows_changes_of_the_spec() -> None:
    stored = set_defaults(service(), config=STOCK, user="alice")

    def annotations(obj: Obj) -> Obj:
        made: Obj = set_defaults(obj, config=STOCK, old=stored, user="bob", operation="UPDATE")
        return made["metadata"]["annotations"]  # type: ignore[no-any-return]

    labelled, changed = copy.deepcopy(stored), copy.deepcopy(stored)
    labelled["metadata"]["labels"] = {"team": "a"}
    changed["spec"]["template"]["spec"]["timeoutSeconds"] = 30
    assert annotations(labelled) == {CREATOR: "alice", MODIFIER: "alice"}
    assert annotations(changed) == {CREATOR: "alice", MODIFIER: "bob"}


def test_children_do_not_record_who_made_them() -> None:
    owner = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "hello", "uid": "1"}
    route = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Route",
        "metadata": {"name": "hello", "ownerReferences": [owner]},
        "spec": {"traffic": [{"revisionName": "hello-1", "percent": 100}, {"configurationName": "hello"}]},
    }
    made = set_defaults(route, config=STOCK, user="controller")
    assert "annotations" not in made["metadata"]
    assert [(target["latestRevision"], target["percent"]) for target in made["spec"]["traffic"]] == [
        (False, 100),
        (True, 0),
    ]


def test_revisions_are_defaulted_once() -> None:
    revision = {"apiVersion": "serving.knative.dev/v1", "kind": "Revision", "metadata": {"name": "r"}, "spec": {}}
    revision["spec"] = {"containers": [{"name": "a", "image": "a"}]}
    assert set_defaults(revision, config=STOCK)["spec"]["timeoutSeconds"] == 300
    assert "timeoutSeconds" not in set_defaults(revision, config=STOCK, old=revision, operation="UPDATE")["spec"]


def test_a_domain_leads_to_its_own_namespace() -> None:
    mapping = {
        "apiVersion": "serving.knative.dev/v1beta1",
        "kind": "DomainMapping",
        "metadata": {"name": "app.example.com", "namespace": "shop"},
        "spec": {"ref": {"kind": "Service", "name": "hello", "apiVersion": "serving.knative.dev/v1"}},
    }
    assert set_defaults(mapping, config=STOCK)["spec"]["ref"]["namespace"] == "shop"


@pytest.mark.parametrize(
    ("class_", "metric"), [(None, "concurrency"), ("hpa.autoscaling.knative.dev", "cpu"), ("mine.example.com", "")]
)
def test_pod_autoscalers_write_down_class_and_metric(class_: str | None, metric: str) -> None:
    key = "autoscaling.knative.dev/class"
    autoscaler = {
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {"name": "r", "annotations": {key: class_} if class_ else {}},
        "spec": {"scaleTargetRef": {"name": "r"}, "protocolType": "http1"},
    }
    assert set_defaults(autoscaler, config=STOCK)["metadata"]["annotations"] == {
        key: class_ or "kpa.autoscaling.knative.dev",
        "autoscaling.knative.dev/metric": metric,
    }


def test_an_ingress_path_with_one_split_sends_all_of_it() -> None:
    split = {"serviceName": "a", "serviceNamespace": "default", "servicePort": 80}
    ingress = {
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "Ingress",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"rules": [{"hosts": ["a.example.com"], "http": {"paths": [{"splits": [split]}]}}]},
    }
    (rule,) = set_defaults(ingress, config=STOCK)["spec"]["rules"]
    assert rule["visibility"] == "ExternalIP"
    assert rule["http"]["paths"][0]["splits"][0]["percent"] == 100
