"""Which Revisions and Configurations a Route refers to, written on them as labels and annotations.

A Revision that is referred to carries the Routes' names in an annotation and `routingState: active`; one that no Route
refers to any more is `reserve`, which frees it from its min-scale and opens it to garbage collection. References are
added as soon as a Route names something, and taken away only when the Route has finished moving (Ready, or failed for
good): until the new revision really carries the traffic, the old one keeps its pods.

Pure: `plan` gives merge patches, `controller.labeler` sends them. Source: serving §1.10 "Labeler".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kncore.api import keys, meta
from kncore.api.meta import Obj

__all__ = ["ACTIVE", "PENDING", "RESERVE", "Patches", "joined", "plan", "release", "split"]

ACTIVE = "active"
RESERVE = "reserve"
PENDING = "pending"
"""A new Revision that no Route has looked at yet; it may keep its pods like an active one."""


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Merge patches by object name."""

    configurations: Mapping[str, Obj]
    revisions: Mapping[str, Obj]


def plan(route: Obj, configurations: Iterable[Obj], revisions: Iterable[Obj], now: str) -> Patches:
    """The patches that bring references to the state the Route asks for.

    Args:
        configurations, revisions: all of the Route's namespace.
        now: RFC 3339 time for `routingStateModified`.
    """
    by_configuration = {meta.name(item): item for item in configurations}
    by_revision = {meta.name(item): item for item in revisions}
    wanted_configurations, wanted_revisions = _referenced(route, by_configuration, by_revision)
    settled = (meta.condition(route, "Ready") or {}).get("status") in ("True", "False")
    return _patches(
        meta.name(route),
        by_configuration,
        by_revision,
        add=(wanted_configurations, wanted_revisions),
        keep=None if not settled else (wanted_configurations, wanted_revisions),
        now=now,
    )


def release(route: Obj, configurations: Iterable[Obj], revisions: Iterable[Obj], now: str) -> Patches:
    """The patches that remove every reference of a Route that is being deleted."""
    return _patches(
        meta.name(route),
        {meta.name(item): item for item in configurations},
        {meta.name(item): item for item in revisions},
        add=(set(), set()),
        keep=(set(), set()),
        now=now,
    )


def split(annotation: str) -> set[str]:
    """Route names of the comma-separated annotation."""
    return {name for name in annotation.split(",") if name}


def joined(names: Iterable[str]) -> str:
    """The annotation for these Route names."""
    return ",".join(sorted(names))


_Names = tuple[set[str], set[str]]


def _referenced(route: Obj, configurations: Mapping[str, Obj], revisions: Mapping[str, Obj]) -> _Names:
    """Names of existing Configurations and Revisions that spec or status traffic refers to."""
    wanted_configurations: set[str] = set()
    wanted_revisions: set[str] = set()
    for target in [*_traffic(route, "spec"), *_traffic(route, "status")]:
        if name := target.get("revisionName"):
            wanted_revisions.add(name)
            if owner := _configuration_of(revisions.get(name)):
                wanted_configurations.add(owner)
        if name := target.get("configurationName"):
            wanted_configurations.add(name)
        if target.get("latestRevision"):
            # The newest revision may not be ready yet, but it is what the Route waits for: it must not be reaped.
            followed = name or _configuration_of(revisions.get(target.get("revisionName", "")))
            created = meta.at(configurations.get(followed), "status", "latestCreatedRevisionName", default="")
            wanted_revisions.add(created)
    return wanted_configurations & configurations.keys(), wanted_revisions & revisions.keys()


def _traffic(route: Obj, part: str) -> list[Obj]:
    found: list[Obj] = meta.at(route, part, "traffic", default=[])
    return found


def _configuration_of(revision: Obj | None) -> str:
    owner = meta.controller_of(revision) if revision else None
    return str(owner["name"]) if owner and owner.get("kind") == "Configuration" else ""


def _patches(
    route: str,
    configurations: Mapping[str, Obj],
    revisions: Mapping[str, Obj],
    *,
    add: _Names,
    keep: _Names | None,
    now: str,
) -> Patches:
    made_configurations: dict[str, Obj] = {}
    made_revisions: dict[str, Obj] = {}
    for name, item in configurations.items():
        routes = split(meta.annotations(item).get(keys.ROUTES, ""))
        after = _after(route, routes, added=name in add[0], removed=keep is not None and name not in keep[0])
        if after != routes:
            made_configurations[name] = _patch(after)
    for name, item in revisions.items():
        routes = split(meta.annotations(item).get(keys.ROUTES, ""))
        state = meta.labels(item).get(keys.ROUTING_STATE)
        added = name in add[1]
        removed = keep is not None and name not in keep[1] and state == ACTIVE
        after = _after(route, routes, added=added, removed=removed)
        after_state = ACTIVE if added else state if after else RESERVE
        if after != routes or (added and state != ACTIVE):
            made_revisions[name] = _patch(
                None if after == routes else after, None if after_state == state else after_state, now
            )
    return Patches(configurations=made_configurations, revisions=made_revisions)


def _after(route: str, routes: set[str], *, added: bool, removed: bool) -> set[str]:
    if added:
        return routes | {route}
    return routes - {route} if removed else routes


def _patch(routes: set[str] | None, state: str | None = None, now: str = "") -> Obj:
    """A merge patch; None leaves that part as it is, no routes remove the annotation."""
    annotations: dict[str, Any] = {} if routes is None else {keys.ROUTES: joined(routes) or None}
    metadata: dict[str, Any] = {"annotations": annotations}
    if state is not None:
        annotations[keys.ROUTING_STATE_MODIFIED] = now
        metadata["labels"] = {keys.ROUTING_STATE: state}
    return {"metadata": metadata}
