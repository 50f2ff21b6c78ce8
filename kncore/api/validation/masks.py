"""Which fields of Kubernetes' types Knative allows; the others are refused by name (serving §1.3).

Several fields depend on a feature flag. Here any value but Disabled opens the field, `Allowed` too; other checks ask
for Enabled. The difference is the original's, and visible to users.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from kncore.api.fielderror import OK, FieldError, disallowed
from kncore.api.meta import Obj
from kncore.config.features import Features, Flag

__all__ = [
    "capabilities",
    "container",
    "container_port",
    "env_source",
    "object_reference",
    "pod",
    "pod_security",
    "resources",
    "secure_defaults",
    "security",
    "volume_mount",
    "volume_projection",
    "volume_source",
]

_POD: Final = frozenset({"containers", "enableServiceLinks", "imagePullSecrets", "serviceAccountName", "volumes"})
_REVISION: Final = frozenset(
    {"containerConcurrency", "idleTimeoutSeconds", "responseStartTimeoutSeconds", "timeoutSeconds"}
)
_CONTAINER: Final = frozenset(
    {
        "args",
        "command",
        "env",
        "envFrom",
        "image",
        "imagePullPolicy",
        "livenessProbe",
        "name",
        "ports",
        "readinessProbe",
        "resources",
        "securityContext",
        "startupProbe",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "volumeMounts",
        "workingDir",
    }
)
_SECURITY: Final = frozenset(
    {
        "allowPrivilegeEscalation",
        "capabilities",
        "readOnlyRootFilesystem",
        "runAsGroup",
        "runAsNonRoot",
        "runAsUser",
        "seccompProfile",
    }
)
_POD_SECURITY: Final = frozenset(
    {"fsGroup", "runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile", "supplementalGroups"}
)


def secure_defaults(features: Features) -> bool:
    """Whether security contexts are filled in with safe values."""
    return features.secure_pod_defaults in {Flag.ENABLED, Flag.ALLOW_ROOT_BOUNDED}


def _outside(value: Mapping[str, Any], allowed: Collection[str]) -> FieldError:
    """Refuse every field that is set and not among the allowed ones."""
    found = sorted(name for name in value if name not in allowed)
    return disallowed(*found) if found else OK


def pod(spec: Obj, features: Features) -> FieldError:
    """PodSpec: the basics, what flags open, and switching the service account's token off (not on)."""
    allowed = set(_POD | _REVISION)
    if spec.get("automountServiceAccountToken") is False:
        allowed.add("automountServiceAccountToken")
    allowed |= {field for field, flag in _pod_flags(features).items() if flag is not Flag.DISABLED}
    if features.secure_pod_defaults is not Flag.DISABLED:
        allowed.add("securityContext")
    return _outside(spec, allowed)


def _pod_flags(features: Features) -> dict[str, Flag]:
    return {
        "affinity": features.podspec_affinity,
        "dnsConfig": features.podspec_dnsconfig,
        "dnsPolicy": features.podspec_dnspolicy,
        "hostAliases": features.podspec_hostaliases,
        "hostIPC": features.podspec_hostipc,
        "hostNetwork": features.podspec_hostnetwork,
        "hostPID": features.podspec_hostpid,
        "initContainers": features.podspec_init_containers,
        "nodeSelector": features.podspec_nodeselector,
        "priorityClassName": features.podspec_priorityclassname,
        "runtimeClassName": features.podspec_runtimeclassname,
        "schedulerName": features.podspec_schedulername,
        "securityContext": features.podspec_securitycontext,
        "shareProcessNamespace": features.podspec_shareprocessnamespace,
        "tolerations": features.podspec_tolerations,
        "topologySpreadConstraints": features.podspec_topologyspreadconstraints,
    }


def container(value: Obj) -> FieldError:
    """Container: no lifecycle, terminal, devices or restart rules."""
    return _outside(value, _CONTAINER)


def container_port(value: Obj) -> FieldError:
    """ContainerPort: nothing of the host's."""
    return _outside(value, {"containerPort", "name", "protocol"})


def env_source(value: Obj, features: Features) -> FieldError:
    """EnvVarSource: keys of ConfigMaps and Secrets; the pod's own fields behind a flag."""
    allowed = {"configMapKeyRef", "secretKeyRef"}
    if features.podspec_fieldref is not Flag.DISABLED:
        allowed |= {"fieldRef", "resourceFieldRef"}
    return _outside(value, allowed)


def resources(value: Obj) -> FieldError:
    """ResourceRequirements: no claims."""
    return _outside(value, {"limits", "requests"})


def security(value: Obj) -> FieldError:
    """SecurityContext: `privileged` may only be switched off."""
    return _outside(value, _SECURITY | {"privileged"} if value.get("privileged") is False else _SECURITY)


def capabilities(value: Obj, features: Features) -> FieldError:
    """Capabilities: dropping is free; adding needs a flag, or is binding to low ports under secure defaults."""
    allowed = {"drop"}
    binds_low_ports = secure_defaults(features) and value.get("add") == ["NET_BIND_SERVICE"]
    if features.containerspec_addcapabilities is Flag.ENABLED or binds_low_ports:
        allowed.add("add")
    return _outside(value, allowed)


def pod_security(value: Obj, features: Features) -> FieldError:
    """PodSecurityContext: behind a flag; under secure defaults at least the profile's two plain types."""
    if features.podspec_securitycontext is not Flag.DISABLED:
        return _outside(value, _POD_SECURITY)
    profile = value.get("seccompProfile")
    plain = profile is not None and profile in ({"type": "RuntimeDefault"}, {"type": "Unconfined"})
    return _outside(value, {"seccompProfile"} if secure_defaults(features) and plain else ())


def volume_mount(value: Obj, features: Features) -> FieldError:
    """VolumeMount: propagation behind a flag."""
    allowed = {"mountPath", "name", "readOnly", "subPath"}
    if features.podspec_volumes_mount_propagation is not Flag.DISABLED:
        allowed.add("mountPropagation")
    return _outside(value, allowed)


def volume_source(value: Obj, features: Features) -> FieldError:
    """Volume: three kinds for everybody, the others behind flags."""
    flags = {
        "csi": features.podspec_volumes_csi,
        "emptyDir": features.podspec_volumes_emptydir,
        "ephemeral": features.podspec_volumes_ephemeral,
        "hostPath": features.podspec_volumes_hostpath,
        "image": features.podspec_volumes_image,
        "persistentVolumeClaim": features.podspec_persistent_volume_claim,
    }
    opened = {field for field, flag in flags.items() if flag is not Flag.DISABLED}
    return _outside(value, {"configMap", "name", "projected", "secret"} | opened)


def volume_projection(value: Obj) -> FieldError:
    """VolumeProjection: no trust bundles or pod certificates."""
    return _outside(value, {"configMap", "downwardAPI", "secret", "serviceAccountToken"})


def object_reference(value: Obj) -> FieldError:
    """ObjectReference within the object's own namespace."""
    return _outside(value, {"apiVersion", "kind", "name"})
