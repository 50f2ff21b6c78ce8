"""Route: from traffic targets to a KIngress and placeholder Services, and back to URLs and conditions (serving §1.10).

Nothing is programmed while any target is bad: the last good KIngress keeps serving. Which revision gets which share is
decided by `controller.traffic` and `controller.rollout`; here the world is read, the children are written, and the
ingress's answer is turned into IngressReady.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from controller import children, traffic
from controller.frame import World, framed
from controller.resources import ingress as make_ingress
from controller.resources import placeholder as make_placeholder
from controller.resources.ingress import Hosts
from controller.rollout import Rollout, observe, step
from controller.urls import DomainNameError, Names
from kncore.api import keys, meta
from kncore.api.conditions import Conditions
from kncore.api.meta import Obj
from kncore.api.resources import CONFIGURATIONS, ENDPOINTS, INGRESSES, REVISIONS, ROUTES, SERVICES, Resource
from kncore.kube.client import Key
from kncore.kube.reconcile import Controller, Tracker, enqueue_owner, enqueue_self
from kncore.quantity import parse_duration

__all__ = ["RouteReconciler"]

logger = logging.getLogger(__name__)

_NOT_CONFIGURED = ("IngressNotConfigured", "Ingress has not yet been reconciled.")
_IN_PROGRESS = ("RolloutInProgress", "A gradual rollout of the latest revision(s) is in progress.")
_HTTP_OPTIONS = {"enabled": "Enabled", "redirected": "Redirected", "disabled": ""}
_KINDS = {CONFIGURATIONS.kind: CONFIGURATIONS, REVISIONS.kind: REVISIONS}


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What one reconcile has found out before it writes anything."""

    names: Names
    assignment: traffic.Assignment
    local: Mapping[str, bool]
    """By tag: whether the target is only for callers inside the cluster."""
    hosts: Mapping[str, Hosts]


class RouteReconciler:
    """Reconciles Routes.

    Args:
        external_ports: by scheme, shown in public URLs, for an ingress that does not listen on the scheme's own port.
    """

    name: ClassVar[str] = "route"

    def __init__(self, world: World, *, external_ports: Mapping[str, int] | None = None) -> None:
        self._world = world
        self._external_ports = external_ports or {}
        self.primary = world.cached(ROUTES)
        self._configurations = world.cached(CONFIGURATIONS)
        self._revisions = world.cached(REVISIONS)
        self._ingresses = world.cached(INGRESSES)
        self._services = world.cached(SERVICES)
        self._endpoints = world.cached(ENDPOINTS)
        self._tracker: Tracker | None = None
        self._controller: Controller | None = None

    def watch(self, controller: Controller) -> None:
        """Routes, what they own, and what they refer to."""
        self._controller = controller
        self._tracker = Tracker(controller)
        self.primary.add_handler(enqueue_self(controller))
        for owned in (self._ingresses, self._services, self._endpoints):
            owned.add_handler(enqueue_owner(controller, ROUTES))
        for referred in (self._configurations, self._revisions):
            self._tracker.observe(referred)

    async def reconcile(self, key: Key) -> None:
        """Bring one Route's children in order."""
        route = self.primary.get(key.name, key.namespace)
        if self._tracker:
            self._tracker.forget(key)  # the body declares its present interests before anything can happen in between
        if route is not None and not meta.is_deleting(route):
            await framed(self._world, ROUTES, route, self._body)

    async def _body(self, route: Obj, conditions: Conditions) -> None:
        if meta.at(route, "status", "observedGeneration", default=0) != meta.generation(route):
            # Whatever fails below, the old IngressReady does not speak of the new generation.
            conditions.mark_unknown("IngressReady", *_NOT_CONFIGURED)
        plan = self._plan(route, conditions)
        if plan is None:
            return
        rollout = self._rollout(route, plan)
        status = route["status"]
        status["address"] = {"url": f"http://{plan.names.local('')}"}
        status["traffic"] = traffic.status_traffic(
            plan.assignment.entries, rollout, lambda tag: self._url(plan.names, tag, plan.local[tag])
        )
        services = await self._placeholders(route, plan, conditions)
        conditions.mark_true_with_reason(
            "CertificateProvisioned", "TLSNotEnabled", "external-domain-tls is not enabled"
        )
        ingress = await self._ingress(route, plan, rollout)
        if not rollout.done:
            conditions.mark_unknown("IngressReady", *_IN_PROGRESS)
        elif meta.at(ingress, "status", "observedGeneration", default=0) != meta.generation(ingress):
            conditions.mark_unknown("IngressReady", *_NOT_CONFIGURED)
        else:
            _copy_ready(ingress, conditions)
        await self._point_placeholders(route, services.values(), ingress, conditions)

    # -- deciding --------------------------------------------------------------------------------------------------

    def _plan(self, route: Obj, conditions: Conditions) -> _Plan | None:
        """Everything that can be known without writing; None when traffic cannot be assigned.

        Raises:
            DomainNameError: the Route's host, or a tag's, is not a valid name.
        """
        namespace = meta.namespace(route)
        config = self._world.config
        names = Names(
            route=route, network=config.network, domain=config.domain, cluster_domain=self._world.cluster_domain
        )
        services = {meta.name(service): service for service in self._owned_services(route)}
        try:
            local = names.visibility([""], services)
            route["status"]["url"] = self._url(names, "", local[""])
            assignment = traffic.resolve(
                route,
                lambda name: self._configurations.get(name, namespace),
                lambda name: self._revisions.get(name, namespace),
            )
            self._track(route, assignment)
            if problem := assignment.problem:
                mark = conditions.mark_false if problem.failed else conditions.mark_unknown
                mark("AllTrafficAssigned", problem.reason, problem.message)
                return None
            local = names.visibility(assignment.groups, services)
            hosts = {tag: names.hosts(tag, local=local[tag]) for tag in assignment.groups}
        except DomainNameError as exc:
            conditions.mark_false("AllTrafficAssigned", "ErrorConfig", str(exc))
            raise
        conditions.mark_true("AllTrafficAssigned")
        return _Plan(names=names, assignment=assignment, local=local, hosts=hosts)

    def _track(self, route: Obj, assignment: traffic.Assignment) -> None:
        if self._tracker is None:
            return
        key = Key.of(route)
        for kind, name in assignment.seen:
            self._tracker.track(key, _KINDS[kind], key.namespace, name)

    def _rollout(self, route: Obj, plan: _Plan) -> Rollout:
        """The shares to program now; schedules the next step."""
        goal = traffic.goal(plan.assignment.groups)
        duration = _rollout_duration(route, self._world.config.network.rollout_duration)
        present = self._ingresses.get(meta.name(route), meta.namespace(route))
        if duration <= 0 or present is None:
            return goal
        now_ns = round(self._world.clock.wall() * 1_000_000) * 1_000  # a float holds microseconds of today, not more
        stored = Rollout.parse(meta.annotations(present).get(keys.ROLLOUT, ""))
        if stored is not None and meta.is_ready(present):
            stored = observe(stored, now_ns, duration)
        stepped, next_ns = step(goal, stored, now_ns)
        if next_ns and self._controller is not None:
            self._controller.enqueue_after(Key.of(route), max(0, next_ns - now_ns) / 1_000_000_000)
        return stepped

    def _url(self, names: Names, tag: str, local: bool) -> str:
        host = names.primary(tag, local=local)
        if local:
            return f"http://{host}"
        scheme = self._world.config.network.default_external_scheme
        port = self._external_ports.get(scheme)
        return f"{scheme}://{host}:{port}" if port else f"{scheme}://{host}"

    # -- the KIngress ----------------------------------------------------------------------------------------------

    async def _ingress(self, route: Obj, plan: _Plan, rollout: Rollout) -> Obj:
        network = self._world.config.network
        wanted = make_ingress.make(
            route,
            plan.assignment.groups,
            plan.hosts,
            rollout,
            ingress_class=keys.lookup(meta.annotations(route), keys.INGRESS_CLASS) or network.ingress_class,
            option=make_ingress.http_option(route, _HTTP_OPTIONS[network.http_protocol]),
            tag_header=self._world.config.features.tag_header_based_routing == "Enabled",
            internal_tls=network.system_internal_tls,
        )
        present = self._ingresses.get(meta.name(route), meta.namespace(route))
        if present is None:
            present = await children.create(self._world, INGRESSES, wanted, route)
        if not meta.is_controlled_by(present, route):
            raise children.NotOwned(f'route: "{meta.name(route)}" does not own Ingress: "{meta.name(present)}"')
        same = (
            children.equal(present.get("spec"), wanted["spec"])
            and meta.annotations(present) == meta.annotations(wanted)
            and children.covers(meta.labels(present), meta.labels(wanted))
        )
        if same:
            return present
        return await children.update(
            self._world,
            INGRESSES,
            present,
            spec=wanted["spec"],
            annotations=meta.annotations(wanted),
            labels=meta.labels(wanted),
        )

    # -- placeholder Services --------------------------------------------------------------------------------------

    def _owned_services(self, route: Obj) -> list[Obj]:
        marked = self._services.list(meta.namespace(route), {keys.ROUTE: meta.name(route)})
        return [service for service in marked if meta.is_controlled_by(service, route)]

    async def _placeholders(self, route: Obj, plan: _Plan, conditions: Conditions) -> dict[str, Obj]:
        """The placeholder Service of every tag, made where missing; those of former tags are removed.

        Raises:
            NotOwned: somebody else's Service has a name we need.
        """
        made: dict[str, Obj] = {}
        for tag in sorted(plan.assignment.groups):
            name = plan.names.part(tag)
            service = self._services.get(name, meta.namespace(route))
            if service is None:
                domain = plan.names.primary(tag, local=plan.local[tag])
                wanted = make_placeholder.initial(route, name, domain).service
                service = await children.create(self._world, SERVICES, wanted, route, "placeholder service")
            self._check_owner(service, route, SERVICES, "Service", conditions)
            made[tag] = service
        kept = {meta.name(service) for service in made.values()}
        for orphan in self._owned_services(route):
            if meta.name(orphan) not in kept:
                await self._remove_endpoints(route, meta.name(orphan))
                await children.remove(self._world, SERVICES, orphan)
        return made

    async def _point_placeholders(
        self, route: Obj, services: Iterable[Obj], ingress: Obj, conditions: Conditions
    ) -> None:
        """Aim the placeholder Services at where the ingress says it listens."""
        for service in services:
            try:
                wanted = make_placeholder.load_balanced(route, meta.name(service), ingress)
            except make_placeholder.TooManyLoadBalancers as exc:
                logger.warning("placeholder Service left as it is", extra={"key": meta.key(route), "error": str(exc)})
                continue
            if wanted is None:
                continue
            await self._point(route, service, wanted.service)
            if wanted.endpoints is not None:
                await self._point_endpoints(route, wanted.endpoints, conditions)

    async def _point(self, route: Obj, present: Obj, wanted: Obj) -> None:
        if make_placeholder.must_recreate(present, wanted):
            await self._remove_endpoints(route, meta.name(present))
            await children.remove(self._world, SERVICES, present)
            await self._world.client.create(SERVICES, wanted, meta.namespace(wanted))
            return
        # Others may label and annotate these Services (visibility!), so ours are added and theirs stay.
        labels = meta.labels(present) | meta.labels(wanted)
        annotations = meta.annotations(present) | meta.annotations(wanted)
        if (
            children.covers(present.get("spec"), wanted["spec"])
            and labels == meta.labels(present)
            and annotations == meta.annotations(present)
        ):
            return
        spec = present["spec"] | wanted["spec"]
        await children.update(self._world, SERVICES, present, spec=spec, labels=labels, annotations=annotations)

    async def _point_endpoints(self, route: Obj, wanted: Obj, conditions: Conditions) -> None:
        present = self._endpoints.get(meta.name(wanted), meta.namespace(wanted))
        if present is None:
            await self._world.client.create(ENDPOINTS, wanted, meta.namespace(wanted))
            return
        self._check_owner(present, route, ENDPOINTS, "Endpoint", conditions)
        if not children.covers(present.get("subsets"), wanted["subsets"]):
            await children.update(self._world, ENDPOINTS, present, subsets=wanted["subsets"])

    async def _remove_endpoints(self, route: Obj, name: str) -> None:
        endpoints = self._endpoints.get(name, meta.namespace(route))
        if endpoints is not None and meta.is_controlled_by(endpoints, route):
            await children.remove(self._world, ENDPOINTS, endpoints)

    def _check_owner(self, child: Obj, route: Obj, resource: Resource, word: str, conditions: Conditions) -> None:
        if meta.is_controlled_by(child, route):
            return
        name = meta.name(child)
        conditions.mark_false(
            "IngressReady", "NotOwned", f'There is an existing placeholder {word} "{name}" that we do not own.'
        )
        raise children.NotOwned(f'route: "{meta.name(route)}" does not own {resource.kind}: "{name}"')


def _copy_ready(ingress: Obj, conditions: Conditions) -> None:
    ready = meta.condition(ingress, "Ready")
    if ready is None:
        conditions.mark_unknown("IngressReady", *_NOT_CONFIGURED)
        return
    reason, message = ready.get("reason", ""), ready.get("message", "")
    if ready["status"] == "True":
        conditions.mark_true("IngressReady")
    elif ready["status"] == "False":
        conditions.mark_false("IngressReady", reason, message)
    else:
        conditions.mark_unknown("IngressReady", reason, message)


def _rollout_duration(route: Obj, default: float) -> float:
    text = keys.lookup(meta.annotations(route), keys.ROLLOUT_DURATION)
    if text is None:
        return default
    try:
        return parse_duration(text)
    except ValueError:
        return default  # validation refuses it; an older object may hold anything
