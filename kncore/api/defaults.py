"""Filling in what a user left out (serving §1.4).

`set_defaults` does to a plain dict what the mutating webhook does to an object: decode, default, write back. Defaults
come from ConfigMaps and may change, so two rules protect what exists: Revisions are not defaulted on update, and a
template whose Revision bears a name of the user's choice is left alone while the name stays, for a new default in it
would count as a change without a new name.
"""

from collections.abc import Sequence
from typing import Any, Final

from kncore.api import keys
from kncore.api.kinds import decode, encode, shape
from kncore.api.meta import Obj
from kncore.api.names import child_name
from kncore.api.settings import Settings
from kncore.api.validation.masks import secure_defaults
from kncore.config.features import Flag

__all__ = ["set_defaults"]


def set_defaults(
    obj: Any, *, config: Settings, old: Any = None, user: str | None = None, operation: str = "CREATE"
) -> Obj:
    """The object as it should be stored: a new one, of its kind's fields only, with defaults.

    Args:
        obj: what the client sent.
        config: the ConfigMaps in force.
        old: the stored object, on update.
        user: who asks, recorded in annotations; None when unknown.
        operation: "CREATE" or "UPDATE".
    Raises:
        DecodeError: `obj` or `old` is not an object of a known kind with fields of the right types.
    """
    new = decode(obj)
    stored = None
    if operation == "UPDATE" and old is not None:
        # Compared with what the stored object would be today, or our own new defaults would look like the user's edit.
        stored = _defaulted(decode(old), config=config, old=None, creating=False)
    made = _defaulted(new, config=config, old=stored, creating=operation == "CREATE")
    _record_user(made, stored, user)
    return encode(made)


def _defaulted(obj: Obj, *, config: Settings, old: Obj | None, creating: bool) -> Obj:
    """`obj`, which is changed, with its kind's defaults."""
    spec, metadata = obj["spec"], obj["metadata"]
    match obj["kind"]:
        case "Service":
            _template(spec["template"], metadata, config, old, creating=creating)
            if not spec.get("traffic"):
                spec["traffic"] = [{"percent": 100, "latestRevision": True}]
            _traffic(spec["traffic"])
        case "Configuration":
            _template(spec["template"], metadata, config, old, creating=creating)
        case "Revision":
            if old is None:
                # No parent: a name template sees no metadata here, for the Configuration has applied it already.
                _revision(spec, {}, config, creating=creating)
        case "Route":
            _traffic(spec.get("traffic", []))
        case "DomainMapping":
            if not spec["ref"].get("namespace") and metadata.get("namespace"):
                spec["ref"]["namespace"] = metadata["namespace"]
        case "PodAutoscaler":
            _pod_autoscaler(metadata, config)
        case "Ingress":
            _ingress(spec)
    return obj


def _template(template: Obj, parent: Obj, config: Settings, old: Obj | None, *, creating: bool) -> None:
    name = template["metadata"].get("name", "")
    if old is not None and name and name == old["spec"]["template"]["metadata"].get("name", ""):
        return
    _revision(template["spec"], parent, config, creating=creating)


def _revision(spec: Obj, parent: Obj, config: Settings, *, creating: bool) -> None:
    """A Revision's spec; `parent` is the metadata that templates for container names see."""
    defaults = config.defaults
    timeout = spec.get("timeoutSeconds") or defaults.revision_timeout_seconds
    spec["timeoutSeconds"] = timeout
    for field, value in (
        ("idleTimeoutSeconds", defaults.revision_idle_timeout_seconds),
        ("responseStartTimeoutSeconds", defaults.revision_response_start_timeout_seconds),
    ):
        if field not in spec and 0 != value < timeout:
            spec[field] = value
    spec.setdefault("containerConcurrency", defaults.container_concurrency)

    containers, init_containers = spec["containers"] or [], spec.get("initContainers", [])
    taken = {container["name"] for container in (*containers, *init_containers)}
    _name(containers, taken, defaults.user_container_name(parent))
    _name(init_containers, taken, defaults.init_container_name(parent))
    if containers and "enableServiceLinks" not in spec and creating and defaults.enable_service_links is not None:
        spec["enableServiceLinks"] = defaults.enable_service_links
    writable = {
        volume["name"]
        for volume in spec.get("volumes", ())
        if any(kind in volume for kind in ("emptyDir", "persistentVolumeClaim", "ephemeral"))
    }
    for container in containers:
        _resources(container, config)
        if len(containers) == 1 or container.get("ports"):
            _serving_probe(container)
        _probes(container)
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in writable:
                mount["readOnly"] = True
    for container in (*containers, *init_containers):
        _security(container, spec.get("securityContext", {}), config)


def _name(containers: Sequence[Obj], taken: set[str], default: str) -> None:
    """Names for those without: the default if it is the only one and free, else the first free of default-0, -1 ..."""
    number = 0
    for container in containers:
        if container["name"]:
            continue
        name = default
        if len(containers) > 1 or name in taken:
            while True:
                name = child_name(default, f"-{number}")
                number += 1
                if name not in taken:
                    break
        container["name"] = name


def _resources(container: Obj, config: Settings) -> None:
    defaults = config.defaults
    for resource, request, limit in (
        ("cpu", defaults.revision_cpu_request, defaults.revision_cpu_limit),
        ("memory", defaults.revision_memory_request, defaults.revision_memory_limit),
        ("ephemeral-storage", defaults.revision_ephemeral_storage_request, defaults.revision_ephemeral_storage_limit),
    ):
        for field, quantity in (("requests", request), ("limits", limit)):
            if quantity is not None:
                container["resources"].setdefault(field, {}).setdefault(resource, str(quantity))


def _serving_probe(container: Obj) -> None:
    """The serving container is always probed: requests must find it listening."""
    probe = container.setdefault("readinessProbe", {})
    if not any(handler in probe for handler in ("tcpSocket", "httpGet", "exec", "grpc")):
        probe["tcpSocket"] = {"port": 0}


def _probes(container: Obj) -> None:
    """Kubernetes' defaults for readiness probes, where they apply; a period of zero is a wish, not an omission."""
    readiness = container.get("readinessProbe")
    if readiness is not None:
        if not readiness.get("successThreshold"):
            readiness["successThreshold"] = 1
        if readiness.get("periodSeconds"):
            readiness["failureThreshold"] = readiness.get("failureThreshold") or 3
            readiness["timeoutSeconds"] = readiness.get("timeoutSeconds") or 1
    for kind in ("readinessProbe", "livenessProbe", "startupProbe"):
        grpc = container.get(kind, {}).get("grpc")
        if grpc is not None and grpc.get("service") is None:
            grpc["service"] = ""  # as Kubernetes stores it; a different value would look like a change forever


def _security(container: Obj, pod: Obj, config: Settings) -> None:
    """Kubernetes' `restricted` profile for what the user left open, where the cluster asks for it."""
    if not secure_defaults(config.features):
        return
    context = container.setdefault("securityContext", {})
    context.setdefault("allowPrivilegeEscalation", False)
    if not pod.get("seccompProfile", {}).get("type"):
        profile = context.setdefault("seccompProfile", {})
        profile["type"] = profile.get("type") or "RuntimeDefault"
    if "capabilities" not in context:
        context["capabilities"] = {"drop": ["ALL"]}
        if any(port["containerPort"] < 1024 for port in container.get("ports", ())):
            context["capabilities"]["add"] = ["NET_BIND_SERVICE"]
    if config.features.secure_pod_defaults is Flag.ENABLED and "runAsNonRoot" not in pod:
        context.setdefault("runAsNonRoot", True)


def _traffic(targets: Sequence[Obj]) -> None:
    for target in targets:
        target.setdefault("latestRevision", not target.get("revisionName"))
        target.setdefault("percent", 0)


def _pod_autoscaler(metadata: Obj, config: Settings) -> None:
    """Class and metric are written down, so that a later change of the cluster's default does not move the object."""
    annotations = metadata.setdefault("annotations", {})
    class_, metric = keys.AUTOSCALER_CLASS[0], keys.METRIC[0]
    annotations.setdefault(class_, config.autoscaler.pod_autoscaler_class)
    annotations.setdefault(metric, {keys.KPA_CLASS: "concurrency", keys.HPA_CLASS: "cpu"}.get(annotations[class_], ""))


def _ingress(spec: Obj) -> None:
    for rule in spec.get("rules", ()):
        rule["visibility"] = rule.get("visibility") or "ExternalIP"
        for path in rule.get("http", {}).get("paths") or []:
            splits = path["splits"] or []
            if len(splits) == 1 and not splits[0].get("percent"):
                splits[0]["percent"] = 100


_SPECS: Final = {
    "Service": "ServiceSpec",
    "Configuration": "ConfigurationSpec",
    "Route": "RouteSpec",
    "DomainMapping": "DomainMappingSpec",
}


def _record_user(new: Obj, old: Obj | None, user: str | None) -> None:
    """Who made the object and who changed it last. Children inherit both from their Service, so they are left alone."""
    kind = new["kind"]
    is_child = kind in {"Configuration", "Route"} and bool(new["metadata"].get("ownerReferences"))
    if user is None or kind not in _SPECS or is_child:
        return
    annotations = new["metadata"].setdefault("annotations", {})
    if old is None:
        annotations[keys.CREATOR] = user
    elif shape(_SPECS[kind]).same(old["spec"], new["spec"]):
        return
    annotations[keys.LAST_MODIFIER] = user
