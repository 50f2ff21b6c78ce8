"""Which addresses stand behind each Service: Endpoints and EndpointSlices.

For a Service with a selector both are computed from its pods. A pod is listed as soon as it has an address, not ready
at first: the activator probes such addresses and sends requests before the kubelet has called the pod ready. For a
Service without selector somebody else writes the Endpoints, which are mirrored into a slice.

The computation is pure (`subsets`, `slices`); the controller compares with the cache and writes the difference. Pods
that share one set of port numbers share a subset and a slice; named target ports may make them differ.
Source: kubernetes pkg/controller/endpoint, staging/src/k8s.io/endpointslice.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.api.resources import ENDPOINT_SLICES, ENDPOINTS, PODS, SERVICES, Resource
from kncore.kube.client import Client, Key
from kncore.kube.errors import AlreadyExists, NotFound
from kncore.kube.informer import Change
from kncore.kube.informers import Informers
from kncore.kube.reconcile import Controller, enqueue_self
from torpor.embedded.workloads import pods

__all__ = ["EndpointsController", "mirrored", "slices", "subsets"]

SLICE_SIZE = 100
"""Endpoints per slice; kube-controller-manager's --max-endpoints-per-slice."""
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
HEADLESS = "service.kubernetes.io/headless"
_SLICER = "endpointslice-controller.k8s.io"
_MIRROR = "endpointslicemirroring-controller.k8s.io"

_BY_SELECTOR = "namespace and one selector pair"
_BY_SERVICE = "namespace and service name"


def _target_ports(service: Obj, pod: Obj) -> tuple[tuple[str, int, str, str], ...] | None:
    """(name, number, protocol, appProtocol) per port of the Service, as this pod has them; None if it has none."""
    wanted = at(service, "spec", "ports", default=[])
    found = []
    for port in wanted:
        target = port.get("targetPort") or port["port"]
        protocol = port.get("protocol") or "TCP"
        number = target if isinstance(target, int) else _named_port(pod, target, protocol)
        if number:
            found.append((port.get("name") or "", number, protocol, port.get("appProtocol") or ""))
    return None if wanted and not found else tuple(found)


def _named_port(pod: Obj, name: str, protocol: str) -> int:
    if name.isdecimal():
        return int(name)
    for container in at(pod, "spec", "containers", default=[]):
        for port in container.get("ports") or ():
            if port.get("name") == name and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
    return 0


def _addressed(service: Obj, found: Iterable[Obj]) -> list[tuple[tuple[tuple[str, int, str, str], ...], Obj]]:
    """(ports, pod) of the pods that can be listed, in a stable order."""
    listed = []
    for pod in found:
        if not at(pod, "status", "podIP") or at(pod, "status", "phase") in ("Succeeded", "Failed"):
            continue
        ports = _target_ports(service, pod)
        if ports is not None:
            listed.append((ports, pod))
    return sorted(listed, key=lambda one: (one[0], at(one[1], "status", "podIP"), meta.name(one[1])))


def _reference(pod: Obj) -> Obj:
    return {"kind": "Pod", "namespace": meta.namespace(pod), "name": meta.name(pod), "uid": meta.uid(pod)}


def subsets(service: Obj, found: Iterable[Obj]) -> list[Obj]:
    """The `subsets` of the Service's Endpoints; pods being deleted are left out."""
    publish = at(service, "spec", "publishNotReadyAddresses", default=False)
    made: dict[tuple[tuple[str, int, str, str], ...], Obj] = {}
    for ports, pod in _addressed(service, found):
        if meta.is_deleting(pod) and not publish:
            continue
        subset = made.setdefault(ports, {})
        ready = publish or pods.is_ready(pod)
        address: Obj = {"ip": at(pod, "status", "podIP"), "targetRef": _reference(pod)}
        if node := at(pod, "spec", "nodeName"):
            address["nodeName"] = node
        subset.setdefault("addresses" if ready else "notReadyAddresses", []).append(address)
    for ports, subset in made.items():
        if ports:
            subset["ports"] = [_port(one, bare=True) for one in ports]
    return list(made.values())


def slices(service: Obj, found: Iterable[Obj]) -> list[Obj]:
    """The Service's EndpointSlices; pods being deleted stay listed, as terminating."""
    publish = at(service, "spec", "publishNotReadyAddresses", default=False)
    by_ports: dict[tuple[tuple[str, int, str, str], ...], list[Obj]] = {}
    for ports, pod in _addressed(service, found):
        serving, terminating = pods.is_ready(pod), meta.is_deleting(pod)
        endpoint: Obj = {
            "addresses": [at(pod, "status", "podIP")],
            "conditions": {
                "ready": publish or (serving and not terminating),
                "serving": serving,
                "terminating": terminating,
            },
            "targetRef": _reference(pod),
        }
        if node := at(pod, "spec", "nodeName"):
            endpoint["nodeName"] = node
        by_ports.setdefault(ports, []).append(endpoint)
    labels = {**_labels(service), SERVICE_NAME: meta.name(service), MANAGED_BY: _SLICER}
    return _cut(service, labels, [([_port(one) for one in ports], listed) for ports, listed in by_ports.items()])


def mirrored(service: Obj, endpoints: Obj) -> list[Obj]:
    """The EndpointSlices that say what hand-written Endpoints say."""
    parts = []
    for subset in endpoints.get("subsets") or ():
        listed: list[Obj] = []
        for field, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(field) or ():
                endpoint: Obj = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
                for optional in ("nodeName", "hostname", "targetRef"):
                    if address.get(optional):
                        endpoint[optional] = address[optional]
                listed.append(endpoint)
        ports = [
            _port((one.get("name") or "", one["port"], one.get("protocol") or "TCP", one.get("appProtocol") or ""))
            for one in subset.get("ports") or ()
        ]
        if listed:
            parts.append((ports, listed))
    labels = {
        **{key: value for key, value in meta.labels(endpoints).items() if key != HEADLESS},
        SERVICE_NAME: meta.name(service),
        MANAGED_BY: _MIRROR,
    }
    return _cut(endpoints, labels, parts)


def _cut(owner: Obj, labels: Mapping[str, str], parts: Sequence[tuple[list[Obj], list[Obj]]]) -> list[Obj]:
    """Slices of at most `SLICE_SIZE` endpoints; one without endpoints if there are none, so that watchers see that."""
    pieces = [
        (ports, listed[start : start + SLICE_SIZE])
        for ports, listed in parts
        for start in range(0, len(listed), SLICE_SIZE)
    ]
    return [
        {
            "apiVersion": ENDPOINT_SLICES.api_version,
            "kind": ENDPOINT_SLICES.kind,
            "metadata": {
                "name": _slice_name(owner, number),
                "namespace": meta.namespace(owner),
                "labels": dict(labels),
                "ownerReferences": [meta.owner_reference(owner)],
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": listed,
        }
        for number, (ports, listed) in enumerate(pieces or [([], [])])
    ]


def _slice_name(owner: Obj, number: int) -> str:
    """The same slice has the same name every time: no second one can be made because a cache was behind."""
    suffix = hashlib.sha256(f"{meta.key(owner)} {number}".encode()).hexdigest()[:5]
    return f"{meta.name(owner)}-{suffix}"


def _port(port: tuple[str, int, str, str], *, bare: bool = False) -> Obj:
    name, number, protocol, application = port
    made: Obj = {"port": number, "protocol": protocol}
    if name or not bare:
        made["name"] = name
    if application:
        made["appProtocol"] = application
    return made


def _labels(service: Obj) -> dict[str, str]:
    headless = {HEADLESS: ""} if at(service, "spec", "clusterIP") == "None" else {}
    return {**meta.labels(service), **headless}


def _visible(pod: Obj | None) -> Any:
    """All that endpoints depend on; a change of anything else is none of our business."""
    if pod is None:
        return None
    return (
        meta.labels(pod),
        at(pod, "status", "podIP"),
        at(pod, "status", "phase") in ("Succeeded", "Failed"),
        at(pod, "spec", "nodeName"),
        pods.is_ready(pod),
        meta.is_deleting(pod),
    )


class EndpointsController:
    """Keeps Endpoints and EndpointSlices of all Services."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._pods = informers.of(PODS)
        self._services = informers.of(SERVICES, indexers={_BY_SELECTOR: _selector_pair})
        self._endpoints = informers.of(ENDPOINTS)
        self._slices = informers.of(ENDPOINT_SLICES, indexers={_BY_SERVICE: _service_of_slice})
        self._announced: dict[str, str] = {}
        """Addresses by pod uid that the API server does not show yet."""
        self.controller = Controller("endpoints", self._reconcile, workers=16)
        self.name = self.controller.name
        self._services.add_handler(enqueue_self(self.controller))
        self._endpoints.add_handler(enqueue_self(self.controller))
        self._slices.add_handler(self._slice_changed)
        self._pods.add_handler(self._pod_changed)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        await self.controller.run()

    def announce(self, pod: Obj, address: str) -> None:
        """List a pod's address already while its status is being written: one API call less on the path of a cold
        start. The node calls this in the turn of the event loop in which it gives the address."""
        self._announced[meta.uid(pod)] = address
        for service in self._selecting(pod):
            self.controller.enqueue(Key.of(service))

    def _known(self, pod: Obj) -> Obj:
        """The pod, with its address."""
        address = self._announced.get(meta.uid(pod))
        if address is None or at(pod, "status", "podIP"):
            return pod
        return {**pod, "status": {**(pod.get("status") or {}), "podIP": address}}

    def _slice_changed(self, change: Change) -> None:
        service = meta.labels(change.object).get(SERVICE_NAME)
        if service:
            self.controller.enqueue(Key(meta.namespace(change.object), service), slow=change.resync)

    def _pod_changed(self, change: Change) -> None:
        if change.type == "deleted" or at(change.object, "status", "podIP"):
            self._announced.pop(meta.uid(change.object), None)
        if change.type == "updated" and _visible(change.old) == _visible(change.object):
            return
        for pod in (change.object, change.old):
            if pod is not None:
                for service in self._selecting(pod):
                    self.controller.enqueue(Key.of(service), slow=change.resync)

    def _selecting(self, pod: Obj) -> list[Obj]:
        labels, space = meta.labels(pod), meta.namespace(pod)
        candidates = (
            service
            for pair in labels.items()
            for service in self._services.by_index(_BY_SELECTOR, f"{space}/{pair[0]}={pair[1]}")
        )
        return [one for one in candidates if meta.matches(at(one, "spec", "selector", default={}), labels)]

    async def _reconcile(self, key: Key) -> None:
        service = self._services.get(key.name, key.namespace)
        endpoints = self._endpoints.get(key.name, key.namespace)
        if service is None or meta.is_deleting(service) or at(service, "spec", "type") == "ExternalName":
            await self._remove(key, service)
            return
        selector = at(service, "spec", "selector", default={})
        if not selector:
            # Without Endpoints there is nothing to mirror; slices that somebody else made stay.
            skip = endpoints is None or meta.labels(endpoints).get(SKIP_MIRROR) == "true"
            await self._write_slices(key, [] if skip or endpoints is None else mirrored(service, endpoints), _MIRROR)
            return
        chosen = [self._known(pod) for pod in self._pods.list(key.namespace, selector)]
        wanted: Obj = {
            "apiVersion": ENDPOINTS.api_version,
            "kind": ENDPOINTS.kind,
            "metadata": {"name": key.name, "namespace": key.namespace, "labels": _labels(service)},
            "subsets": subsets(service, chosen),
        }
        # Both at once: watchers of one need not wait for the other.
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write(ENDPOINTS, wanted, endpoints, ("subsets",)))
            group.create_task(self._write_slices(key, slices(service, chosen), _SLICER))

    async def _write_slices(self, key: Key, wanted: Sequence[Obj], manager: str) -> None:
        present = {
            meta.name(one): one
            for one in self._slices.by_index(_BY_SERVICE, str(key))
            if meta.labels(one).get(MANAGED_BY) == manager
        }
        for one in wanted:
            await self._write(ENDPOINT_SLICES, one, present.pop(meta.name(one), None), ("ports", "endpoints"))
        for name in present:
            await self._delete(ENDPOINT_SLICES, name, key.namespace)

    async def _write(self, resource: Resource, wanted: Obj, present: Obj | None, fields: Sequence[str]) -> None:
        key = Key.of(wanted)
        if present is None:
            try:
                await self._client.create(resource, wanted)
                return
            except AlreadyExists:
                present = await self._client.get(resource, key.name, key.namespace)
        labels = wanted["metadata"]["labels"]
        found = meta.labels(present)
        same = all((present.get(field) or []) == wanted[field] for field in fields)
        if same and found == labels:
            return
        gone = dict.fromkeys(found.keys() - labels.keys())
        patch: Obj = {"metadata": {"labels": {**labels, **gone}}, **{field: wanted[field] for field in fields}}
        try:
            await self._client.patch(resource, key.name, patch, key.namespace)
        except NotFound:
            await self._client.create(resource, wanted)

    async def _remove(self, key: Key, service: Obj | None) -> None:
        """The Service is gone, or has no addresses: what we made for it goes. Slices go with their owner."""
        endpoints = self._endpoints.get(key.name, key.namespace)
        if endpoints is not None and service is None and not meta.controller_of(endpoints):
            await self._delete(ENDPOINTS, key.name, key.namespace)
        for one in self._slices.by_index(_BY_SERVICE, str(key)):
            if meta.labels(one).get(MANAGED_BY) in (_SLICER, _MIRROR):
                await self._delete(ENDPOINT_SLICES, meta.name(one), key.namespace)

    async def _delete(self, resource: Resource, name: str, namespace: str) -> None:
        try:
            await self._client.delete(resource, name, namespace)
        except NotFound:
            return


def _selector_pair(service: Obj) -> list[str]:
    """Index key: the alphabetically first pair of the selector; a pod that matches the selector has it among its
    labels."""
    selector = at(service, "spec", "selector", default={})
    if not selector:
        return []
    label = min(selector)
    return [f"{meta.namespace(service)}/{label}={selector[label]}"]


def _service_of_slice(slice_: Obj) -> list[str]:
    service = meta.labels(slice_).get(SERVICE_NAME)
    return [str(Key(meta.namespace(slice_), service))] if service else []
