"""What controllers ask about pods: does it count, is it ready, and which of them go first. Pure functions."""

from collections.abc import Iterable
from typing import Any

from kncore.api import meta
from kncore.api.meta import Obj, at
from torpor.embedded.workloads.progress import parse_time

__all__ = ["DELETION_COST", "available_at", "deletion_order", "is_active", "is_ready"]

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation: of two pods that are otherwise alike, the cheaper one goes first. Default 0."""


def is_active(pod: Obj) -> bool:
    """Whether the pod counts as a replica: neither ended nor being deleted."""
    return at(pod, "status", "phase") not in ("Succeeded", "Failed") and not meta.is_deleting(pod)


def is_ready(pod: Obj) -> bool:
    """Whether the pod's Ready condition is True."""
    return meta.is_true(pod, "Ready")


def available_at(pod: Obj, min_ready_seconds: int) -> float | None:
    """Unix seconds from which on the pod counts as available, or None while it is not ready."""
    condition = meta.condition(pod, "Ready")
    if condition is None or condition.get("status") != "True":
        return None
    return parse_time(condition.get("lastTransitionTime", "")) + min_ready_seconds if min_ready_seconds else 0.0


def deletion_order(pods: Iterable[Obj]) -> list[Obj]:
    """The pods, those to delete first in front.

    Not bound to a node, then pending, then not ready, then cheaper (`DELETION_COST`), then shorter ready, then more
    restarts, then younger. Source: kubernetes pkg/controller/controller_utils.go, ActivePodsWithRanks.
    """
    return sorted(pods, key=_rank)


_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


def _rank(pod: Obj) -> tuple[Any, ...]:
    condition = meta.condition(pod, "Ready") or {}
    ready = condition.get("status") == "True"
    return (
        bool(at(pod, "spec", "nodeName")),
        _PHASES.get(at(pod, "status", "phase", default="Pending"), 0),
        ready,
        _cost(pod),
        -parse_time(condition.get("lastTransitionTime", "")) if ready else 0.0,
        -max(
            (at(one, "restartCount", default=0) for one in at(pod, "status", "containerStatuses", default=())),
            default=0,
        ),
        -parse_time(at(pod, "metadata", "creationTimestamp", default="")),
        # Creation times are whole seconds; the name makes the order the same every time.
        meta.name(pod),
    )


def _cost(pod: Obj) -> int:
    try:
        return int(meta.annotations(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0
