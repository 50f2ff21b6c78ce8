"""What a request's path names: a document of the server, or a place among the resources."""

from dataclasses import dataclass

from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.registry import Registry

__all__ = ["Target", "find"]


@dataclass(frozen=True)
class Target:
    """A collection, an object or a subresource."""

    kind: Kind
    namespace: str | None = None
    """None: no namespace in the path (cluster scope, or all namespaces)."""
    name: str = ""
    """Empty: the collection."""
    subresource: str = ""


def find(registry: Registry, path: str) -> Target | None:
    """The target of a path below `/api/v1` or `/apis/<group>/<version>`; None when nothing is served there.

    `/api/v1/namespaces/x/status` is the status of a namespace, not a resource called status in it.
    """
    parts = path.split("/")[1:]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    if not all(rest):
        return None
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2 and not (group == "" and rest[2] in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3:
        return None
    kind = registry.find(group, version, rest[0])
    if kind is None or (namespace is not None and not kind.namespaced):
        return None
    name = rest[1] if len(rest) > 1 else ""
    if name and kind.namespaced and namespace is None:
        return None
    return Target(kind, namespace, name, rest[2] if len(rest) > 2 else "")
