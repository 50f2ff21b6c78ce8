"""A Deployment's status from its ReplicaSets: counts and the conditions Progressing, Available, ReplicaFailure.

Pure functions. Source: kubernetes pkg/controller/deployment/progress.go and sync.go.
"""

import calendar
import time
from collections.abc import Sequence
from typing import Any

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.clock import rfc3339

__all__ = ["deadline", "parse_time", "status"]

_NO_DEADLINE = 2**31 - 1


def parse_time(text: str) -> float:
    """Unix seconds of an RFC 3339 time in UTC, as Kubernetes writes them; 0.0 if it is none."""
    try:
        return float(calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return 0.0


def deadline(deployment: Obj) -> float | None:
    """Unix seconds at which the Deployment will have made no progress for too long, or None if it cannot."""
    seconds = at(deployment, "spec", "progressDeadlineSeconds", default=600)
    condition = meta.condition(deployment, "Progressing")
    if condition is None or seconds == _NO_DEADLINE or condition.get("reason") in _SETTLED:
        return None
    return parse_time(condition.get("lastUpdateTime", "")) + float(seconds)


_SETTLED = ("NewReplicaSetAvailable", "ProgressDeadlineExceeded")


def status(deployment: Obj, new: Obj | None, all_sets: Sequence[Obj], max_unavailable: int, now: float) -> Obj:
    """The status the Deployment should have.

    Args:
        new: the ReplicaSet of the present template, if there is one.
        all_sets: every ReplicaSet it owns, the new one included.
        max_unavailable: pods that may be missing for it to count as available.
        now: Unix seconds.
    """
    desired = at(deployment, "spec", "replicas", default=1)
    before = deployment.get("status") or {}
    available = _sum(all_sets, "availableReplicas")
    made: Obj = {
        "observedGeneration": meta.generation(deployment),
        "replicas": _sum(all_sets, "replicas"),
        "updatedReplicas": _sum([new] if new else [], "replicas"),
        "readyReplicas": _sum(all_sets, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(at(one, "spec", "replicas", default=0) for one in all_sets) - available),
        "conditions": [],
    }
    if "collisionCount" in before:
        made["collisionCount"] = before["collisionCount"]
    old = {one["type"]: one for one in before.get("conditions") or []}
    wanted = {
        "Available": _available(available, desired, max_unavailable),
        "Progressing": _progressing(deployment, new, made, before, old.get("Progressing"), now),
        "ReplicaFailure": _failure(all_sets),
    }
    for kind, condition in wanted.items():
        if condition is not None:
            made["conditions"].append(_written(kind, condition, old.get(kind), rfc3339(now)))
    return made


_Condition = tuple[str, str, str, bool]
"""(status, reason, message, renew): `renew` sets the update time even if nothing else changed."""


def _available(available: int, desired: int, max_unavailable: int) -> _Condition:
    if available >= desired - max_unavailable:
        return "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", False
    return "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", False


def _progressing(
    deployment: Obj, new: Obj | None, now_status: Obj, before: Obj, condition: Obj | None, now: float
) -> _Condition | None:
    kept: _Condition | None = None
    if condition is not None:
        kept = condition["status"], condition["reason"], condition.get("message", ""), False
    if at(deployment, "spec", "progressDeadlineSeconds", default=600) == _NO_DEADLINE:
        return None
    name = f'ReplicaSet "{meta.name(new)}"' if new else f'Deployment "{meta.name(deployment)}"'
    if condition is not None and condition["reason"] == "NewReplicaSetAvailable":
        # Once complete, only a new template starts the clock again; being scaled, or losing a pod, does not.
        if now_status["replicas"] == now_status["updatedReplicas"]:
            return kept
    desired = at(deployment, "spec", "replicas", default=1)
    if now_status["updatedReplicas"] == now_status["replicas"] == now_status["availableReplicas"] == desired and new:
        return "True", "NewReplicaSetAvailable", f"{name} has successfully progressed.", False
    # Every message names its ReplicaSet, so one about another template is recognised, and the clock starts again.
    if condition is None or (new and f'"{meta.name(new)}"' not in condition.get("message", "")):
        created = f'Created new replica set "{meta.name(new)}"' if new else "Waiting for a replica set"
        return "True", "NewReplicaSetCreated", created, True
    progressed = any(
        now_status[field] > (before.get(field) or 0)
        for field in ("updatedReplicas", "readyReplicas", "availableReplicas")
    ) or (now_status["replicas"] - now_status["updatedReplicas"]) < (
        (before.get("replicas") or 0) - (before.get("updatedReplicas") or 0)
    )
    if progressed:
        return "True", "ReplicaSetUpdated", f"{name} is progressing.", True
    if condition["reason"] == "ProgressDeadlineExceeded":
        return kept
    limit = deadline(deployment)
    if limit is not None and now >= limit:
        return "False", "ProgressDeadlineExceeded", f"{name} has timed out progressing.", False
    return kept


def _failure(all_sets: Sequence[Obj]) -> _Condition | None:
    for one in all_sets:
        found = meta.condition(one, "ReplicaFailure")
        if found is not None and found.get("status") == "True":
            return "True", found.get("reason", ""), found.get("message", ""), False
    return None


def _written(kind: str, condition: _Condition, old: Obj | None, now: str) -> Obj:
    status_, reason, message, renew = condition
    same = old is not None and (old.get("status"), old.get("reason"), old.get("message")) == (status_, reason, message)
    changed_status = old is None or old.get("status") != status_
    return {
        "type": kind,
        "status": status_,
        "reason": reason,
        "message": message,
        "lastUpdateTime": old["lastUpdateTime"] if old and same and not renew else now,
        "lastTransitionTime": now if changed_status or old is None else old.get("lastTransitionTime", now),
    }


def _sum(sets: Sequence[Obj], field: str) -> int:
    found: list[Any] = [at(one, "status", field, default=0) for one in sets]
    return sum(found)
