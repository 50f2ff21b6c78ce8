"""Reading Kubernetes objects, which stay plain dicts.

Every accessor tolerates missing parts and returns an empty value for them: a half-filled object is ordinary input (a
user's YAML, a merge patch, an older writer), not an error. What an accessor returns is the object's own data, not a
copy, except where missing: cached objects are shared, so copy before changing anything.
"""

from collections.abc import Mapping
from typing import Any, cast

__all__ = [
    "Obj",
    "annotations",
    "at",
    "condition",
    "controller_of",
    "deletion_timestamp",
    "finalizers",
    "generation",
    "is_controlled_by",
    "is_deleting",
    "is_ready",
    "is_true",
    "key",
    "kind",
    "labels",
    "matches",
    "name",
    "namespace",
    "owner_reference",
    "resource_version",
    "uid",
]

Obj = dict[str, Any]
"""A Kubernetes object as decoded JSON."""


def at(obj: Any, *path: str | int, default: Any = None) -> Any:
    """What lies at `path`, or `default` if any step is missing, null or of the wrong shape.

    A string step reads a mapping, an integer step a list. A null at the end also gives `default`: Kubernetes treats
    the two alike.
    """
    here = obj
    for step in path:
        if isinstance(step, str):
            if not isinstance(here, Mapping):
                return default
            here = here.get(step)
        else:
            if not isinstance(here, list) or not -len(here) <= step < len(here):
                return default
            here = here[step]
        if here is None:
            return default
    return here


def _metadata(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    found = obj.get("metadata")
    return found if isinstance(found, Mapping) else {}


def kind(obj: Mapping[str, Any]) -> str:
    """`kind`, or ""."""
    return obj.get("kind") or ""


def name(obj: Mapping[str, Any]) -> str:
    """`metadata.name`, or ""."""
    return _metadata(obj).get("name") or ""


def namespace(obj: Mapping[str, Any]) -> str:
    """`metadata.namespace`, or "" (cluster-scoped, or not yet defaulted)."""
    return _metadata(obj).get("namespace") or ""


def key(obj: Mapping[str, Any]) -> str:
    """`namespace/name`, or just the name of a cluster-scoped object: what logs and queues identify an object by."""
    space = namespace(obj)
    return f"{space}/{name(obj)}" if space else name(obj)


def uid(obj: Mapping[str, Any]) -> str:
    """`metadata.uid`, or ""."""
    return _metadata(obj).get("uid") or ""


def generation(obj: Mapping[str, Any]) -> int:
    """`metadata.generation`, or 0: the API server raises it when the spec changes."""
    return _metadata(obj).get("generation") or 0


def resource_version(obj: Mapping[str, Any]) -> str:
    """`metadata.resourceVersion`, or "": opaque, compare for equality only."""
    return _metadata(obj).get("resourceVersion") or ""


def labels(obj: Mapping[str, Any]) -> dict[str, str]:
    """`metadata.labels`, or a new empty dict."""
    return _metadata(obj).get("labels") or {}


def annotations(obj: Mapping[str, Any]) -> dict[str, str]:
    """`metadata.annotations`, or a new empty dict."""
    return _metadata(obj).get("annotations") or {}


def finalizers(obj: Mapping[str, Any]) -> list[str]:
    """`metadata.finalizers`, or a new empty list."""
    return _metadata(obj).get("finalizers") or []


def deletion_timestamp(obj: Mapping[str, Any]) -> str:
    """`metadata.deletionTimestamp`, or "" while nobody has asked for deletion."""
    return _metadata(obj).get("deletionTimestamp") or ""


def is_deleting(obj: Mapping[str, Any]) -> bool:
    """Whether the object is being deleted and only waits for finalizers or a grace period."""
    return bool(deletion_timestamp(obj))


def matches(selector: Mapping[str, str], found: Mapping[str, str]) -> bool:
    """Whether all pairs of an equality selector are among the labels `found`; the empty selector matches everything."""
    return all(found.get(label) == value for label, value in selector.items())


def owner_reference(parent: Mapping[str, Any], *, controller: bool = True) -> Obj:
    """An entry for a child's `metadata.ownerReferences`.

    A controlling reference also blocks the owner's foreground deletion until the child is gone, as Knative's do.
    """
    made = {"apiVersion": parent.get("apiVersion", ""), "kind": kind(parent), "name": name(parent), "uid": uid(parent)}
    if controller:
        made |= {"controller": True, "blockOwnerDeletion": True}
    return made


def controller_of(obj: Mapping[str, Any]) -> Obj | None:
    """The owner reference marked `controller: true`, or None."""
    for reference in _metadata(obj).get("ownerReferences") or []:
        if reference.get("controller"):
            return cast("Obj", reference)
    return None


def is_controlled_by(obj: Mapping[str, Any], parent: Mapping[str, Any]) -> bool:
    """Whether `parent`, this incarnation of it, is the controlling owner: names may be reused, UIDs are not."""
    reference = controller_of(obj)
    return reference is not None and reference.get("uid", "") == uid(parent)


def condition(obj: Mapping[str, Any], type_: str) -> Obj | None:
    """The entry of `status.conditions` with that type, or None."""
    for entry in at(obj, "status", "conditions", default=()):
        if entry.get("type") == type_:
            return cast("Obj", entry)
    return None


def is_true(obj: Mapping[str, Any], type_: str) -> bool:
    """Whether the condition exists and is "True"; says nothing about which generation it speaks of."""
    found = condition(obj, type_)
    return found is not None and found.get("status") == "True"


def is_ready(obj: Mapping[str, Any]) -> bool:
    """Whether Ready is True *and* was written for the current generation; an older Ready may be about a spec that is
    gone.
    """
    return at(obj, "status", "observedGeneration", default=0) == generation(obj) and is_true(obj, "Ready")
