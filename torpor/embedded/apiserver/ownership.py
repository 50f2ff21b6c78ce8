"""Who owns which field: the bookkeeping of `metadata.managedFields` around `apply`.

What people and tools create is tracked, and so is every later write to it, as in Kubernetes. What the platform's own
components create is not: nobody server-side-applies over an Endpoints object, and describing the fields of every pod
and every status would cost more than writing them. An untracked object is treated as Kubernetes treats one: at the
first apply, what is there belongs to `before-first-apply`.
"""

import copy
from collections.abc import Mapping
from typing import Any

from torpor.embedded.apiserver import apply
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import StatusError, bad_request

__all__ = ["COMPONENT_PREFIX", "applied", "record"]

Obj = dict[str, Any]

COMPONENT_PREFIX = "torpor"
"""Field managers that begin so are the platform's own components."""


def record(
    kind: Kind, old: Mapping[str, Any] | None, new: Obj, manager: str, *, subresource: str = "", now: float
) -> None:
    """Note in `new`, in place, which fields an ordinary write has set."""
    metadata = new["metadata"]
    if old is None and manager.startswith(COMPONENT_PREFIX):
        metadata.pop("managedFields", None)
        return
    if old is not None and not old["metadata"].get("managedFields"):
        metadata.pop("managedFields", None)
        return
    entries = apply.update_managed(
        old, new, manager, schema=kind.schema, api_version=kind.api_version, now=now, subresource=subresource
    )
    if entries:
        metadata["managedFields"] = entries
    else:
        metadata.pop("managedFields", None)


def applied(
    kind: Kind, live: Obj | None, body: Obj, manager: str, *, force: bool, now: float, subresource: str = ""
) -> Obj:
    """The object after a server-side apply, its `managedFields` included; shares nothing with the arguments.

    Raises:
        StatusError: Conflict; other managers own fields that the apply would change. BadRequest for what no schema
            allows.
    """
    try:
        made = apply.apply(
            live,
            body,
            manager,
            schema=kind.schema,
            force=force,
            api_version=kind.api_version,
            now=now,
            subresource=subresource,
        )
    except apply.ApplyConflict as conflict:
        causes = [{"reason": one.reason, "message": one.message, "field": one.field} for one in conflict.causes]
        raise StatusError(409, "Conflict", str(conflict), {"causes": causes}) from conflict
    except ValueError as error:
        raise bad_request(str(error)) from error
    return copy.deepcopy(made)
