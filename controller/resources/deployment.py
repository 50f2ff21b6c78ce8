"""Revision -> Deployment (serving §1.9).

The label `deployment-hash` covers everything below it, so one comparison of labels decides whether a Deployment made by
an older release, or under another configuration, has to be rolled.
"""

import copy
import json
from typing import Final

from controller.resources import queue
from controller.resources.metadata import child, without
from controller.resources.ports import QUEUE_ADMIN_PORT, USER_DEFAULT_PORT, USER_PORT_NAME
from controller.settings import Settings
from controller.traffic import protocol
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.api.names import child_name
from kncore.api.resources import DEPLOYMENTS
from kncore.errors import KnError
from kncore.quantity import parse_duration

__all__ = ["CannotMake", "annotations", "digest", "labels", "make", "merged", "name", "serving_container"]

_VAR_LOG_VOLUME: Final = "knative-var-log"
_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


class CannotMake(KnError):
    """The Revision cannot be turned into a Deployment."""


def name(revision: Obj) -> str:
    """`<revision>-deployment`."""
    return child_name(meta.name(revision), "-deployment")


def labels(revision: Obj) -> dict[str, str]:
    """What everything that belongs to the Revision carries: its own labels, and which Revision it is."""
    made = without(meta.labels(revision), keys.ROUTE, keys.ROUTING_STATE)
    made |= {keys.REVISION: meta.name(revision), keys.REVISION_UID: meta.uid(revision)}
    return {"app": meta.name(revision)} | made


def serving_container(revision: Obj) -> Obj | None:
    """The container that takes requests: the only one, or the one with ports."""
    containers: list[Obj] = meta.at(revision, "spec", "containers", default=[])
    if len(containers) == 1:
        return containers[0]
    return next((container for container in containers if container.get("ports")), None)


def make(revision: Obj, settings: Settings) -> Obj:
    """The Deployment that a Revision wants, at its initial scale.

    Raises:
        CannotMake: see the message.
    """
    try:
        pod = _pod(revision, settings)
    except queue.BadProbe as exc:
        raise CannotMake(f"failed to create PodSpec: failed to create queue-proxy container: {exc}") from exc
    inherited = annotations(revision)
    shown = labels(revision)
    serving = serving_container(revision)
    made: Obj = {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": child(revision, name(revision), labels=shown, annotations=inherited),
        "spec": {
            "replicas": _initial_scale(revision, settings),
            "selector": {"matchLabels": {keys.REVISION_UID: meta.uid(revision)}},
            "progressDeadlineSeconds": _progress_deadline(revision, settings),
            # Rolling back is done by routing to another Revision, so old ReplicaSets are only ballast.
            "revisionHistoryLimit": 0,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}},
            "template": {
                "metadata": {
                    "labels": dict(shown),
                    "annotations": inherited | {_DEFAULT_CONTAINER: serving["name"] if serving else ""},
                },
                "spec": pod,
            },
        },
    }
    made["metadata"]["labels"][keys.DEPLOYMENT_HASH] = digest(made)
    return made


def merged(present: Obj, wanted: Obj) -> Obj:
    """`wanted` as an update of a Deployment that exists: the autoscaler's replicas, the immutable selector, and labels
    and annotations that others put there stay.
    """
    made = copy.deepcopy(present)
    made["spec"] = copy.deepcopy(wanted["spec"]) | {
        field: present["spec"][field] for field in ("replicas", "selector") if field in present.get("spec", {})
    }
    made["metadata"]["labels"] = meta.labels(present) | meta.labels(wanted)
    made["metadata"]["annotations"] = meta.annotations(present) | meta.annotations(wanted)
    return made


def digest(obj: Obj) -> str:
    """FNV-1a (32 bit) of the object's canonical JSON, in base 36."""
    hashed = 0x811C9DC5
    for byte in json.dumps(obj, sort_keys=True, separators=(",", ":")).encode():
        hashed = (hashed ^ byte) * 0x01000193 & 0xFFFFFFFF
    text = ""
    while hashed:
        hashed, digit = divmod(hashed, 36)
        text = _DIGITS[digit] + text
    return text or "0"


def annotations(revision: Obj) -> dict[str, str]:
    """What children inherit: not the bookkeeping, nor scaling, so that a new min-scale does not roll the pods."""
    return {
        key: value
        for key, value in without(
            meta.annotations(revision),
            keys.LAST_PINNED,
            keys.NO_GC,
            keys.ROUTING_STATE_MODIFIED,
            keys.ROUTES,
        ).items()
        if not key.startswith(f"{keys.GROUP_AUTOSCALING}/")
    }


def _initial_scale(revision: Obj, settings: Settings) -> int:
    config = settings.autoscaler
    text = keys.lookup(meta.annotations(revision), keys.INITIAL_SCALE)
    try:
        wanted = int(text) if text is not None else config.initial_scale
    except ValueError:
        return config.initial_scale
    return wanted if wanted > 0 or config.allow_zero_initial_scale else config.initial_scale


def _progress_deadline(revision: Obj, settings: Settings) -> int:
    text = keys.lookup(meta.annotations(revision), keys.PROGRESS_DEADLINE)
    if text is None:
        return int(settings.deployment.progress_deadline)
    try:
        return int(parse_duration(text))
    except ValueError:
        return 0  # validation lets none through; the API server will refuse this Deployment and say why


def _pod(revision: Obj, settings: Settings) -> Obj:
    spec = {
        key: copy.deepcopy(value)
        for key, value in revision.get("spec", {}).items()
        if key
        not in (
            "containers",
            "containerConcurrency",
            "timeoutSeconds",
            "responseStartTimeoutSeconds",
            "idleTimeoutSeconds",
        )
    }
    containers: list[Obj] = meta.at(revision, "spec", "containers", default=[])
    serving = serving_container(revision)
    port = _user_port(serving)
    images = {
        status["name"]: status.get("imageDigest")
        for status in meta.at(revision, "status", "containerStatuses", default=[])
    }
    users = [
        _user_container(revision, container, container is serving, port, images, settings) for container in containers
    ]
    sidecars = [container for container in containers if container is not serving]
    spec["containers"] = [
        *users,
        queue.make(revision, serving or {}, sidecars, port, protocol(revision), settings),
    ]
    volumes = [*(spec.get("volumes") or []), *_queue_volumes(revision, settings)]
    if settings.observability.enable_var_log_collection:
        volumes.append({"name": _VAR_LOG_VOLUME, "emptyDir": {}})
    if volumes:
        spec["volumes"] = volumes
    if timeout := meta.at(revision, "spec", "timeoutSeconds"):
        spec["terminationGracePeriodSeconds"] = timeout
    if "affinity" not in spec and settings.deployment.default_affinity_type != "none":
        spec["affinity"] = _spread(revision)
    if not spec.get("runtimeClassName"):
        spec.pop("runtimeClassName", None)
        if chosen := settings.deployment.runtime_class(meta.labels(revision)):
            spec["runtimeClassName"] = chosen
    return spec


def _spread(revision: Obj) -> Obj:
    """A wish, not a demand: pods of one Revision on different nodes."""
    term = {
        "labelSelector": {"matchLabels": {keys.REVISION: meta.name(revision)}},
        "topologyKey": "kubernetes.io/hostname",
    }
    weighted = {"weight": 100, "podAffinityTerm": term}
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}}


def _user_port(serving: Obj | None) -> int:
    ports = (serving or {}).get("ports") or [{}]
    return int(ports[0].get("containerPort") or USER_DEFAULT_PORT)


def _user_container(
    revision: Obj, container: Obj, is_serving: bool, port: int, images: dict[str, str | None], settings: Settings
) -> Obj:
    made = copy.deepcopy(container)
    if image := images.get(container.get("name", "")):
        made["image"] = image
    if is_serving:
        made["ports"] = [{"name": USER_PORT_NAME, "containerPort": port}]
    environment = list(made.get("env") or [])
    if is_serving:
        environment.append({"name": "PORT", "value": str(port)})
    environment += _identity(revision)
    if settings.observability.enable_var_log_collection:
        environment += [
            {"name": "K_INTERNAL_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "K_INTERNAL_POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ]
        mount = {
            "name": _VAR_LOG_VOLUME,
            "mountPath": "/var/log",
            "subPathExpr": f"$(K_INTERNAL_POD_NAMESPACE)_$(K_INTERNAL_POD_NAME)_{container.get('name', '')}",
        }
        made["volumeMounts"] = [*(made.get("volumeMounts") or []), mount]
    made["env"] = environment
    # Holds the container until the queue-proxy has seen the last request out.
    made["lifecycle"] = {"preStop": {"httpGet": {"port": QUEUE_ADMIN_PORT, "path": "/wait-for-drain"}}}
    if not made.get("terminationMessagePolicy"):
        made["terminationMessagePolicy"] = "FallbackToLogsOnError"
    if "exec" not in (made.get("readinessProbe") or {"exec": None}):
        del made["readinessProbe"]  # the queue-proxy runs it
    if (liveness := made.get("livenessProbe")) and is_serving:
        _on_user_port(liveness, port, keep=settings.features.multi_container_probing == "Enabled")
    return made


def _identity(revision: Obj) -> list[Obj]:
    labels = meta.labels(revision)
    values = {
        "K_REVISION": meta.name(revision),
        "K_CONFIGURATION": labels.get(keys.CONFIGURATION, ""),
        "K_SERVICE": labels.get(keys.SERVICE, ""),
    }
    return [{"name": key, "value": value} if value else {"name": key} for key, value in values.items()]


def _on_user_port(probe: Obj, port: int, *, keep: bool) -> None:
    """Point an http or tcp probe at the port the user listens on; `keep` respects a port that was given."""
    for kind in ("httpGet", "tcpSocket"):
        handler = probe.get(kind)
        if handler is not None and not (keep and handler.get("port")):
            handler["port"] = port


def _queue_volumes(revision: Obj, settings: Settings) -> list[Obj]:
    made: list[Obj] = []
    if queue.wants_pod_info(revision, settings):
        item = {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}}
        made.append({"name": queue.POD_INFO_VOLUME, "downwardAPI": {"items": [item]}})
    if audiences := sorted(settings.deployment.queue_sidecar_token_audiences):
        sources = [
            {"serviceAccountToken": {"audience": audience, "expirationSeconds": 3600, "path": audience}}
            for audience in audiences
        ]
        made.append({"name": queue.TOKEN_VOLUME, "projected": {"sources": sources}})
    if settings.network.system_internal_tls:
        made.append({"name": queue.CERTIFICATES_VOLUME, "secret": {"secretName": "serving-certs"}})
    return made
