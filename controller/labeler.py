"""Labeler: writes on Revisions and Configurations which Routes refer to them (serving §1.10).

What to write is decided by `controller.routing_state`; a finalizer on every Route makes sure that a deleted one takes
its references with it.
"""

from typing import ClassVar

from controller.frame import World
from controller.routing_state import Patches, plan, release, split
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.api.resources import CONFIGURATIONS, REVISIONS, ROUTES
from kncore.kube.client import Key
from kncore.kube.errors import NotFound
from kncore.kube.informer import Change
from kncore.kube.reconcile import Controller, Tracker, add_finalizer, enqueue_self, remove_finalizer

__all__ = ["FINALIZER", "Labeler"]

FINALIZER = "routes.serving.knative.dev"


class Labeler:
    """Reconciles the references of Routes."""

    name: ClassVar[str] = "labeler"

    def __init__(self, world: World) -> None:
        self._world = world
        self.primary = world.cached(ROUTES)
        self._configurations = world.cached(CONFIGURATIONS)
        self._revisions = world.cached(REVISIONS)
        self._tracker: Tracker | None = None

    def watch(self, controller: Controller) -> None:
        """Routes, and what they name: a new latest revision has to be marked without any change to its Route."""
        self._tracker = Tracker(controller)
        self.primary.add_handler(enqueue_self(controller))
        self._tracker.observe(self._revisions)

        def configuration_changed(change: Change) -> None:
            if change.type != "deleted":
                for route in split(meta.annotations(change.object).get(keys.ROUTES, "")):
                    controller.enqueue(Key(change.key.namespace, route), slow=change.resync)

        self._configurations.add_handler(configuration_changed)
        self._tracker.observe(self._configurations)

    async def reconcile(self, key: Key) -> None:
        """Bring the references of one Route up to date, or remove them if it is being deleted."""
        route = self.primary.get(key.name, key.namespace)
        if self._tracker:
            self._tracker.forget(key)
        if route is None:
            return
        configurations = self._configurations.list(key.namespace)
        revisions = self._revisions.list(key.namespace)
        now = self._world.now()
        if meta.is_deleting(route):
            if FINALIZER in meta.finalizers(route):
                await self._apply(key.namespace, release(route, configurations, revisions, now))
                await remove_finalizer(self._world.client, ROUTES, route, FINALIZER)
            return
        await add_finalizer(self._world.client, ROUTES, route, FINALIZER)
        self._track(key, route)
        await self._apply(key.namespace, plan(route, configurations, revisions, now))

    def _track(self, key: Key, route: Obj) -> None:
        if self._tracker is None:
            return
        for part in ("spec", "status"):
            for target in meta.at(route, part, "traffic", default=[]):
                for field, resource in (("revisionName", REVISIONS), ("configurationName", CONFIGURATIONS)):
                    if name := target.get(field):
                        self._tracker.track(key, resource, key.namespace, name)

    async def _apply(self, namespace: str, patches: Patches) -> None:
        for resource, by_name in ((CONFIGURATIONS, patches.configurations), (REVISIONS, patches.revisions)):
            for name, patch in by_name.items():
                try:
                    await self._world.client.patch(resource, name, patch, namespace)
                except NotFound:
                    continue  # nothing there to refer to any more
