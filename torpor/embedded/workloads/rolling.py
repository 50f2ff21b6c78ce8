"""How many pods each ReplicaSet of a Deployment should have now: pure arithmetic, no objects changed.

A rolling update moves pods from the old ReplicaSets to the new one without exceeding `replicas + maxSurge` pods or
falling below `replicas - maxUnavailable` available ones. Source: kubernetes pkg/controller/deployment/rolling.go and
util/deployment_util.go.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Old", "Surge", "new_replicas", "old_replicas", "resolve"]


@dataclass(frozen=True, kw_only=True)
class Surge:
    """The resolved bounds of a rolling update, in pods."""

    max_surge: int
    max_unavailable: int


@dataclass(frozen=True, kw_only=True)
class Old:
    """One ReplicaSet of an earlier template, oldest first in sequences."""

    replicas: int
    """Wanted now."""
    available: int


def resolve(replicas: int, max_surge: int | str | None, max_unavailable: int | str | None) -> Surge:
    """Bounds from the strategy's numbers or percentages; surge is rounded up, unavailable down.

    Both zero would never move, so then one pod may be unavailable.
    """
    surge = _resolved(max_surge, replicas, math.ceil)
    unavailable = _resolved(max_unavailable, replicas, math.floor)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Surge(max_surge=surge, max_unavailable=min(unavailable, replicas) if replicas else unavailable)


def _resolved(value: int | str | None, replicas: int, rounded: Callable[[float], int]) -> int:
    if value is None:
        value = "25%"
    return value if isinstance(value, int) else rounded(float(value.rstrip("%")) * replicas / 100)


def new_replicas(desired: int, current: int, total: int, bounds: Surge) -> int:
    """What the new ReplicaSet should have.

    Args:
        desired: the Deployment's replicas.
        current: the new ReplicaSet's replicas.
        total: replicas of all ReplicaSets, the new one included.
    """
    if current >= desired:
        return desired
    room = desired + bounds.max_surge - total
    return current if room <= 0 else min(current + room, desired)


def old_replicas(desired: int, new: Old, olds: Sequence[Old], bounds: Surge) -> list[int]:
    """What the old ReplicaSets should have, in the same order.

    Pods that are not available go first, from the oldest on: they serve nobody. Then available ones, as long as
    enough stay.
    """
    result = [one.replicas for one in olds]
    total = new.replicas + sum(result)
    new_unavailable = max(0, new.replicas - new.available)
    removable = total - (desired - bounds.max_unavailable) - new_unavailable
    if removable <= 0:
        return result
    for index, one in enumerate(olds):  # unhealthy
        cut = min(removable, max(0, one.replicas - one.available))
        result[index] -= cut
        removable -= cut
    available = new.available + sum(min(kept, one.available) for kept, one in zip(result, olds, strict=True))
    spare = available - (desired - bounds.max_unavailable)
    for index, kept in enumerate(result):
        cut = min(max(spare, 0), kept)
        result[index] -= cut
        spare -= cut
    return result
