"""Validation, a few cases per group of rules; the golden vectors have the rest."""

import copy
import time
from typing import Any

import pytest

from kncore.api.defaults import set_defaults
from kncore.api.meta import Obj
from kncore.api.validation import validate
from kncore.config.store import Store

STOCK = Store()
CONTAINER = "spec.template.spec.containers[0]"


def config(**maps: dict[str, str]) -> Store:
    return Store.of({name.replace("_", "-"): data for name, data in maps.items()})


def features(**flags: str) -> Store:
    return config(config_features={key.replace("_", "-"): value for key, value in flags.items()})


def service(*containers: Obj, annotations: Obj | None = None, revision: str = "", **spec: Any) -> Obj:
    template: Obj = {"spec": {"containers": list(containers) or [{"image": "example.com/app"}], **spec}}
    template["metadata"] = ({"name": revision} if revision else {}) | ({"annotations": annotations or {}})
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {"template": template},
    }


def container(**fields: Any) -> Obj:
    return service({"image": "example.com/app"} | fields)


def error(obj: Obj, settings: Store = STOCK, **how: Any) -> str:
    """What is said about the object once its defaults are filled in, as admission does it."""
    made = set_defaults(obj, config=settings, old=how.get("old"), operation=how.get("operation", "CREATE"))
    return validate(made, config=settings, **how).error


def test_a_short_service_is_fine() -> None:
    assert error(service()) == ""


def test_malformed_objects_get_one_clear_error() -> None:
    broken = service()
    broken["spec"]["template"]["spec"]["containers"] = "nginx"
    assert validate(broken, config=STOCK).error == (
        "cannot decode incoming object: spec.template.spec.containers: expected a list, got a string"
    )


def test_deletions_pass() -> None:
    assert validate({"kind": "Service"}, operation="DELETE", config=STOCK).error == ""


# --- metadata


@pytest.mark.parametrize(
    ("metadata", "beginning"),
    [
        ({}, "name or generateName is required: metadata.name"),
        ({"name": "Hello"}, "not a DNS 1035 label: [a DNS-1035 label must consist of"),
        ({"generateName": "9x-"}, "not a DNS 1035 label prefix: [a DNS-1035 label must consist of"),
        (
            {"name": "a", "annotations": {"autoscaling.knative.dev/target": "1"}},
            'invalid key name "autoscaling.knative.dev/target": metadata.annotations\nautoscaling annotations must be',
        ),
        (
            {"name": "a", "annotations": {"serving.knative.dev/rollout-duration": "1.5s"}},
            "rollout-duration=1.5s is not at second precision: metadata.annotations.serving.knative.dev/rollout-dura",
        ),
    ],
)
def test_metadata(metadata: Obj, beginning: str) -> None:
    assert error(service() | {"metadata": metadata}).startswith(beginning)


def test_an_owner_label_needs_its_owner() -> None:
    route = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Route",
        "metadata": {"name": "r", "labels": {"serving.knative.dev/service": "hello"}},
        "spec": {"traffic": [{"configurationName": "hello", "percent": 100}]},
    }
    assert error(route) == "missing field(s): metadata.labels.serving.knative.dev/service"
    owner = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "hello", "uid": "1"}
    route["metadata"]["ownerReferences"] = [owner]  # type: ignore[index]
    assert error(route) == ""


# --- autoscaling annotations


@pytest.mark.parametrize(
    ("annotations", "problem"),
    [
        ({"min-scale": "-1"}, "expected 0 <= -1 <= 2147483647: {}min-scale"),
        ({"min-scale": "many"}, "invalid value: many: {}min-scale"),
        ({"min-scale": "3", "max-scale": "2"}, "max-scale=2 is less than min-scale=3: {}max-scale, {}min-scale"),
        ({"minScale": "x"}, "invalid value: x: {}minScale"),
        ({"activation-scale": "1"}, "activation-scale=1 must be greater than 1: {}activation-scale"),
        ({"window": "5s"}, "expected 6s <= 5s <= 1h0m0s: {}window"),
        ({"window": "6.5s"}, "must be specified with at most second precision: {}window"),
        ({"target": "0.001"}, "target 0.001 should be at least 0.01: {}target"),
        ({"target": "NaN"}, "invalid value: NaN: {}target"),
        ({"target": "Inf"}, "invalid value: Inf: {}target"),
        ({"target-burst-capacity": "-2"}, "invalid value: -2: {}target-burst-capacity"),
        ({"class": "fancy.knative.dev"}, "invalid value: fancy.knative.dev: {}class"),
        ({"metric": "cpu"}, "invalid value: cpu: {}metric"),
        ({"initial-scale": "0"}, "invalid value: 0: {}initial-scale=0 not allowed by cluster"),
        ({"scale-down-delay": "2h"}, "expected 0s <= 2h <= 1h0m0s: {}scale-down-delay"),
    ],
)
def test_autoscaling_annotations(annotations: Obj, problem: str) -> None:
    prefixed = {f"autoscaling.knative.dev/{key}": value for key, value in annotations.items()}
    place = "spec.template.metadata.annotations.autoscaling.knative.dev/"
    assert error(service(annotations=prefixed)) == problem.replace("{}", place)


def test_a_clusters_limit_makes_unlimited_scale_an_error() -> None:
    limited = config(config_autoscaler={"max-scale-limit": "10", "max-scale": "5"})
    given = service(annotations={"autoscaling.knative.dev/max-scale": "0"})
    assert error(given, limited).startswith("max-scale=0 (unlimited), must be less than 10: ")


# --- revision template


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"timeoutSeconds": 601}, "expected 0 <= 601 <= 600: spec.template.spec.timeoutSeconds"),
        ({"containerConcurrency": -1}, "expected 0 <= -1 <= 1000: spec.template.spec.containerConcurrency"),
        ({"nodeName": "n1"}, "must not set the field(s): spec.template.spec.nodeName"),
        ({"automountServiceAccountToken": True}, "must not set the field(s): spec.template.spec.automountServi"),
        ({"serviceAccountName": "Bad_SA"}, "invalid value: Bad_SA: spec.template.spec.serviceAccountName\na lower"),
        ({"revision": "other-v1"}, 'invalid value: "other-v1" must have prefix "hello-": spec.template.metadata.name'),
        (
            {"annotations": {"networking.knative.dev/visibility": "x"}},
            'invalid key name "networking.knative.dev/visibility": spec.template.metadata.annotations',
        ),
        (
            {"annotations": {"queue.sidecar.serving.knative.dev/cpu-resource-limit": "lots"}},
            "invalid value: lots: spec.template.metadata.annotations.[queue.sidecar.serving.knative.dev/cpu-resource",
        ),
    ],
)
def test_templates(spec: Obj, problem: str) -> None:
    assert error(service(**spec)).startswith(problem)


def test_a_feature_flag_opens_its_field() -> None:
    given = service(nodeSelector={"disk": "ssd"})
    assert error(given) == "must not set the field(s): spec.template.spec.nodeSelector"
    assert error(given, features(**{"kubernetes.podspec-nodeselector": "Allowed"})) == ""


# --- containers


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"image": ""}, f"missing field(s): {CONTAINER}.image"),
        ({"image": "In Valid"}, f"Failed to parse image reference: {CONTAINER}.image\nimage: "),
        ({"name": "queue-proxy"}, f'"queue-proxy" is a reserved container name: {CONTAINER}.name'),
        ({"env": [{"name": "PORT"}]}, f'"PORT" is a reserved environment variable: {CONTAINER}.env[0].name'),
        ({"env": [{"value": "x"}]}, f"missing field(s): {CONTAINER}.env[0].name"),
        (
            {"ports": [{"containerPort": 8012}]},
            f"invalid value: 8012 is a reserved port: {CONTAINER}.ports.containerPort\n8012 is a reserved port,",
        ),
        ({"ports": [{"name": "http2"}]}, f"Port name http2 is not allowed: {CONTAINER}.ports\nName must be empty"),
        ({"lifecycle": {}}, f"must not set the field(s): {CONTAINER}.lifecycle"),
        ({"securityContext": {"privileged": True}}, f"must not set the field(s): {CONTAINER}.securityContext.priv"),
        (
            {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}},
            f"must not set the field(s): {CONTAINER}.securityContext.capabilities.add",
        ),
        ({"securityContext": {"runAsUser": -1}}, f"expected 0 <= -1 <= 2147483647: {CONTAINER}.securityContext.run"),
        ({"terminationMessagePolicy": "Never"}, f"invalid value: Never: {CONTAINER}.terminationMessagePolicy"),
        (
            {"readinessProbe": {"httpGet": {"port": "metrics"}}},
            f"invalid value: metrics: {CONTAINER}.readinessProbe.httpGet.port\nProbe port must match container port",
        ),
        (
            {"readinessProbe": {"failureThreshold": 2}},
            f"failureThreshold is disallowed when periodSeconds is zero: {CONTAINER}.readinessProbe.failureThreshold",
        ),
        (
            {"livenessProbe": {"exec": {}, "tcpSocket": {}}},
            f"expected exactly one, got both: {CONTAINER}.livenessProbe.exec, {CONTAINER}.livenessProbe.tcpSocket",
        ),
    ],
)
def test_containers(fields: Obj, problem: str) -> None:
    assert error(container(**fields)).startswith(problem)


def test_several_containers_need_one_port_between_them() -> None:
    both = ({"image": "web", "ports": [{"containerPort": 80}]}, {"image": "side", "ports": [{"containerPort": 81}]})
    assert error(service(*both)).startswith("more than one container port is set: spec.template.spec.containers[*].po")
    assert error(service({"image": "web"}, {"image": "side"})) == (
        "missing field(s): spec.template.spec.containers[*].ports"
    )


def test_sidecars_may_use_port_but_have_no_probes() -> None:
    web = {"image": "web", "ports": [{"containerPort": 80}]}
    side = {"image": "side", "env": [{"name": "PORT", "value": "1"}], "livenessProbe": {"exec": {}}}
    place = "spec.template.spec.containers[1].livenessProbe"
    assert error(service(web, side)) == f"must not set the field(s): {place}"
    assert error(service(web, side), features(multi_container_probing="Enabled")) == ""


def test_init_containers_need_their_flag_and_have_no_probes() -> None:
    given = service(initContainers=[{"image": "init", "name": "a", "readinessProbe": {"exec": {}}}])
    assert "pod spec support for init-containers is off, but found 1 init containers: " in error(given)
    opened = features(**{"kubernetes.podspec-init-containers": "Enabled"})
    assert error(given, opened) == (
        "field not allowed in an init container: spec.template.spec.containers[0].readinessProbe"
    )


def test_insecure_defaults_are_warned_about_until_they_are_secured() -> None:
    def warnings(settings: Store) -> list[str]:
        return validate(set_defaults(service(), config=settings), config=settings).warnings

    (insecure,) = warnings(STOCK)
    place = f"{CONTAINER}.securityContext"
    assert insecure == (
        "Kubernetes default value is insecure, Knative may default this to secure in a future release: "
        f"{place}.allowPrivilegeEscalation, {place}.capabilities, {place}.runAsNonRoot, {place}.seccompProfile"
    )
    assert warnings(features(secure_pod_defaults="Enabled")) == []


# --- volumes


def mounted(path: str = "/data", **source: Any) -> Obj:
    container_ = {"image": "app", "volumeMounts": [{"name": "v", "mountPath": path}]}
    return service(container_, volumes=[{"name": "v"} | source])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (mounted(), "expected exactly one, got neither: spec.template.spec.volumes[0].configMap, "),
        (mounted(emptyDir={}, secret={}), "expected exactly one, got both: spec.template.spec.volumes[0].emptyDir, "),
        (mounted(emptyDir={"medium": "Disk"}), "invalid value: Disk: spec.template.spec.volumes[0].emptyDir.medium"),
        (mounted(nfs={}), "expected exactly one, got neither: "),
        (mounted(hostPath={"path": "/"}), "HostPath volume support is disabled, but found HostPath volume v: "),
        (mounted("/dev/../dev", emptyDir={}), f'mountPath "/dev" is a reserved path: {CONTAINER}.volumeMounts[0].mou'),
        (mounted("data", emptyDir={}), f"invalid value: data: {CONTAINER}.volumeMounts[0].mountPath"),
        (
            service(volumes=[{"name": "v", "emptyDir": {}}]),
            'volume with name "v" not mounted: spec.template.spec.volumes[0].name',
        ),
        (
            service({"image": "app", "volumeMounts": [{"name": "v", "mountPath": "/a"}]}),
            f"volumeMount has no matching volume: {CONTAINER}.volumeMounts[0].name",
        ),
    ],
)
def test_volumes(given: Obj, problem: str) -> None:
    assert error(given).startswith(problem)


def test_a_projected_source_is_one_thing() -> None:
    both = {"sources": [{"secret": {"name": "a"}, "configMap": {}}]}
    place = "spec.template.spec.volumes[0].projected[0]"
    assert error(mounted(projected=both)) == (
        f"expected exactly one, got both: {place}.configMap, {place}.secret\nmissing field(s): {place}.configMap.name"
    )


# --- traffic


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ([{"percent": 99}], "Traffic targets sum to 99, want 100: spec.traffic"),
        ([{"percent": 101}, {"percent": -1}], "expected 0 <= -1 <= 100: spec.traffic[1].percent\nexpected 0 <= 101"),
        (
            [{"percent": 100, "tag": "a"}, {"tag": "a"}],
            'Multiple definitions for "a": spec.traffic[0].tag, spec.traffic[1].tag',
        ),
        ([{"percent": 100, "tag": "A"}], "invalid value: not a DNS 1035 label: [a DNS-1035"),
        ([{"percent": 100, "configurationName": "x"}], "must not set the field(s): spec.traffic[0].configurationName"),
        ([{"percent": 100, "url": "http://x"}], "must not set the field(s): spec.traffic[0].url"),
        (
            [{"percent": 100, "revisionName": "r", "latestRevision": True}],
            'may not set revisionName "r" when latestRevision is true: spec.traffic[0].latestRevision',
        ),
    ],
)
def test_traffic(targets: list[Obj], problem: str) -> None:
    given = service()
    given["spec"]["traffic"] = targets
    assert error(given).startswith(problem)


# --- updates


def stored(**spec: Any) -> Obj:
    return set_defaults(service(**spec), config=STOCK, user="alice")


def test_a_template_with_a_name_may_not_change_without_it() -> None:
    old = stored(revision="hello-v1")
    new = copy.deepcopy(old)
    new["spec"]["template"]["spec"]["timeoutSeconds"] = 5
    said = error(new, old=old, operation="UPDATE")
    assert said == (
        "Saw the following changes without a name change (-old +new): spec.template.metadata.name\n"
        "\tspec.timeoutSeconds:\n\t-: 300\n\t+: 5"
    )
    new["spec"]["template"]["metadata"]["name"] = "hello-v2"
    assert error(new, old=old, operation="UPDATE") == ""


def test_the_creator_stays() -> None:
    old = stored()
    new = copy.deepcopy(old)
    new["metadata"]["annotations"]["serving.knative.dev/creator"] = "eve"
    assert error(new, old=old, operation="UPDATE") == (
        "annotation value is immutable: metadata.annotations.serving.knative.dev/creator"
    )


def test_a_status_update_is_not_judged_by_newer_rules() -> None:
    old = stored(timeoutSeconds=500)
    stricter = config(config_defaults={"max-revision-timeout-seconds": "400"})
    assert validate(old, old=old, operation="UPDATE", config=stricter).error != ""
    assert validate(old, old=old, operation="UPDATE", subresource="status", config=stricter).error == ""


def test_a_revision_never_changes() -> None:
    old = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Revision",
        "metadata": {"name": "r"},
        "spec": {"containers": [{"name": "a", "image": "example.com/a", "resources": {"limits": {"cpu": "1"}}}]},
    }
    same, other = copy.deepcopy(old), copy.deepcopy(old)
    same["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "1000m"  # type: ignore[index]
    other["spec"]["containers"][0]["image"] = "example.com/b"  # type: ignore[index]
    assert validate(same, old=old, operation="UPDATE", config=STOCK).error == ""
    assert validate(other, old=old, operation="UPDATE", config=STOCK).error == (
        'Immutable fields changed (-old +new): spec\n\tcontainers[0].image:\n\t-: "example.com/a"\n\t+: "example.com/b"'
    )


# --- other kinds


@pytest.mark.parametrize(
    ("name", "ref", "problem"),
    [
        ("app.example.com", {}, ""),
        ("app", {}, 'invalid name "app": name: Invalid value: "app": should be a domain with at least two segments'),
        ("x.cluster.local", {}, 'invalid name "x.cluster.local": must not be a subdomain of cluster local domain'),
        ("a.b", {"group": "g"}, "must not set the field(s): spec.ref.group"),
        ("a.b", {"name": ""}, "missing field(s): spec.ref.name"),
        ("a.b", {"namespace": "other"}, "mismatched namespaces: spec.ref.namespace\nparent namespace: "),
    ],
)
def test_domain_mappings(name: str, ref: Obj, problem: str) -> None:
    mapping = {
        "apiVersion": "serving.knative.dev/v1beta1",
        "kind": "DomainMapping",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ref": {"kind": "Service", "name": "hello", "apiVersion": "serving.knative.dev/v1"} | ref},
    }
    said = error(mapping)
    assert said.startswith(problem) if problem else said == ""


def internal(kind: str, group: str, spec: Obj) -> Obj:
    return {
        "apiVersion": f"{group}.internal.knative.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "r", "namespace": "default"},
        "spec": spec,
    }


DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "r-deployment"}
SPLIT = {"serviceName": "r", "serviceNamespace": "default", "servicePort": 80}


@pytest.mark.parametrize(
    ("obj", "problem"),
    [
        (internal("PodAutoscaler", "autoscaling", {"scaleTargetRef": DEPLOYMENT, "protocolType": "h2c"}), ""),
        (
            internal("PodAutoscaler", "autoscaling", {"scaleTargetRef": {"name": "x"}, "protocolType": "spdy"}),
            "invalid value: spdy: spec.protocolType\n"
            "missing field(s): spec.scaleTargetRef.apiVersion, spec.scaleTargetRef.kind",
        ),
        (internal("Metric", "autoscaling", {"stableWindow": 1, "panicWindow": 1}), ""),
        (internal("Metric", "autoscaling", {}), "missing field(s): spec"),
        (
            internal("ServerlessService", "networking", {"objectRef": DEPLOYMENT, "protocolType": "http1"}),
            "missing field(s): spec.mode",
        ),
        (internal("Ingress", "networking", {}), "missing field(s): spec"),
        (internal("Ingress", "networking", {"rules": [{"http": {"paths": [{"splits": [SPLIT]}]}}]}), ""),
        (
            internal("Ingress", "networking", {"rules": [{"http": {"paths": [{"splits": [SPLIT, SPLIT]}]}}]}),
            "traffic split percentage must total to 100, but was 0: spec.rules[0].http.paths[0].splits",
        ),
        (
            internal("Certificate", "networking", {"dnsNames": ["a.b", ""]}),
            "invalid value: : spec.dnsNames[1]\nmissing field(s): spec.secretName",
        ),
    ],
)
def test_kinds_of_controllers(obj: Obj, problem: str) -> None:
    assert error(obj) == problem


# --- hostile sizes


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": [{"name": "a"}] * 20_000},
        {"containers": [{"image": "app", "env": [{}] * 50_000}]},
        {"containers": [{"image": "app", "envFrom": [{"secretRef": {}, "configMapRef": {}}] * 50_000}]},
        {"containers": [{"image": "app", "ports": [{"containerPort": 1}]}] * 20_000},
    ],
)
def test_a_huge_object_is_refused_in_reasonable_time(spec: Obj) -> None:
    started = time.process_time()
    said = error(service() | {"spec": {"template": {"spec": spec}}})
    assert said
    assert len(said) < 1_000_000
    assert time.process_time() - started < 5  # quadratic would take minutes
