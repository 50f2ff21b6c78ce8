"""How controllers and the node say what they did: `Recorder.event` of `kncore.kube.events`, or a test's list."""

import asyncio
from collections.abc import Callable
from typing import Literal, TypeAlias

from kncore.api.meta import Obj

__all__ = ["Record", "silent", "unhurried"]

Record: TypeAlias = Callable[[Obj, Literal["Normal", "Warning"], str, str], None]
"""(object, type, reason, message); never waits and never fails."""


def silent(_: Obj, __: Literal["Normal", "Warning"], ___: str, ____: str) -> None:
    """Records nothing."""


def unhurried(record: Record, delay: float = 1.0) -> Record:
    """The same, with what is normal said `delay` seconds later.

    A pod's start is half a dozen of these; each is a write to the API server, and they would compete with the start.
    """

    def event(obj: Obj, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        if type_ == "Normal":
            asyncio.get_running_loop().call_later(delay, record, obj, type_, reason, message)
        else:
            record(obj, type_, reason, message)

    return event
