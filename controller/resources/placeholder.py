"""Route -> the Kubernetes Services that carry its names inside the cluster (serving §1.10).

Each target of a Route has a Service of the host's first part (`hello`, `canary-hello`) in the Route's namespace, so
that `hello.default.svc.cluster.local` resolves. It points nowhere of its own: first at the public host, then, once the
ingress says where it listens, at the ingress.
"""

from dataclasses import dataclass

from controller.resources.metadata import child, without
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.api.resources import ENDPOINTS, SERVICES

__all__ = ["Placeholder", "TooManyLoadBalancers", "initial", "load_balanced", "must_recreate"]

_H2C = "kubernetes.io/h2c"
_PORT = {"name": "http2", "appProtocol": _H2C, "port": 80, "targetPort": 80}


@dataclass(frozen=True, kw_only=True)
class Placeholder:
    """What one placeholder Service should be."""

    service: Obj
    endpoints: Obj | None = None
    """Only for an ingress known by its IP: a Service without selector needs its Endpoints written by hand."""


class TooManyLoadBalancers(ValueError):
    """The ingress reports more than one load balancer; a Service can point at one."""

    def __init__(self, count: int) -> None:
        super().__init__(f"more than one ingress are specified in status(LoadBalancer) of Ingress: {count}")


def initial(route: Obj, name: str, domain: str) -> Placeholder:
    """The Service as created, before the ingress has an address: an alias of the target's own host."""
    return Placeholder(service=_service(route, name, _external_name(domain)))


def load_balanced(route: Obj, name: str, ingress: Obj) -> Placeholder | None:
    """The Service once the KIngress has reported load balancers; None while it has not.

    Callers are inside the cluster, so the private list is preferred; an ingress may have only a public one.

    Raises:
        TooManyLoadBalancers: there is no single address to point at.
    """
    private = meta.at(ingress, "status", "privateLoadBalancer", "ingress", default=[])
    public = meta.at(ingress, "status", "publicLoadBalancer", "ingress", default=[])
    balancers = private or public
    if not balancers:
        return None
    if len(balancers) > 1:
        raise TooManyLoadBalancers(len(balancers))
    balancer = balancers[0]
    if ip := balancer.get("ip"):
        service = _service(route, name, {"type": "ClusterIP", "clusterIP": "None", "ports": [dict(_PORT)]})
        return Placeholder(service=service, endpoints=_endpoints(route, name, service, ip))
    if host := balancer.get("domainInternal") or balancer.get("domain"):
        return Placeholder(service=_service(route, name, _external_name(host)))
    if balancer.get("meshOnly"):
        # The mesh intercepts by Service address, so it needs one, and it brings its own protocol detection.
        return Placeholder(
            service=_service(route, name, {"type": "ClusterIP", "ports": [{"name": "http", "port": 80}]})
        )
    return None


def must_recreate(present: Obj, wanted: Obj) -> bool:
    """True when the API server would refuse an update: a Service's cluster IP cannot come, go or change kind."""
    before, after = present.get("spec", {}), wanted.get("spec", {})
    if before.get("type", "ClusterIP") != after.get("type", "ClusterIP"):
        return True
    return bool((before.get("clusterIP") == "None") != (after.get("clusterIP") == "None"))


def _external_name(host: str) -> Obj:
    return {"type": "ExternalName", "externalName": host, "sessionAffinity": "None", "ports": [dict(_PORT)]}


def _service(route: Obj, name: str, spec: Obj) -> Obj:
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "metadata": _metadata(route, name),
        "spec": spec,
    }


def _endpoints(route: Obj, name: str, service: Obj, ip: str) -> Obj:
    return {
        "apiVersion": ENDPOINTS.api_version,
        "kind": ENDPOINTS.kind,
        "metadata": _metadata(route, name),
        "subsets": [
            {"addresses": [{"ip": ip}], "ports": [{"name": "http2", "appProtocol": _H2C, "port": 80}]},
        ],
    }


def _metadata(route: Obj, name: str) -> Obj:
    return child(
        route,
        name,
        labels=without(meta.labels(route), keys.VISIBILITY) | {keys.ROUTE: meta.name(route)},
        annotations=meta.annotations(route),
    )
