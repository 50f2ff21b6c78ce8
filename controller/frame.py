"""What every reconciler here has in common: the world it looks at, and the frame around one reconcile.

The frame gives the body a copy of the cached object whose conditions are initialised, writes the status afterwards even
when the body failed (the generation was observed), and turns a failure into a Warning event before passing it on to the
workqueue. A body therefore only says what it saw. Source: serving §1.6.
"""

import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from kncore.api import meta
from kncore.api.conditions import Conditions, post_process, pre_process
from kncore.api.meta import Obj
from kncore.api.resources import Resource
from kncore.clock import Clock, rfc3339
from kncore.config.store import Store
from kncore.errors import KnError
from kncore.kube.client import Client, Key
from kncore.kube.errors import Conflict, NotFound
from kncore.kube.informer import Informer
from kncore.kube.informers import Informers
from kncore.kube.reconcile import Controller, write_status

__all__ = ["Body", "Events", "Reconciler", "World", "framed"]

Body = Callable[[Obj, Conditions], Awaitable[None]]
"""Reconciles the object by changing `status` in place and writing children."""


class Events(Protocol):
    """Where Events go: `kncore.kube.events.Recorder`, or a test's list."""

    def event(self, obj: Obj, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Record that something happened to the object."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What reconcilers read and write, shared by all of them."""

    client: Client
    informers: Informers
    config: Store
    clock: Clock
    events: Events
    system_namespace: str = "knative-serving"
    cluster_domain: str = "cluster.local"

    def now(self) -> str:
        """The time as objects carry it."""
        return rfc3339(self.clock.wall())

    def cached(self, resource: Resource, **selectors: Any) -> Informer:
        """The shared informer of a collection."""
        return self.informers.of(resource, **selectors)


class Reconciler(Protocol):
    """One kind's reconciler, before it has a queue."""

    name: ClassVar[str]

    @property
    def primary(self) -> Informer:
        """The informer of the kind it reconciles."""

    def watch(self, controller: Controller) -> None:
        """Have the controller called for every change that may matter."""

    async def reconcile(self, key: Key) -> None:
        """Bring one object's world in order."""


async def framed(world: World, resource: Resource, original: Obj, body: Body) -> None:
    """Run `body` for one object and write what it did to the status.

    Raises:
        KnError: what the body raised, after the status was written.
    """
    obj = copy.deepcopy(original)
    conditions = pre_process(obj, world.now())
    failure: KnError | None = None
    try:
        await body(obj, conditions)
    except KnError as exc:
        failure = exc
    post_process(obj, original, world.now())
    try:
        await write_status(world.client, resource, original, obj)
    except NotFound:
        return  # deleted meanwhile; there is nobody left to tell
    except KnError as exc:
        if not isinstance(exc, Conflict):
            world.events.event(
                original, "Warning", "UpdateFailed", f'Failed to update status for "{meta.name(obj)}": {exc}'
            )
        raise
    if failure is not None:
        if not isinstance(failure, Conflict):  # a lost race is repeated at once and concerns nobody
            world.events.event(original, "Warning", "InternalError", str(failure))
        raise failure
