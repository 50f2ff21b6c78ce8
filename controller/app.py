"""Puts the Serving controllers together: which watches which, and who hears of which configuration.

    Service -> Configuration -> Revision -> Deployment, PodAutoscaler (-> ServerlessService, made by the autoscaler)
            \\-> Route -> KIngress, placeholder Services;  Labeler: Route -> marks on Revisions and Configurations

Everything built here shares the informers it is given; whoever runs the parts runs the informers too. The parts wait by
themselves until the informers are synced.
"""

from collections.abc import Callable, Mapping

from controller.configuration import ConfigurationReconciler
from controller.digest import DigestResolver, Digests
from controller.frame import Events, Reconciler, World
from controller.ingress import IngressReconciler
from controller.labeler import Labeler
from controller.prober import HttpProbe, Probe
from controller.revision import RevisionReconciler
from controller.route import RouteReconciler
from controller.serverlessservice import ServerlessServiceReconciler
from controller.service import ServiceReconciler
from kncore.clock import Clock
from kncore.config.store import Store
from kncore.kube import configs
from kncore.kube.client import Client
from kncore.kube.informers import Informers, Synced
from kncore.kube.lease import Leader
from kncore.kube.reconcile import Controller
from kncore.runtime import Part

__all__ = ["build"]

_WORKERS = 4
_INGRESS_WORKERS = 16  # each may wait a moment for activators
# ConfigMaps whose change may change what a kind's reconciler writes. Those not named concern other components.
_CONCERNS: Mapping[str, frozenset[str]] = {
    ServiceReconciler.name: frozenset({"config-defaults", "config-features"}),
    ConfigurationReconciler.name: frozenset(),
    RevisionReconciler.name: frozenset(
        {
            "config-autoscaler",
            "config-deployment",
            "config-features",
            "config-logging",
            "config-network",
            "config-observability",
        }
    ),
    RouteReconciler.name: frozenset({"config-domain", "config-features", "config-network"}),
}


def build(
    client: Client,
    informers: Informers,
    config: Store,
    *,
    clock: Clock,
    recorder: Events,
    resolver: DigestResolver,
    system_namespace: str = "knative-serving",
    cluster_domain: str = "cluster.local",
    external_ports: Mapping[str, int] | None = None,
    probe: Probe | None = None,
    any_ingress_class: bool = False,
    leader: Callable[[str], Leader] | None = None,
) -> list[Part]:
    """The controllers and their helpers, wired but not running.

    Args:
        config: kept equal to the system namespace's ConfigMaps by a handler registered here.
        resolver: turns image tags into digests.
        external_ports: by scheme, shown in public URLs, for an ingress that does not listen on the scheme's own port.
        probe: asks one activator about one KIngress; over HTTP by default.
        any_ingress_class: report the status of every KIngress, not only of our class.
        leader: who works on which keys, by controller name; this process on all by default.
    """
    world = World(
        client=client,
        informers=informers,
        config=config,
        clock=clock,
        events=recorder,
        system_namespace=system_namespace,
        cluster_domain=cluster_domain,
    )
    controllers: dict[str, Controller] = {}
    digests = Digests(resolver, lambda key: controllers[RevisionReconciler.name].enqueue(key))
    ingress = IngressReconciler(world, probe or HttpProbe(), any_class=any_ingress_class)
    reconcilers: list[Reconciler] = [
        ServiceReconciler(world),
        ConfigurationReconciler(world),
        RevisionReconciler(world, digests),
        RouteReconciler(world, external_ports=external_ports),
        Labeler(world),
        ServerlessServiceReconciler(world),
        ingress,
    ]
    for reconciler in reconcilers:
        controller = controllers[reconciler.name] = Controller(
            reconciler.name,
            reconciler.reconcile,
            workers=_INGRESS_WORKERS if reconciler is ingress else _WORKERS,
            leader=leader(reconciler.name) if leader else None,
            keys=reconciler.primary.keys,
        )
        reconciler.watch(controller)

    def configuration_changed(name: str) -> None:
        for reconciler in reconcilers:
            if name in _CONCERNS.get(reconciler.name, frozenset()):
                controllers[reconciler.name].enqueue_all(reconciler.primary.keys())

    config.subscribe(configuration_changed)
    configs.follow(informers, config, system_namespace, recorder)
    parts: list[Part] = [digests, ingress.prober, *controllers.values()]
    return [Synced(part, informers) for part in parts]
