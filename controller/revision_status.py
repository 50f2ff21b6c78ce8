"""How a Revision is, told from its Deployment, one of its pods and its PodAutoscaler (serving §1.9).

Three observers disagree in interesting ways: the Deployment knows about quota and deadlines, the pod knows why the
container dies, the PodAutoscaler knows that having no pods can be exactly right. They are asked in that order and a
failure found by one is not overruled by the next.
"""

from controller.resources.queue import NAME as QUEUE_PROXY
from kncore.api import meta
from kncore.api.conditions import Conditions
from kncore.api.meta import Obj

__all__ = ["from_autoscaler", "from_deployment", "from_pod", "may_hide_a_failure"]

_DEPLOYING = "Deploying"
_RESOURCES = "ResourcesAvailable"
_HEALTHY = "ContainerHealthy"
_ACTIVE = "Active"


def from_deployment(conditions: Conditions, deployment: Obj) -> None:
    """ResourcesAvailable as the Deployment sees it: progress, unless pods cannot even be made."""
    progressing = meta.condition(deployment, "Progressing")
    failure = meta.condition(deployment, "ReplicaFailure")
    if failure is not None and failure["status"] == "True":
        conditions.mark_false(_RESOURCES, failure.get("reason", ""), failure.get("message", ""))
    elif progressing is not None and progressing["status"] == "False":
        conditions.mark_false(_RESOURCES, progressing.get("reason", ""), progressing.get("message", ""))
    elif progressing is not None and progressing["status"] == "True":
        conditions.mark_true(_RESOURCES)
    elif progressing is not None:
        conditions.mark_unknown(_RESOURCES, progressing.get("reason", ""), progressing.get("message", ""))
    else:
        conditions.mark_unknown(_RESOURCES)
    if meta.at(deployment, "status", "readyReplicas", default=0) > 0:
        conditions.mark_true(_HEALTHY)


def may_hide_a_failure(deployment: Obj) -> bool:
    """True when pods are wanted and none is available: then one of them may say why."""
    wanted = meta.at(deployment, "spec", "replicas", default=0) > 0
    return bool(wanted and not meta.at(deployment, "status", "availableReplicas", default=0))


def from_pod(conditions: Conditions, deployment: Obj, pod: Obj, *, always_schedulable: bool) -> None:
    """What one pod knows about why none is available.

    Args:
        always_schedulable: nodes are made on demand, so a pod without one is only waiting.
    """
    scheduled = meta.condition(pod, "PodScheduled")
    if scheduled is not None and scheduled["status"] == "False" and not always_schedulable:
        conditions.mark_false(_RESOURCES, scheduled.get("reason", ""), scheduled.get("message", ""))
    for status in meta.at(pod, "status", "containerStatuses", default=[]):
        if status.get("name") == QUEUE_PROXY:
            continue
        terminated = meta.at(status, "lastState", "terminated")
        waiting = meta.at(status, "state", "waiting")
        if terminated is not None:
            code = terminated.get("exitCode", 0)
            conditions.mark_false(_HEALTHY, f"ExitCode{code}", _exit_message(code, terminated.get("message") or ""))
        elif waiting is not None and _timed_out(deployment):
            conditions.mark_false(_RESOURCES, waiting.get("reason", ""), waiting.get("message", ""))
        break  # the first one is the one users ask about


def from_autoscaler(revision: Obj, conditions: Conditions, autoscaler: Obj) -> None:
    """Active and the replica counts; and whether the Revision ever reached its initial scale."""
    status = revision["status"]
    pa = autoscaler.get("status") or {}
    for ours, theirs in (("actualReplicas", "actualScale"), ("desiredReplicas", "desiredScale")):
        count = pa.get(theirs)
        if count is not None and count >= 0:
            status[ours] = count
        else:
            status.pop(ours, None)
    ready = meta.condition(autoscaler, "Ready")
    if ready is None:
        conditions.mark_unknown(_ACTIVE, _DEPLOYING)
        conditions.mark_unknown(_RESOURCES, _DEPLOYING)
        return
    initialized = meta.is_true(autoscaler, "ScaleTargetInitialized")
    failed = conditions.is_false(_RESOURCES)
    if initialized:
        if not failed:
            conditions.mark_true(_RESOURCES)
        if not conditions.is_false(_HEALTHY):
            conditions.mark_true(_HEALTHY)
    if conditions.is_true(_RESOURCES) and not (initialized and pa.get("serviceName")):
        conditions.mark_unknown(_RESOURCES, _DEPLOYING)
    reason, message = ready.get("reason", ""), ready.get("message", "")
    if ready["status"] == "True":
        conditions.mark_true(_ACTIVE)
    elif ready["status"] == "False":
        # The autoscaler gave up on a revision that never had all its pods. Its Deployment, scaled to zero by that very
        # decision, looks perfectly healthy now, so this is the last chance to say so.
        if not initialized and pa.get("serviceName") and not failed:
            conditions.mark_false(_RESOURCES, "ProgressDeadlineExceeded", "Initial scale was never achieved")
        conditions.mark_false(_ACTIVE, reason, message)
    else:
        conditions.mark_unknown(_ACTIVE, reason, message)


def _exit_message(code: int, message: str) -> str:
    if code == 0 and not message:
        return "container exited with no error"
    return f"Container failed with: {message}"


def _timed_out(deployment: Obj) -> bool:
    progressing = meta.condition(deployment, "Progressing")
    return progressing is not None and progressing["status"] == "False"
