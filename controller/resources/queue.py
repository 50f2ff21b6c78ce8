"""Revision -> the queue-proxy container of its pods (serving §1.9, §6.2).

Everything the queue-proxy must know travels in its environment, as in Knative, so either implementation can stand in a
pod the other one made.
"""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from controller.resources.ports import (
    PROFILING_PORT,
    QUEUE_H2C_PORT,
    QUEUE_HTTP_PORT,
    QUEUE_METRICS_PORT,
    QUEUE_TLS_PORT,
    USER_METRICS_PORT,
)
from controller.settings import Settings
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.errors import KnError
from kncore.quantity import Quantity, parse_quantity

__all__ = ["CERTIFICATES_VOLUME", "NAME", "POD_INFO_VOLUME", "TOKEN_VOLUME", "BadProbe", "make", "wants_pod_info"]

NAME: Final = "queue-proxy"
CERTIFICATES_VOLUME: Final = "server-certs"
POD_INFO_VOLUME: Final = "pod-info"
TOKEN_VOLUME: Final = "knative-token-volume"
_LOCALHOST: Final = "127.0.0.1"


class BadProbe(KnError):
    """A readiness probe that the queue-proxy cannot run for the user."""


def make(
    revision: Obj, serving: Obj, sidecars: Sequence[Obj], user_port: int, protocol: str, settings: Settings
) -> Obj:
    """The container.

    Args:
        serving: the container that takes requests, as the user wrote it.
        sidecars: the user's other containers.
        user_port: where the serving container listens.
        protocol: `http1` or `h2c`.
    Raises:
        BadProbe: a sidecar's readiness probe names no port.
    """
    port = QUEUE_H2C_PORT if protocol == "h2c" else QUEUE_HTTP_PORT
    profiling = settings.observability.runtime.profiling == "enabled"
    made: Obj = {
        "name": NAME,
        "image": settings.deployment.queue_sidecar_image,
        "resources": _resources(meta.annotations(revision), serving, settings),
        "ports": [
            {"name": "http-autometric", "containerPort": QUEUE_METRICS_PORT},
            {"name": "http-usermetric", "containerPort": USER_METRICS_PORT},
            *([{"name": "profiling-port", "containerPort": PROFILING_PORT}] if profiling else []),
            {"name": "queue-port", "containerPort": port},
            {"name": "https-port", "containerPort": QUEUE_TLS_PORT},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "env": _environment(revision, serving, sidecars, user_port, port, settings),
    }
    if probe := serving.get("readinessProbe"):
        made["readinessProbe"] = _own_probe(probe, port)
    mounts = []
    if wants_pod_info(revision, settings):
        mounts.append({"name": POD_INFO_VOLUME, "mountPath": "/etc/podinfo", "readOnly": True})
    if settings.deployment.queue_sidecar_token_audiences:
        mounts.append({"name": TOKEN_VOLUME, "mountPath": "/var/run/secrets/tokens"})
    if settings.network.system_internal_tls:
        mounts.append({"name": CERTIFICATES_VOLUME, "mountPath": "/var/lib/knative/certs", "readOnly": True})
    if mounts:
        made["volumeMounts"] = mounts
    return made


def wants_pod_info(revision: Obj, settings: Settings) -> bool:
    """Whether the pod's annotations are mounted into the queue-proxy: always, never, or as the annotation says."""
    flag = settings.features.queueproxy_mount_podinfo
    asked = meta.annotations(revision).get(keys.QUEUE_PODINFO, "").lower() == "enabled"
    return bool(flag == "Enabled" or (flag == "Allowed" and asked))


def _own_probe(probe: Obj, port: int) -> Obj:
    """The kubelet's probe of the queue-proxy: the user's timings, our check (which runs the user's in turn)."""
    made = {key: value for key, value in probe.items() if key not in ("httpGet", "tcpSocket", "exec", "grpc")}
    header = {"name": keys.HEADER_PROBE, "value": "queue"}
    return made | {"httpGet": {"port": port, "httpHeaders": [header]}}


def _environment(
    revision: Obj, serving: Obj, sidecars: Sequence[Obj], user_port: int, port: int, settings: Settings
) -> list[Obj]:
    spec = revision.get("spec", {})
    labels = meta.labels(revision)
    deployment, features = settings.deployment, settings.features
    multi = features.multi_container_probing == "Enabled"
    full_duplex = meta.annotations(revision).get(keys.HTTP_FULL_DUPLEX, "").lower() == "enabled"
    values: list[tuple[str, str | Obj]] = [
        ("SERVING_NAMESPACE", meta.namespace(revision)),
        ("SERVING_SERVICE", labels.get(keys.SERVICE, "")),
        ("SERVING_CONFIGURATION", labels.get(keys.CONFIGURATION, "")),
        ("SERVING_REVISION", meta.name(revision)),
        ("QUEUE_SERVING_PORT", str(port)),
        ("QUEUE_SERVING_TLS_PORT", str(QUEUE_TLS_PORT)),
        ("CONTAINER_CONCURRENCY", str(spec.get("containerConcurrency") or 0)),
        ("REVISION_TIMEOUT_SECONDS", str(spec.get("timeoutSeconds") or 0)),
        ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", str(spec.get("responseStartTimeoutSeconds") or 0)),
        ("REVISION_IDLE_TIMEOUT_SECONDS", str(spec.get("idleTimeoutSeconds") or 0)),
        ("SERVING_POD", {"fieldRef": {"fieldPath": "metadata.name"}}),
        ("SERVING_POD_IP", {"fieldRef": {"fieldPath": "status.podIP"}}),
        ("SERVING_LOGGING_CONFIG", settings.logging.config),
        ("SERVING_LOGGING_LEVEL", settings.logging.levels.get("queueproxy", "")),
        ("USER_PORT", str(user_port)),
        ("SYSTEM_NAMESPACE", settings.system_namespace),
        ("SERVING_READINESS_PROBE", _readiness(serving, sidecars, user_port, multi=multi)),
        ("HOST_IP", {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}),
        ("ENABLE_HTTP2_AUTO_DETECTION", _flag(features.autodetect_http2 == "Enabled")),
        ("ENABLE_HTTP_FULL_DUPLEX", _flag(full_duplex)),
        ("ROOT_CA", deployment.queue_sidecar_root_ca),
        ("QUEUE_PROXY_TLS_MIN_VERSION", deployment.queue_sidecar_tls_min_version),
        ("QUEUE_PROXY_TLS_MAX_VERSION", deployment.queue_sidecar_tls_max_version),
        ("QUEUE_PROXY_TLS_CIPHER_SUITES", deployment.queue_sidecar_tls_cipher_suites),
        ("QUEUE_PROXY_TLS_CURVE_PREFERENCES", deployment.queue_sidecar_tls_curve_preferences),
        ("ENABLE_MULTI_CONTAINER_PROBES", _flag(multi)),
        ("OBSERVABILITY_CONFIG", settings.observability_json),
    ]
    return [_variable(name, value) for name, value in values]


def _variable(name: str, value: str | Obj) -> Obj:
    if isinstance(value, dict):
        return {"name": name, "valueFrom": value}
    return {"name": name, "value": value} if value else {"name": name}


def _flag(value: bool) -> str:
    return "true" if value else "false"


# -- the user's readiness probe ------------------------------------------------------------------------------------


def _readiness(serving: Obj, sidecars: Sequence[Obj], user_port: int, *, multi: bool) -> str:
    """JSON of the probe the queue-proxy runs for the user; of all containers' probes in multi-container mode."""
    if not multi:
        probe = serving.get("readinessProbe")
        return _dump(_local(probe, user_port)) if probe else ""
    probes = []
    for container in (serving, *sidecars):
        probe = container.get("readinessProbe")
        if probe is None or (container is not serving and "exec" in probe):
            continue
        if container is serving:
            probes.append(_local(probe, user_port))
            continue
        handler: Obj = next((probe[kind] for kind in ("httpGet", "tcpSocket", "grpc") if probe.get(kind)), {})
        if not isinstance(handler.get("port"), int) or not handler["port"]:
            raise BadProbe(f"sidecar readiness probe does not define probe port on container: {container['name']}")
        probes.append(_local(probe, handler["port"]))
    return _dump(probes)


def _local(probe: Obj, port: int) -> Obj:
    """The probe as it is run from inside the pod: against this machine, on the port that is really listened on."""
    made = copy.deepcopy(probe)
    if (http := made.get("httpGet")) is not None:
        http |= {"host": _LOCALHOST, "port": _given(http, port), "scheme": http.get("scheme") or "HTTP"}
    elif (tcp := made.get("tcpSocket")) is not None:
        tcp |= {"host": _LOCALHOST, "port": _given(tcp, port)}
    elif (grpc := made.get("grpc")) is not None:
        grpc["port"] = _given(grpc, port)
    elif made.pop("exec", None) is not None:
        # The command can only run in the user's container, where the kubelet runs it; here the port has to do.
        made["tcpSocket"] = {"host": _LOCALHOST, "port": port}
    return made


def _given(handler: Obj, default: int) -> int:
    """The port a probe names; a port's *name* means nothing outside the pod's manifest."""
    port = handler.get("port")
    return port if isinstance(port, int) and port else default


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


# -- resources -----------------------------------------------------------------------------------------------------

_CLAMPS: Final[Mapping[tuple[str, str], tuple[str, str]]] = {
    ("requests", "cpu"): ("25m", "100m"),
    ("limits", "cpu"): ("40m", "500m"),
    ("requests", "memory"): ("50Mi", "200Mi"),
    ("limits", "memory"): ("200Mi", "500Mi"),
}
"""What a percentage of the user's resources may come to; other resources are not derived."""

_ANNOTATIONS: Final[Mapping[tuple[str, str], Sequence[str]]] = {
    ("requests", "cpu"): keys.QUEUE_CPU_REQUEST,
    ("limits", "cpu"): keys.QUEUE_CPU_LIMIT,
    ("requests", "memory"): keys.QUEUE_MEMORY_REQUEST,
    ("limits", "memory"): keys.QUEUE_MEMORY_LIMIT,
    ("requests", "ephemeral-storage"): keys.QUEUE_EPHEMERAL_STORAGE_REQUEST,
    ("limits", "ephemeral-storage"): keys.QUEUE_EPHEMERAL_STORAGE_LIMIT,
}

_FEATURE_DEFAULTS: Final[Mapping[tuple[str, str], str]] = {
    ("limits", "cpu"): "1000m",
    ("requests", "memory"): "400Mi",
    ("limits", "memory"): "800Mi",
}
"""With `queueproxy.resource-defaults`; for keys that config-deployment leaves unset."""


def _resources(annotations: Mapping[str, str], serving: Obj, settings: Settings) -> Obj:
    """An exact annotation, else a percentage of the user's own, else config-deployment, else the feature's default."""
    deployment = settings.deployment
    configured = {
        ("requests", "cpu"): deployment.queue_sidecar_cpu_request,
        ("limits", "cpu"): deployment.queue_sidecar_cpu_limit,
        ("requests", "memory"): deployment.queue_sidecar_memory_request,
        ("limits", "memory"): deployment.queue_sidecar_memory_limit,
        ("requests", "ephemeral-storage"): deployment.queue_sidecar_ephemeral_storage_request,
        ("limits", "ephemeral-storage"): deployment.queue_sidecar_ephemeral_storage_limit,
    }
    defaults = _FEATURE_DEFAULTS if settings.features.queueproxy_resource_defaults == "Enabled" else {}
    fraction = _fraction(annotations)
    made: Obj = {}
    for place, aliases in _ANNOTATIONS.items():
        kind, resource = place
        amount = (
            _quantity(keys.lookup(annotations, aliases))
            or (_share(serving, place, fraction) if fraction is not None else None)
            or configured[place]
            or _quantity(defaults.get(place))
        )
        if amount is not None:
            made.setdefault(kind, {})[resource] = str(amount)
    return made


def _fraction(annotations: Mapping[str, str]) -> float | None:
    try:
        value = float(keys.lookup(annotations, keys.QUEUE_RESOURCE_PERCENTAGE) or "")
    except ValueError:
        return None
    return value / 100 if math.isfinite(value) else None


def _share(serving: Obj, place: tuple[str, str], fraction: float) -> Quantity | None:
    kind, resource = place
    given = _quantity(meta.at(serving, "resources", kind, resource))
    clamps = _CLAMPS.get(place)
    if given is None or clamps is None:
        return None
    low, high = (parse_quantity(text) for text in clamps)
    return min(max(Quantity(int(given.nanos * fraction), given.style), low), high)


def _quantity(text: Any) -> Quantity | None:
    """None for what is absent or cannot be parsed: validation has refused it, and an old object may still hold it."""
    if text is None:
        return None
    try:
        return parse_quantity(text)
    except ValueError:
        return None
