"""Creating and updating the objects that another object owns.

Level-triggered: a child that is there and as it should be costs nothing; one that is missing is created; one that
differs is written. The cache may be a moment behind what we wrote ourselves, so "already exists" and "conflict" are
ordinary: the object is read from the server and judged again.
"""

from typing import Any

from controller.frame import World
from kncore.api import meta
from kncore.api.meta import Obj
from kncore.api.resources import Resource
from kncore.errors import KnError
from kncore.kube.errors import AlreadyExists, NotFound

__all__ = ["NotOwned", "covers", "create", "equal", "remove", "update"]


class NotOwned(KnError):
    """The name of a child is taken by an object of somebody else."""


async def create(world: World, resource: Resource, wanted: Obj, parent: Obj, what: str = "") -> Obj:
    """The child as stored, with an event on the parent; one that is there already is returned as it is.

    Args:
        what: how the event names the kind; the kind itself by default.
    """
    try:
        made = await world.client.create(resource, wanted, meta.namespace(wanted))
    except AlreadyExists:
        return await world.client.get(resource, meta.name(wanted), meta.namespace(wanted))
    world.events.event(parent, "Normal", "Created", f'Created {what or resource.kind} "{meta.name(wanted)}"')
    return made


async def update(world: World, resource: Resource, present: Obj, **parts: Any) -> Obj:
    """The child with some top-level parts replaced, and labels, annotations or finalizers of its metadata.

    The write names the version that was judged, so it cannot undo what somebody else did meanwhile.

    Raises:
        Conflict: the object has changed; reconcile again.
    """
    metadata = dict(present["metadata"])
    for part in ("labels", "annotations"):
        if part in parts:
            metadata[part] = parts.pop(part)
    return await world.client.update(resource, {**present, **parts, "metadata": metadata})


async def remove(world: World, resource: Resource, present: Obj) -> None:
    """Delete this very object; gone already is fine."""
    try:
        await world.client.delete(resource, meta.name(present), meta.namespace(present), uid=meta.uid(present) or None)
    except NotFound:
        return


def equal(one: Any, other: Any) -> bool:
    """Whether two parts of objects say the same, where absent, null and empty say nothing."""
    return bool(_stripped(one) == _stripped(other))


def covers(present: Any, wanted: Any) -> bool:
    """Whether `present` has everything that `wanted` asks for; what the API server added does not matter."""
    if isinstance(wanted, dict):
        found = present if isinstance(present, dict) else {}
        return all(covers(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        found_list = present if isinstance(present, list) else []
        return len(found_list) == len(wanted) and all(map(covers, found_list, wanted))
    return bool(present == wanted)


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _stripped(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner not in (None, "", {}, [])} or None
    if isinstance(value, list):
        return [_stripped(inner) for inner in value] or None
    return None if value == "" else value
