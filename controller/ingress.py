"""KIngress status for the ingress class that the activators serve (serving §7.4, §7.6).

The activators read KIngresses from the API server by themselves. What is left to do centrally is to say when all of
them have: then the KIngress is Ready, and names the activators' Service as its load balancer. A host that an older
KIngress has already is refused here as it is there.
"""

from collections.abc import Collection
from typing import ClassVar

from controller.frame import World, framed
from controller.prober import Probe, Prober
from controller.serverlessservice import ACTIVATOR_SERVICE
from kncore.api import keys, meta
from kncore.api.conditions import Conditions
from kncore.api.kingress import spec_hash
from kncore.api.meta import Obj
from kncore.api.resources import ENDPOINTS, INGRESSES
from kncore.kube.client import Key
from kncore.kube.informer import Change
from kncore.kube.reconcile import Controller, enqueue_self

__all__ = ["IngressReconciler"]

_CONFLICT = ("DomainConflict", "Ingress rejected: ingress has a conflicting domain with another ingress")
_WAITING = ("Uninitialized", "Waiting for load balancer to be ready")
# Usually all activators are done within this, and one write of the status says everything.
_PATIENCE = 0.1  # seconds


class IngressReconciler:
    """Reconciles the status of KIngresses.

    Args:
        probe: asks one activator.
        any_class: take care of every ingress class, for a cluster that has no other ingress.
    """

    name: ClassVar[str] = "ingress"

    def __init__(self, world: World, probe: Probe, *, any_class: bool = False) -> None:
        self._world = world
        self._any_class = any_class
        self.primary = world.cached(INGRESSES, indexers={"host": _hosts})
        self._endpoints = world.cached(ENDPOINTS)
        self._controller: Controller | None = None
        self.prober = Prober(probe, self._activators, self._confirmed)

    def watch(self, controller: Controller) -> None:
        """KIngresses, those that share a host with one that changed, and the activators."""
        self._controller = controller
        self.primary.add_handler(enqueue_self(controller))

        def hosts_freed(change: Change) -> None:
            if change.old is None or (change.type == "updated" and _hosts(change.old) == _hosts(change.object)):
                return
            for host in _hosts(change.old):
                for other in self.primary.by_index("host", host):
                    controller.enqueue(Key.of(other))

        self.primary.add_handler(hosts_freed)

        def activators_changed(change: Change) -> None:
            if change.key == (self._world.system_namespace, ACTIVATOR_SERVICE) and not change.resync:
                self.prober.again()

        self._endpoints.add_handler(activators_changed)

    async def reconcile(self, key: Key) -> None:
        """Tell one KIngress's state."""
        ingress = self.primary.get(key.name, key.namespace)
        if ingress is None or meta.is_deleting(ingress) or not self._ours(ingress):
            self.prober.forget(key)
            return
        await framed(self._world, INGRESSES, ingress, self._body)

    async def _body(self, ingress: Obj, conditions: Conditions) -> None:
        if self._conflicts(ingress):
            conditions.mark_false("LoadBalancerReady", *_CONFLICT)
            return
        conditions.mark_true("NetworkConfigured")
        hosts = _hosts(ingress)
        if hosts and not self._was_ready(ingress):
            ready = await self.prober.confirm(Key.of(ingress), hosts[0], spec_hash(ingress), _PATIENCE)
            if not ready:
                conditions.mark_unknown("LoadBalancerReady", *_WAITING)
                return
        balancer = {
            "domainInternal": f"{ACTIVATOR_SERVICE}.{self._world.system_namespace}.svc.{self._world.cluster_domain}"
        }
        ingress["status"]["publicLoadBalancer"] = {"ingress": [balancer]}
        ingress["status"]["privateLoadBalancer"] = {"ingress": [balancer]}
        conditions.mark_true("LoadBalancerReady")

    def _was_ready(self, ingress: Obj) -> bool:
        """Whether this generation was confirmed before, maybe by a process that is gone."""
        cached = self.primary.get(meta.name(ingress), meta.namespace(ingress))
        return cached is not None and meta.generation(cached) == meta.generation(ingress) and meta.is_ready(cached)

    def _ours(self, ingress: Obj) -> bool:
        class_ = keys.lookup(meta.annotations(ingress), keys.INGRESS_CLASS)
        return self._any_class or class_ == keys.INGRESS_CLASS_TORPOR

    def _conflicts(self, ingress: Obj) -> bool:
        """Whether an older KIngress of ours has one of the hosts."""
        rank = _rank(ingress)
        return any(
            _rank(other) < rank and self._ours(other) and not meta.is_deleting(other)
            for host in _hosts(ingress)
            for other in self.primary.by_index("host", host)
        )

    def _activators(self) -> Collection[str]:
        """`ip:port` of every ready activator."""
        endpoints = self._endpoints.get(ACTIVATOR_SERVICE, self._world.system_namespace)
        found = set()
        for subset in meta.at(endpoints, "subsets", default=[]):
            ports = {port.get("name", ""): port["port"] for port in subset.get("ports") or []}
            port = ports.get("http") or next(iter(ports.values()), None)
            if port is not None:
                found |= {f"{address['ip']}:{port}" for address in subset.get("addresses") or []}
        return sorted(found)

    def _confirmed(self, key: Key) -> None:
        if self._controller is not None:
            self._controller.enqueue(key)


def _hosts(ingress: Obj) -> list[str]:
    """All hosts, those inside the cluster first: every activator listens there."""
    rules = meta.at(ingress, "spec", "rules", default=[])
    local = [rule for rule in rules if rule.get("visibility") == "ClusterLocal"]
    public = [rule for rule in rules if rule.get("visibility") != "ClusterLocal"]
    return [host for rule in (*local, *public) for host in rule.get("hosts") or []]


def _rank(ingress: Obj) -> tuple[str, str]:
    """Who was first; the name settles ties alike in every process."""
    return ingress["metadata"].get("creationTimestamp") or "", meta.key(ingress)
