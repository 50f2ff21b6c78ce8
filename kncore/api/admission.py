"""What happens to an object between a client's request and the store: decode, default, validate.

The embedded API server calls `admit` in process, the webhook calls it for the cluster's API server, and both therefore
accept and refuse the same objects with the same words. Kinds without rules pass unchanged: their schema is enough.
"""

from dataclasses import dataclass, field
from typing import Any

from kncore.api.defaults import set_defaults
from kncore.api.kinds import is_known
from kncore.api.meta import Obj
from kncore.api.settings import Settings
from kncore.api.shapes import DecodeError
from kncore.api.validation import validate
from kncore.errors import KnError

__all__ = ["Admitted", "Denied", "admit"]


class Denied(KnError):
    """An object that must not be stored: our caller's fault. The text is for the user, without any prefix.

    `warnings` go to the user beside it.
    """

    def __init__(self, message: str, warnings: list[str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.warnings = warnings or []


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """An object that may be stored."""

    object: Obj
    """With defaults filled in and without unknown fields."""
    warnings: list[str] = field(default_factory=list)
    """For the user, one text each."""


def admit(
    obj: Any,
    *,
    old: Any = None,
    operation: str,
    subresource: str = "",
    config: Settings,
    user: str | None = None,
) -> Admitted:
    """The object as it should be stored.

    Args:
        obj: what the client sent, merged with what is stored if it was a patch.
        old: the stored object, on update.
        operation: CREATE, UPDATE or DELETE; deletions always pass.
        subresource: "" or "status"; a status update is not refused for what metadata and spec were before.
        config: the ConfigMaps in force.
        user: who asks, recorded in annotations.
    Raises:
        Denied: it must not be stored.
    """
    if operation == "DELETE" or not is_known(obj):
        return Admitted(object=obj)
    try:
        made = set_defaults(obj, config=config, old=old, user=user, operation=operation)
    except DecodeError as error:
        raise Denied(f"cannot decode incoming object: {error}") from error
    found = validate(made, old=old, operation=operation, subresource=subresource, config=config)
    if found.error:
        raise Denied(found.error, found.warnings)
    return Admitted(object=made, warnings=found.warnings)
