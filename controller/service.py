"""Service: keeps one Configuration and one Route, and sums up how they are (serving §1.7)."""

from typing import ClassVar

from controller import children
from controller.frame import World, framed
from controller.resources import configuration as make_configuration
from controller.resources import route as make_route
from controller.resources.revision import byo_name
from kncore.api import keys, meta
from kncore.api.conditions import Conditions
from kncore.api.defaults import set_defaults
from kncore.api.meta import Obj
from kncore.api.resources import CONFIGURATIONS, KSERVICES, REVISIONS, ROUTES, Resource
from kncore.kube.client import Key
from kncore.kube.reconcile import Controller, Tracker, enqueue_owner, enqueue_self

__all__ = ["ServiceReconciler"]

_NOT_MIGRATED = ("TrafficNotMigrated", "Traffic is not yet migrated to the latest revision.")


class ServiceReconciler:
    """Reconciles Knative Services."""

    name: ClassVar[str] = "service"

    def __init__(self, world: World) -> None:
        self._world = world
        self.primary = world.cached(KSERVICES)
        self._configurations = world.cached(CONFIGURATIONS)
        self._routes = world.cached(ROUTES)
        self._revisions = world.cached(REVISIONS)
        self._tracker: Tracker | None = None

    def watch(self, controller: Controller) -> None:
        """Services, what they own, and the revisions whose names they chose."""
        self._tracker = Tracker(controller)
        self.primary.add_handler(enqueue_self(controller))
        for owned in (self._configurations, self._routes):
            owned.add_handler(enqueue_owner(controller, KSERVICES))
            self._tracker.observe(owned)
        self._tracker.observe(self._revisions)

    async def reconcile(self, key: Key) -> None:
        """Bring one Service's children in order."""
        service = self.primary.get(key.name, key.namespace)
        if service is None:
            if self._tracker:
                self._tracker.forget(key)
            return
        if not meta.is_deleting(service):  # the garbage collector takes the children
            await framed(self._world, KSERVICES, service, self._body)

    async def _body(self, service: Obj, conditions: Conditions) -> None:
        configuration = await self._configuration(service, conditions)
        named = byo_name(configuration)
        if not _observed(configuration):
            conditions.mark_unknown(
                "ConfigurationsReady",
                "OutOfDate",
                "The Configuration is still working to reflect the latest desired specification.",
            )
            if named:
                # The Route may name a revision that does not exist yet; moving traffic now would break it.
                return
        else:
            _copy_ready(configuration, conditions, "ConfigurationsReady")
            for field in ("latestCreatedRevisionName", "latestReadyRevisionName"):
                _copy(configuration, service, field)
        if named and self._taken(named, configuration):
            conditions.mark_false(
                "RoutesReady",
                "RevisionNameTaken",
                f'The revision name "{named}" is taken by a conflicting Revision, so traffic will not be migrated',
            )
            return
        route = await self._route(service, conditions)
        if not _observed(route):
            conditions.mark_unknown(
                "RoutesReady",
                "OutOfDate",
                "The Route is still working to reflect the latest desired specification.",
            )
            return
        for field in ("url", "address", "traffic"):
            _copy(route, service, field)
        _copy_ready(route, conditions, "RoutesReady")
        if conditions.is_true("RoutesReady") and not _migrated(route, configuration):
            conditions.mark_unknown("RoutesReady", *_NOT_MIGRATED)

    async def _configuration(self, service: Obj, conditions: Conditions) -> Obj:
        present = self._configurations.get(meta.name(service), meta.namespace(service))
        wanted = make_configuration.make(service, present)
        return await self._child(CONFIGURATIONS, wanted, present, service, conditions, "ConfigurationsReady")

    async def _route(self, service: Obj, conditions: Conditions) -> Obj:
        present = self._routes.get(meta.name(service), meta.namespace(service))
        wanted = make_route.make(service)
        return await self._child(ROUTES, wanted, present, service, conditions, "RoutesReady")

    async def _child(
        self, resource: Resource, wanted: Obj, present: Obj | None, service: Obj, conditions: Conditions, condition: str
    ) -> Obj:
        """The child as it should be, written if it was not.

        Raises:
            NotOwned: somebody else's object has the name.
        """
        if present is None:
            present = await children.create(self._world, resource, wanted, service)
        if not meta.is_controlled_by(present, service):
            name = meta.name(present)
            if self._tracker:
                self._tracker.track(Key.of(service), resource, meta.namespace(service), name)
            conditions.mark_false(
                condition, "NotOwned", f'There is an existing {resource.kind} "{name}" that we do not own.'
            )
            raise children.NotOwned(f'service: "{meta.name(service)}" does not own {resource.kind.lower()}: "{name}"')
        # Both are compared as they would look if written today: an upgrade that brings new defaults touches nothing.
        today = set_defaults(present, config=self._world.config, old=present, operation="UPDATE")
        asked = set_defaults(
            {**present, "spec": wanted["spec"]}, config=self._world.config, old=present, operation="UPDATE"
        )
        same = (
            children.equal(today["spec"], asked["spec"])
            and meta.labels(present) == meta.labels(wanted)
            and meta.annotations(present) == meta.annotations(wanted)
        )
        if same:
            return present
        return await children.update(
            self._world,
            resource,
            present,
            spec=wanted["spec"],
            labels=meta.labels(wanted),
            annotations=meta.annotations(wanted),
        )

    def _taken(self, name: str, configuration: Obj) -> bool:
        """Whether a revision of the chosen name exists that cannot be the one this Configuration wants."""
        namespace = meta.namespace(configuration)
        if self._tracker:
            self._tracker.track(
                Key(namespace, meta.labels(configuration).get(keys.SERVICE, "")), REVISIONS, namespace, name
            )
        revision = self._revisions.get(name, namespace)
        if revision is None:
            return False
        if not meta.is_controlled_by(revision, configuration):
            return True
        generation = meta.labels(revision).get(keys.CONFIGURATION_GENERATION)
        if generation == str(meta.generation(configuration)):
            return False
        return not children.equal(revision.get("spec"), meta.at(configuration, "spec", "template", "spec"))


def _observed(child: Obj) -> bool:
    return bool(meta.at(child, "status", "observedGeneration", default=0) == meta.generation(child))


def _copy(source: Obj, target: Obj, field: str) -> None:
    value = meta.at(source, "status", field)
    if value:
        target["status"][field] = value
    else:
        target["status"].pop(field, None)


def _copy_ready(child: Obj, conditions: Conditions, condition: str) -> None:
    ready = meta.condition(child, "Ready")
    if ready is None:
        return
    reason, message = ready.get("reason", ""), ready.get("message", "")
    if ready["status"] == "True":
        conditions.mark_true(condition)
    elif ready["status"] == "False":
        conditions.mark_false(condition, reason, message)
    else:
        conditions.mark_unknown(condition, reason, message)


def _migrated(route: Obj, configuration: Obj) -> bool:
    """Whether the Route serves what its spec asks for, with targets of a Configuration meaning its latest revision."""
    latest = meta.at(configuration, "status", "latestReadyRevisionName", default="")
    wanted = [
        (target.get("tag", ""), target.get("revisionName") or latest, target.get("percent") or 0)
        for target in meta.at(route, "spec", "traffic", default=[])
    ]
    served = [
        (target.get("tag", ""), target.get("revisionName", ""), target.get("percent") or 0)
        for target in meta.at(route, "status", "traffic", default=[])
    ]
    return wanted == served
