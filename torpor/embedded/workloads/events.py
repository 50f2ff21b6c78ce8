"""How controllers and the node say what they did: `Recorder.event` of `kncore.kube.events`, or a test's list."""

from collections.abc import Callable
from typing import Literal, TypeAlias

from kncore.api.meta import Obj

__all__ = ["Record", "silent"]

Record: TypeAlias = Callable[[Obj, Literal["Normal", "Warning"], str, str], None]
"""(object, type, reason, message); never waits and never fails."""


def silent(_: Obj, __: Literal["Normal", "Warning"], ___: str, ____: str) -> None:
    """Records nothing."""
