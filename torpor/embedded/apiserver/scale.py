"""The `/scale` subresource: a workload's replica count as an `autoscaling/v1` Scale, both ways."""

from typing import Any

from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import invalid
from torpor.embedded.apiserver.schema import Cause

__all__ = ["SCALE", "apply_scale", "to_scale"]

Obj = dict[str, Any]

SCALE = Kind(group="autoscaling", version="v1", kind="Scale", plural="scales", singular="scale")
"""The kind of the bodies; it has no collection of its own."""


def to_scale(kind: Kind, obj: Obj) -> Obj:
    """The Scale of an object; metadata carries the object's identity and version."""
    metadata = obj["metadata"]
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Obj = {"replicas": int(_at(obj, kind.scale.status_path if kind.scale else "") or 0)}
    if selector := _selector(kind, obj):
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in names if name in metadata},
        "spec": {"replicas": int(_at(obj, kind.scale.spec_path if kind.scale else "") or 0)},
        "status": status,
    }


def apply_scale(kind: Kind, obj: Obj, scale: Obj) -> None:
    """Set an object's replica count from a Scale, in place.

    Raises:
        StatusError: 422; no count, or a negative one.
    """
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    name = obj["metadata"]["name"]
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        fault = Cause("spec.replicas", "FieldValueTypeInvalid", "Invalid value: must be an integer")
        raise invalid(SCALE, name, [fault])
    if not 0 <= replicas < 1 << 31:
        text = f"Invalid value: {replicas}: must be greater than or equal to 0"
        raise invalid(SCALE, name, [Cause("spec.replicas", "FieldValueInvalid", text)])
    *parents, last = _steps(kind.scale.spec_path if kind.scale else "")
    node = obj
    for step in parents:
        node = node.setdefault(step, {})
    node[last] = replicas


def _steps(path: str) -> list[str]:
    return path.lstrip(".").split(".")


def _at(obj: Obj, path: str) -> Any:
    node: Any = obj
    for step in _steps(path):
        node = node.get(step) if isinstance(node, dict) else None
    return node


def _selector(kind: Kind, obj: Obj) -> str:
    if kind.scale is None or not kind.scale.selector_path:
        return ""
    found = _at(obj, kind.scale.selector_path)
    if not isinstance(found, dict):
        return str(found or "")
    terms = [f"{key}={value}" for key, value in sorted((found.get("matchLabels") or {}).items())]
    for one in found.get("matchExpressions") or ():
        key, operator, values = one.get("key"), one.get("operator"), ",".join(sorted(one.get("values") or ()))
        match operator:
            case "In":
                terms.append(f"{key} in ({values})")
            case "NotIn":
                terms.append(f"{key} notin ({values})")
            case "Exists":
                terms.append(key)
            case "DoesNotExist":
                terms.append(f"!{key}")
    return ",".join(terms)
