"""ServerlessService: who answers behind a Revision's Service, its pods or the activators (serving §7.3)."""

from typing import ClassVar

from controller import children
from controller.frame import World, framed
from controller.resources import serverlessservice as make
from kncore.api import keys, meta
from kncore.api.conditions import Conditions
from kncore.api.meta import Obj
from kncore.api.names import private_service_name
from kncore.api.resources import DEPLOYMENTS, ENDPOINTS, SERVERLESS_SERVICES, SERVICES, Resource
from kncore.errors import KnError
from kncore.kube.client import Key
from kncore.kube.informer import Change
from kncore.kube.reconcile import Controller, enqueue_owner, enqueue_self

__all__ = ["ACTIVATOR_SERVICE", "NoTarget", "ServerlessServiceReconciler"]

ACTIVATOR_SERVICE = "activator-service"
"""The Service, in the system namespace, whose Endpoints are the activators."""

_NOT_READY = "K8s Service is not ready"
_BACKED = ("ActivatorEndpointsPopulated", "Revision is backed by Activator")


class NoTarget(KnError):
    """The object that an SKS refers to cannot be found."""


class ServerlessServiceReconciler:
    """Reconciles ServerlessServices."""

    name: ClassVar[str] = "serverlessservice"

    def __init__(self, world: World) -> None:
        self._world = world
        self.primary = world.cached(SERVERLESS_SERVICES)
        self._services = world.cached(SERVICES)
        self._endpoints = world.cached(ENDPOINTS)
        self._deployments = world.cached(DEPLOYMENTS)

    def watch(self, controller: Controller) -> None:
        """ServerlessServices, their Services and Endpoints, and the activators."""
        self.primary.add_handler(enqueue_self(controller))
        self._services.add_handler(enqueue_owner(controller, SERVERLESS_SERVICES))

        def endpoints_changed(change: Change) -> None:
            # The private Service's Endpoints belong to Kubernetes, but carry the Service's labels.
            name = meta.labels(change.object).get(keys.SERVERLESS_SERVICE)
            if name:
                controller.enqueue(Key(change.key.namespace, name), slow=change.resync)
            elif change.key == (self._world.system_namespace, ACTIVATOR_SERVICE) and not change.resync:
                # Also those that serve by themselves: they would fall back to an activator that is gone.
                controller.enqueue_all(self.primary.keys())

        self._endpoints.add_handler(endpoints_changed)

    async def reconcile(self, key: Key) -> None:
        """Bring one ServerlessService's Services and Endpoints in order."""
        sks = self.primary.get(key.name, key.namespace)
        if sks is not None and not meta.is_deleting(sks):
            await framed(self._world, SERVERLESS_SERVICES, sks, self._body)

    async def _body(self, sks: Obj, conditions: Conditions) -> None:
        status = sks["status"]
        private = make.private_service(sks, self._selector(sks))
        await self._service(sks, private, conditions, "PrivateService")
        status["privateServiceName"] = meta.name(private)
        public = make.public_service(sks)
        await self._service(sks, public, conditions, "PublicService")
        status["serviceName"] = meta.name(public)
        pods = self._subsets(private_service_name(meta.name(sks)), meta.namespace(sks))
        await self._public_endpoints(sks, pods, conditions)
        self._tell(sks, pods, conditions)

    def _selector(self, sks: Obj) -> dict[str, str]:
        """The pods of the object the SKS refers to.

        Raises:
            NoTarget: it does not exist.
        """
        name = meta.at(sks, "spec", "objectRef", "name", default="")
        deployment = self._deployments.get(name, meta.namespace(sks))
        if deployment is None:
            raise NoTarget(f'error retrieving deployment selector spec: deployment "{name}" not found')
        selector: dict[str, str] = meta.at(deployment, "spec", "selector", "matchLabels", default={})
        return selector

    def _subsets(self, service: str, namespace: str) -> list[Obj]:
        return list(meta.at(self._endpoints.get(service, namespace), "subsets", default=[]))

    async def _service(self, sks: Obj, wanted: Obj, conditions: Conditions, what: str) -> None:
        present = self._services.get(meta.name(wanted), meta.namespace(wanted))
        if present is None:
            conditions.mark_unknown("EndpointsPopulated", f"Creating{what}", _NOT_READY)
            present = await children.create(self._world, SERVICES, wanted, sks)
        self._check_owner(sks, present, SERVICES, conditions)
        if children.covers(present.get("spec"), wanted["spec"]) and children.covers(
            meta.labels(present), meta.labels(wanted)
        ):
            return
        conditions.mark_unknown("EndpointsPopulated", f"Updating{what}", _NOT_READY)
        await children.update(
            self._world,
            SERVICES,
            present,
            spec=present["spec"] | wanted["spec"],
            labels=meta.labels(present) | meta.labels(wanted),
        )

    async def _public_endpoints(self, sks: Obj, pods: list[Obj], conditions: Conditions) -> None:
        activators = self._subsets(ACTIVATOR_SERVICE, self._world.system_namespace)
        proxy = meta.at(sks, "spec", "mode") == "Proxy" or not make.ready_addresses(pods)
        # Without activators pods are the better answer even when there are none: nothing can be worse than nobody.
        if proxy and make.ready_addresses(activators):
            count = meta.at(sks, "spec", "numActivators", default=0)
            source = make.activator_subset(activators, count, meta.name(sks))
        else:
            source = pods
        wanted = make.public_endpoints(sks, source)
        present = self._endpoints.get(meta.name(wanted), meta.namespace(wanted))
        if present is None:
            conditions.mark_unknown("EndpointsPopulated", "CreatingPublicEndpoints", _NOT_READY)
            present = await children.create(self._world, ENDPOINTS, wanted, sks)
        self._check_owner(sks, present, ENDPOINTS, conditions)
        if not children.equal(present.get("subsets"), wanted["subsets"]):
            await children.update(self._world, ENDPOINTS, present, subsets=wanted["subsets"])

    def _tell(self, sks: Obj, pods: list[Obj], conditions: Conditions) -> None:
        ready = make.ready_addresses(pods)
        if ready:
            conditions.mark_true("EndpointsPopulated")
        else:
            conditions.mark_unknown("EndpointsPopulated", "NoHealthyBackends", _NOT_READY)
        # Its last transition tells the autoscaler for how long the activators have been in the path.
        backed = not ready or meta.at(sks, "spec", "mode") == "Proxy"
        if backed:
            conditions.mark_true_with_reason("ActivatorEndpointsPopulated", *_BACKED)
        else:
            conditions.mark_false("ActivatorEndpointsPopulated", *_BACKED)

    def _check_owner(self, sks: Obj, child: Obj, resource: Resource, conditions: Conditions) -> None:
        if meta.is_controlled_by(child, sks):
            return
        conditions.mark_false(
            "EndpointsPopulated",
            "NotOwned",
            f'There is an existing {resource.kind} "{meta.name(child)}" that we do not own.',
        )
        raise children.NotOwned(f'SKS: "{meta.name(sks)}" does not own {resource.kind}: "{meta.name(child)}"')
