"""A pod's status from the state of its containers: pure.

Field names, reasons and texts are the kubelet's; Knative's Revision reconciler reads several of them
(`lastState.terminated`, waiting reasons). Source: kubernetes pkg/kubelet/status/generate.go and kubelet_pods.go.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.clock import rfc3339

__all__ = ["Container", "Terminated", "phase", "pod_status"]


@dataclass(frozen=True, kw_only=True)
class Terminated:
    """How a container ended."""

    exit_code: int
    reason: str
    """`Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`."""
    finished_at: float
    started_at: float = 0.0
    """Unix seconds; 0: it never ran."""
    signal: int = 0
    message: str = ""
    container_id: str = ""

    def to_obj(self) -> Obj:
        """`ContainerStateTerminated`."""
        made: Obj = {"exitCode": self.exit_code, "reason": self.reason, "finishedAt": rfc3339(self.finished_at)}
        made["startedAt"] = rfc3339(self.started_at) if self.started_at else None
        if self.signal:
            made["signal"] = self.signal
        if self.message:
            made["message"] = self.message
        if self.container_id:
            made["containerID"] = self.container_id
        return made


@dataclass(frozen=True, kw_only=True)
class Container:
    """One container as its status shows it. A changed one is a new value."""

    name: str
    image: str = ""
    image_id: str = ""
    state: Literal["waiting", "running", "terminated"] = "waiting"
    reason: str = "ContainerCreating"
    """Of waiting."""
    message: str = ""
    started_at: float = 0.0
    """Of running, Unix seconds."""
    terminated: Terminated | None = None
    """Of terminated."""
    last: Terminated | None = None
    """The run before this one."""
    ready: bool = False
    started: bool = False
    """Running, and past its startup probe."""
    restarts: int = 0
    container_id: str = ""
    init: bool = False

    def waiting(self, reason: str, message: str = "") -> "Container":
        """It waits; a finished run becomes the last one."""
        return replace(
            self,
            state="waiting",
            reason=reason,
            message=message,
            terminated=None,
            last=self.terminated or self.last,
            ready=False,
            started=False,
        )

    def running(self, container_id: str, at_: float) -> "Container":
        """It runs."""
        return replace(
            self,
            state="running",
            started_at=at_,
            container_id=container_id,
            terminated=None,
            last=self.terminated or self.last,
            ready=False,
            started=False,
        )

    def ended(self, terminated: Terminated) -> "Container":
        """It ended."""
        done = self.init and terminated.exit_code == 0
        return replace(self, state="terminated", terminated=terminated, ready=done, started=False)

    def to_obj(self) -> Obj:
        """`ContainerStatus`."""
        state: Obj
        if self.state == "running":
            state = {"running": {"startedAt": rfc3339(self.started_at)}}
        elif self.state == "terminated" and self.terminated is not None:
            state = {"terminated": self.terminated.to_obj()}
        else:
            state = {"waiting": {"reason": self.reason} | ({"message": self.message} if self.message else {})}
        made: Obj = {
            "name": self.name,
            "image": self.image,
            "imageID": self.image_id,
            "state": state,
            "lastState": {"terminated": self.last.to_obj()} if self.last else {},
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
        }
        if self.container_id:
            made["containerID"] = self.container_id
        return made


def phase(policy: str, containers: Sequence[Container], inits: Sequence[Container]) -> str:
    """`Pending`, `Running`, `Succeeded` or `Failed`."""
    for one in inits:
        if one.state == "terminated" and one.terminated and one.terminated.exit_code and policy == "Never":
            return "Failed"
        if not _initialized(one):
            return "Pending"
    fresh = [one for one in containers if one.state == "waiting" and one.last is None]
    if fresh:
        return "Pending"
    if any(one.state == "running" for one in containers):
        return "Running"
    if any(one.state == "waiting" for one in containers) or policy == "Always":
        return "Running"
    codes = [one.terminated.exit_code for one in containers if one.terminated]
    if not any(codes):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def _initialized(one: Container) -> bool:
    done = one.state == "terminated" and one.terminated is not None and one.terminated.exit_code == 0
    return done or one.started  # a sidecar goes on running


def pod_status(
    pod: Obj,
    containers: Sequence[Container],
    inits: Sequence[Container],
    *,
    pod_ip: str,
    host_ip: str,
    started_at: float,
    now: float,
    before: Obj | None = None,
    message: str = "",
) -> Obj:
    """The `status` of a pod.

    Args:
        pod_ip: empty until it has one.
        started_at: when the node saw the pod, Unix seconds.
        before: the status that was written last: conditions that did not change keep their times.
        message: why the pod failed as a whole.
    """
    policy = at(pod, "spec", "restartPolicy", default="Always")
    current = phase(policy, containers, inits)
    made: Obj = {
        "phase": current,
        "conditions": _conditions(pod, current, containers, inits, pod_ip, now, before or {}),
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": rfc3339(started_at),
        "containerStatuses": [one.to_obj() for one in containers],
        "qosClass": at(pod, "status", "qosClass", default="BestEffort"),
    }
    if pod_ip:
        made |= {"podIP": pod_ip, "podIPs": [{"ip": pod_ip}]}
    if inits:
        made["initContainerStatuses"] = [one.to_obj() for one in inits]
    if message:
        made["message"] = message
    return made


def _conditions(
    pod: Obj,
    current: str,
    containers: Sequence[Container],
    inits: Sequence[Container],
    pod_ip: str,
    now: float,
    before: Obj,
) -> list[Obj]:
    uninitialized = [one.name for one in inits if not _initialized(one)]
    unready = [one.name for one in containers if not one.ready]
    initialized: tuple[bool, str, str] = (True, "", "")
    if uninitialized:
        text = f"containers with incomplete status: [{' '.join(uninitialized)}]"
        initialized = (False, "ContainersNotInitialized", text)
    if current in ("Succeeded", "Failed"):
        reason = "PodCompleted" if current == "Succeeded" else "PodFailed"
        ready = (False, reason, "")
        initialized = (True, reason, "") if current == "Succeeded" else initialized
    elif unready:
        ready = (False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    else:
        ready = (True, "", "")
    wanted: dict[str, tuple[bool, str, str]] = {
        "PodReadyToStartContainers": (bool(pod_ip), "", ""),
        "Initialized": initialized,
        "Ready": ready,
        "ContainersReady": ready,
        "PodScheduled": (True, "", ""),
    }
    if gates := at(pod, "spec", "readinessGates", default=[]):
        wanted["Ready"] = _gated(pod, gates, ready)
    old = {one["type"]: one for one in before.get("conditions") or []}
    made = []
    for kind, (good, reason, message) in wanted.items():
        value = "True" if good else "False"
        known = old.get(kind)
        since = known.get("lastTransitionTime") if known and known.get("status") == value else None
        entry: Obj = {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": since or rfc3339(now)}
        if reason:
            entry["reason"] = reason
        if message:
            entry["message"] = message
        made.append(entry)
    foreign = [one for one in at(pod, "status", "conditions", default=[]) if one.get("type") not in wanted]
    return [*made, *foreign]


def _gated(pod: Obj, gates: Sequence[Any], ready: tuple[bool, str, str]) -> tuple[bool, str, str]:
    for gate in gates:
        if ready[0] and not meta.is_true(pod, gate["conditionType"]):
            text = f'corresponding condition of pod readiness gate "{gate["conditionType"]}" does not exist.'
            return False, "ReadinessGatesNotReady", text
    return ready
