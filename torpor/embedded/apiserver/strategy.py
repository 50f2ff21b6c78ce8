"""What only particular built-in kinds need: defaults that depend on other fields, fields that never change, life cycle.

The static part of defaulting and validation is in the schemas. Here are one `prepare` function (may change the object)
and one `check` function (says what is wrong) per kind that needs them, found by resource; both get the stored object
or None at a create. They follow the strategies under `pkg/registry` of Kubernetes as far as users and our own
components can tell the difference.
"""

import base64
import binascii
from collections.abc import Callable, Iterator
from typing import Any

from kncore.clock import rfc3339
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.schema import Cause

__all__ = ["CRD_CLEANUP", "check", "prepare"]

Obj = dict[str, Any]

CRD_CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
"""Finalizer of a CustomResourceDefinition: its objects go first."""


def prepare(kind: Kind, obj: Obj, old: Obj | None, now: float) -> None:
    """Complete an object about to be stored, in place."""
    if not kind.custom and (step := _PREPARE.get(kind.resource)):
        step(obj, old, now)


def check(kind: Kind, obj: Obj, old: Obj | None) -> list[Cause]:
    """What is wrong with an object about to be stored, beyond its schema."""
    if not kind.custom and (step := _CHECK.get(kind.resource)):
        return list(step(obj, old))
    return []


# ------------------------------------------------------------------------------------------------- preparation


def _namespace(obj: Obj, old: Obj | None, now: float) -> None:
    labels = obj["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
    if old is None:
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
    else:
        obj["spec"] = old.get("spec") or {}


def _pod(obj: Obj, old: Obj | None, now: float) -> None:
    spec = obj.setdefault("spec", {})
    if old is None:
        spec.setdefault("enableServiceLinks", True)
        spec.setdefault("serviceAccountName", spec.get("serviceAccount") or "default")
        obj["status"] = {"phase": "Pending", "qosClass": _quality(spec)}
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        container.setdefault("imagePullPolicy", _pull_policy(container.get("image") or ""))
        resources = container.get("resources") or {}
        if limits := resources.get("limits"):
            requests = resources.setdefault("requests", {})
            for name, amount in limits.items():
                requests.setdefault(name, amount)


def _pull_policy(image: str) -> str:
    """`Always` for a moving tag, as the kubelet's default."""
    _, colon, tag = image.rpartition("/")[2].partition("@")[0].rpartition(":")
    return "Always" if "@" not in image and (not colon or tag == "latest") else "IfNotPresent"


def _quality(spec: Obj) -> str:
    """The pod's QoS class, from requests and limits of cpu and memory."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    resources = [container.get("resources") or {} for container in containers]
    named = [{**(one.get("requests") or {}), **(one.get("limits") or {})} for one in resources]
    if not any(name in one for one in named for name in ("cpu", "memory")):
        return "BestEffort"
    for one in resources:
        limits, requests = one.get("limits") or {}, one.get("requests") or {}
        for name in ("cpu", "memory"):
            if name not in limits or requests.get(name, limits[name]) != limits[name]:
                return "Burstable"
    return "Guaranteed"


def _service(obj: Obj, old: Obj | None, now: float) -> None:
    spec = obj.setdefault("spec", {})
    for port in spec.get("ports") or ():
        port.setdefault("targetPort", port.get("port"))
    if old is None:
        obj["status"] = {"loadBalancer": {}}
    if spec.get("type") == "ExternalName":
        for key in ("clusterIP", "clusterIPs", "internalTrafficPolicy"):
            spec.pop(key, None)
        return
    if old is not None:
        for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if not spec.get(key) and (old.get("spec") or {}).get(key):
                spec[key] = old["spec"][key]
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    if spec.get("clusterIP"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def _secret(obj: Obj, old: Obj | None, now: float) -> None:
    """`stringData` is write-only: it ends up in `data`, encoded."""
    if (plain := obj.pop("stringData", None)) is not None:
        data = obj.get("data") or {}
        for key, value in plain.items():
            data[key] = base64.b64encode(str(value).encode()).decode()
        obj["data"] = data


def _workload(obj: Obj, old: Obj | None, now: float) -> None:
    spec = obj.setdefault("spec", {})
    template = spec.setdefault("template", {})
    for container in (template.get("spec") or {}).get("containers") or ():
        container.setdefault("imagePullPolicy", _pull_policy(container.get("image") or ""))


def _definition(obj: Obj, old: Obj | None, now: float) -> None:
    """A CustomResourceDefinition is served at once, so its conditions say so from the start."""
    spec = obj.setdefault("spec", {})
    names = spec.get("names") or {}
    if isinstance(names, dict) and isinstance(names.get("kind"), str):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", f"{names['kind']}List")
    spec.setdefault("conversion", {"strategy": "None"})
    if old is not None and (old.get("spec") or {}).get("names") == names:
        return
    metadata = obj["metadata"]
    if old is None and CRD_CLEANUP not in (metadata.get("finalizers") or ()):
        metadata["finalizers"] = [*(metadata.get("finalizers") or ()), CRD_CLEANUP]
    at = rfc3339(now)
    versions = [one.get("name") for one in spec.get("versions") or () if isinstance(one, dict) and one.get("storage")]
    obj["status"] = {
        "acceptedNames": names,
        "conditions": [
            {
                "type": "NamesAccepted",
                "status": "True",
                "reason": "NoConflicts",
                "message": "no conflicts found",
                "lastTransitionTime": at,
            },
            {
                "type": "Established",
                "status": "True",
                "reason": "InitialNamesAccepted",
                "message": "the initial names have been accepted",
                "lastTransitionTime": at,
            },
        ],
        "storedVersions": versions,
    }


_PREPARE: dict[str, Callable[[Obj, Obj | None, float], None]] = {
    "namespaces": _namespace,
    "pods": _pod,
    "services": _service,
    "secrets": _secret,
    "deployments.apps": _workload,
    "replicasets.apps": _workload,
    "statefulsets.apps": _workload,
    "daemonsets.apps": _workload,
    "customresourcedefinitions.apiextensions.k8s.io": _definition,
}


# --------------------------------------------------------------------------------------------------- validation

_IMMUTABLE = "field is immutable"


def _required(path: str, why: str = "") -> Cause:
    return Cause(path, "FieldValueRequired", f"Required value: {why}" if why else "Required value")


def _invalid(path: str, value: Any, why: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Cause(path, "FieldValueInvalid", f"Invalid value: {shown}: {why}")


def _duplicate(path: str, value: str) -> Cause:
    return Cause(path, "FieldValueDuplicate", f'Duplicate value: "{value}"')


def _check_pod(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    spec = obj["spec"]
    if old is None:
        yield from _check_containers(spec, "spec")
    elif _fixed_part(spec) != _fixed_part(old.get("spec") or {}):
        yield Cause(
            "spec",
            "FieldValueForbidden",
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
            "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously "
            "negative)",
        )


def _fixed_part(spec: Obj) -> Obj:
    """The part of a pod's spec that no update may change. A node's name may be set later: that is binding."""
    mutable = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "nodeName")
    made = {key: value for key, value in spec.items() if key not in mutable}
    for group in ("containers", "initContainers"):
        if group in made:
            made[group] = [{k: v for k, v in one.items() if k != "image"} for one in made[group]]
    return made


def _check_containers(spec: Obj, path: str) -> Iterator[Cause]:
    seen: set[str] = set()
    if not spec.get("containers"):
        yield _required(f"{path}.containers")
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group) or ()):
            at = f"{path}.{group}[{index}]"
            name = container.get("name") or ""
            if not name:
                yield _required(f"{at}.name")
            elif name in seen:
                yield _duplicate(f"{at}.name", name)
            seen.add(name)
            if not container.get("image"):
                yield _required(f"{at}.image")


def _check_service(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    spec = obj["spec"]
    headless = spec.get("clusterIP") == "None"
    external = spec.get("type") == "ExternalName"
    ports = spec.get("ports") or []
    if not ports and not headless and not external:
        yield _required("spec.ports")
    if external and not spec.get("externalName"):
        yield _required("spec.externalName")
    seen: set[Any] = set()
    names: set[str] = set()
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        number, name = port.get("port"), port.get("name", "")
        if not isinstance(number, int) or not 0 < number < 65536:
            yield _invalid(f"{at}.port", number, "must be between 1 and 65535, inclusive")
        if not name and len(ports) > 1:
            yield _required(f"{at}.name")
        elif name in names:
            yield _duplicate(f"{at}.name", name)
        names.add(name)
        if (pair := (number, port.get("protocol"))) in seen:
            yield Cause(at, "FieldValueDuplicate", f'Duplicate value: {{"port":{number},"protocol":"{pair[1]}"}}')
        seen.add(pair)
    if old is not None and not external:
        before = (old.get("spec") or {}).get("clusterIP")
        if before and before != spec.get("clusterIP"):
            yield _invalid("spec.clusterIPs[0]", spec.get("clusterIP") or "", "may not change once set")


def _check_config_map(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    both = (obj.get("data") or {}).keys() & (obj.get("binaryData") or {}).keys()
    for key in sorted(both):
        yield _invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
    if old is not None and old.get("immutable"):
        if obj.get("immutable") is not True:
            yield Cause("immutable", "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set")
        for key in ("data", "binaryData"):
            if obj.get(key) != old.get(key):
                yield Cause(key, "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set")


def _check_secret(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    for key, value in (obj.get("data") or {}).items():
        try:
            base64.b64decode(value or "", validate=True)
        except (binascii.Error, ValueError):
            yield _invalid(f"data[{key}]", "<redacted>", "must be base64 encoded")
    if old is not None and obj.get("type") != old.get("type"):
        yield _invalid("type", obj.get("type"), _IMMUTABLE)
    if old is not None and old.get("immutable"):
        if obj.get("immutable") is not True:
            yield Cause("immutable", "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set")
        if obj.get("data") != old.get("data"):
            yield Cause("data", "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set")


def _check_workload(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    spec = obj["spec"]
    replicas = spec.get("replicas")
    if isinstance(replicas, int) and replicas < 0:
        yield _invalid("spec.replicas", replicas, "must be greater than or equal to 0")
    selector = spec.get("selector")
    if not selector:
        yield _required("spec.selector")
    elif old is not None and selector != (old.get("spec") or {}).get("selector"):
        yield _invalid("spec.selector", selector, _IMMUTABLE)
    else:
        labels = (spec["template"].get("metadata") or {}).get("labels") or {}
        if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
            yield _invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    yield from _check_containers(spec["template"].get("spec") or {}, "spec.template.spec")


def _check_definition(obj: Obj, old: Obj | None) -> Iterator[Cause]:
    spec = obj["spec"]
    names = spec.get("names") or {}
    group, plural = spec.get("group") or "", names.get("plural") or ""
    for path, value in (
        ("spec.group", group),
        ("spec.names.plural", plural),
        ("spec.names.kind", names.get("kind")),
        ("spec.versions", spec.get("versions")),
        ("spec.scope", spec.get("scope")),
    ):
        if not value:
            yield _required(path)
    name = obj["metadata"]["name"]
    if name != f"{plural}.{group}":
        yield _invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group')
    versions = spec.get("versions") or []
    if sum(bool(one.get("storage")) for one in versions) != 1:
        yield _invalid("spec.versions", "", "must have exactly one version marked as storage version")
    for index, one in enumerate(versions):
        at = f"spec.versions[{index}]"
        if not (one.get("schema") or {}).get("openAPIV3Schema"):
            yield _required(f"{at}.schema.openAPIV3Schema", "schemas are required")
        if not one.get("name"):
            yield _required(f"{at}.name")
    if (spec.get("conversion") or {}).get("strategy") == "Webhook":
        yield _invalid("spec.conversion.strategy", "Webhook", "the embedded API server converts with None only")
    if old is not None:
        before = old.get("spec") or {}
        for path, ours, theirs in (
            ("spec.group", group, before.get("group")),
            ("spec.names.plural", plural, (before.get("names") or {}).get("plural")),
            ("spec.names.kind", names.get("kind"), (before.get("names") or {}).get("kind")),
            ("spec.scope", spec.get("scope"), before.get("scope")),
        ):
            if ours != theirs:
                yield _invalid(path, ours, _IMMUTABLE)


_CHECK: dict[str, Callable[[Obj, Obj | None], Iterator[Cause]]] = {
    "pods": _check_pod,
    "services": _check_service,
    "configmaps": _check_config_map,
    "secrets": _check_secret,
    "deployments.apps": _check_workload,
    "replicasets.apps": _check_workload,
    "statefulsets.apps": _check_workload,
    "daemonsets.apps": _check_workload,
    "customresourcedefinitions.apiextensions.k8s.io": _check_definition,
}
