"""ServerlessService -> the two Services of a Revision and who stands behind the public one (serving §7.3).

The private Service always selects the Revision's pods. The public one has no selector: its Endpoints are written here,
as a copy either of the private Service's (Serve) or of some activators (Proxy), so that callers of one name are moved
between pods and activators without noticing.
"""

import copy
from collections.abc import Sequence
from typing import Final

from controller.resources.metadata import child
from controller.resources.ports import (
    QUEUE_H2C_PORT,
    QUEUE_HTTP_PORT,
    QUEUE_METRICS_PORT,
    QUEUE_TLS_PORT,
    USER_METRICS_PORT,
)
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.api.names import choose_subset, private_service_name
from kncore.api.resources import ENDPOINTS, SERVICES

__all__ = ["activator_subset", "private_service", "public_endpoints", "public_service", "ready_addresses"]

_H2C: Final = "kubernetes.io/h2c"


def private_service(sks: Obj, selector: dict[str, str]) -> Obj:
    """The Service that selects the pods.

    Args:
        selector: `matchLabels` of the Deployment the SKS refers to.
    """
    h2c = _is_h2c(sks)
    target = QUEUE_H2C_PORT if h2c else QUEUE_HTTP_PORT
    ports = [
        _port("http2" if h2c else "http", 80, target, h2c=h2c),
        _port("https", 443, QUEUE_TLS_PORT),
        _port("http-autometric", QUEUE_METRICS_PORT, "http-autometric"),
        _port("http-usermetric", USER_METRICS_PORT, "http-usermetric"),
        # A mesh that addresses pods directly looks for a Service port of the same number as the pod's.
        _port("http2-istio" if h2c else "http-istio", target, target, h2c=h2c),
    ]
    spec = {"type": "ClusterIP", "ports": ports, "selector": dict(selector)}
    return _service(sks, private_service_name(meta.name(sks)), "Private", spec)


def public_service(sks: Obj) -> Obj:
    """The Service that KIngresses name."""
    h2c = _is_h2c(sks)
    http = _port("http2", 81, QUEUE_H2C_PORT, h2c=True) if h2c else _port("http", 80, QUEUE_HTTP_PORT)
    spec = {"type": "ClusterIP", "ports": [http, _port("https", 443, QUEUE_TLS_PORT)]}
    return _service(sks, meta.name(sks), "Public", spec)


def public_endpoints(sks: Obj, subsets: Sequence[Obj]) -> Obj:
    """The public Service's Endpoints: the addresses of `subsets`, on the ports the public Service leads to."""
    wanted = {QUEUE_H2C_PORT if _is_h2c(sks) else QUEUE_HTTP_PORT, QUEUE_TLS_PORT}
    return {
        "apiVersion": ENDPOINTS.api_version,
        "kind": ENDPOINTS.kind,
        "metadata": _metadata(sks, meta.name(sks), "Public"),
        "subsets": [
            copy.deepcopy(subset)
            | {"ports": [dict(port) for port in subset.get("ports") or [] if port.get("port") in wanted]}
            for subset in subsets
        ],
    }


def activator_subset(subsets: Sequence[Obj], count: int, name: str) -> list[Obj]:
    """The activators that stand behind one Revision, the same for every caller that asks.

    Args:
        subsets: of the activator Service's Endpoints.
        count: how many; 0 = all.
        name: of the SKS.
    """
    addresses = ready_addresses(subsets)
    if count <= 0 or count >= len(addresses):
        return [copy.deepcopy(subset) for subset in subsets if subset.get("addresses")]
    chosen = choose_subset(addresses, count, name)
    made = []
    for subset in subsets:
        kept = [dict(address) for address in subset.get("addresses") or [] if address["ip"] in chosen]
        if kept:
            made.append({"addresses": kept, "ports": [dict(port) for port in subset.get("ports") or []]})
    return made


def ready_addresses(subsets: Sequence[Obj]) -> set[str]:
    """IPs of the ready addresses."""
    return {address["ip"] for subset in subsets for address in subset.get("addresses") or []}


def _is_h2c(sks: Obj) -> bool:
    return bool(meta.at(sks, "spec", "protocolType") == "h2c")


def _port(name: str, number: int, target: int | str, *, h2c: bool = False) -> Obj:
    made: Obj = {"name": name, "protocol": "TCP", "port": number, "targetPort": target}
    if h2c:
        made["appProtocol"] = _H2C
    return made


def _service(sks: Obj, name: str, type_: str, spec: Obj) -> Obj:
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "metadata": _metadata(sks, name, type_),
        "spec": spec,
    }


def _metadata(sks: Obj, name: str, type_: str) -> Obj:
    return child(
        sks,
        name,
        labels=meta.labels(sks) | {keys.SERVERLESS_SERVICE: meta.name(sks), keys.SERVICE_TYPE: type_},
        annotations=meta.annotations(sks),
    )
