"""Revision -> PodAutoscaler (serving §1.9)."""

from controller.resources import deployment
from controller.resources.metadata import child, without
from controller.routing_state import ACTIVE, RESERVE
from controller.traffic import protocol
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.api.resources import DEPLOYMENTS, POD_AUTOSCALERS

__all__ = ["make"]


def make(revision: Obj, present_deployment: Obj | None) -> Obj:
    """The PodAutoscaler that scales a Revision.

    Args:
        present_deployment: the Revision's Deployment as it is now; decides whether a broken Revision still deserves its
            min-scale.
    """
    spec: Obj = {
        "scaleTargetRef": {
            "apiVersion": DEPLOYMENTS.api_version,
            "kind": DEPLOYMENTS.kind,
            "name": deployment.name(revision),
        },
        "protocolType": protocol(revision),
    }
    if concurrency := meta.at(revision, "spec", "containerConcurrency"):
        spec["containerConcurrency"] = concurrency
    if reachability := _reachability(revision, present_deployment):
        spec["reachability"] = reachability
    return {
        "apiVersion": POD_AUTOSCALERS.api_version,
        "kind": POD_AUTOSCALERS.kind,
        "metadata": child(
            revision,
            meta.name(revision),
            labels=deployment.labels(revision),
            annotations=without(
                meta.annotations(revision),
                keys.LAST_PINNED,
                keys.NO_GC,
                keys.ROUTING_STATE_MODIFIED,
                keys.ROUTES,
            ),
        ),
        "spec": spec,
    }


def _reachability(revision: Obj, present: Obj | None) -> str:
    failed = any(
        (meta.condition(revision, type_) or {}).get("status") == "False"
        for type_ in ("ResourcesAvailable", "ContainerHealthy")
    )
    wanted = meta.at(present, "spec", "replicas", default=0)
    if failed and wanted > 0 and not meta.at(present, "status", "readyReplicas", default=0):
        return "Unreachable"
    return {ACTIVE: "Reachable", RESERVE: "Unreachable"}.get(meta.labels(revision).get(keys.ROUTING_STATE, ""), "")
