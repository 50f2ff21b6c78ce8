"""From the API server to the proxy: KIngresses become routes, Revisions become queues, EndpointSlices become pods.

Handlers of informers, synchronous and cheap: a change is in force when the handler returns. The last known state
stays in force while the API server is away, for the informers keep it.
"""

from collections.abc import Callable
from typing import Any

from activator.app import Proxy
from activator.backends import Backends, Endpoints
from activator.revision import Key, Revision, Settings
from kncore.api import keys, meta
from kncore.api.resources import ENDPOINT_SLICES, INGRESSES, REVISIONS, SERVICES
from kncore.kube.client import Obj
from kncore.kube.informer import Change
from kncore.kube.informers import Informers

__all__ = ["Sync", "endpoints_of", "settings_of"]

SERVICE_NAME = "kubernetes.io/service-name"
PRIVATE = f"{keys.SERVICE_TYPE}=Private"
PUBLIC = f"{keys.SERVICE_TYPE}=Public"
BY_SERVICE = "service"
PORT_NAMES = ("http", "http2")


def settings_of(revision: Obj) -> Settings:
    """What the proxy needs of a Revision."""
    spec = revision.get("spec") or {}
    return Settings(
        container_concurrency=int(spec.get("containerConcurrency") or 0),
        timeout=float(spec.get("timeoutSeconds") or 0),
        response_start_timeout=float(spec.get("responseStartTimeoutSeconds") or 0),
        idle_timeout=float(spec.get("idleTimeoutSeconds") or 0),
        probe_early=_may_probe_early(spec.get("containers") or []),
    )


def _may_probe_early(containers: list[Obj]) -> bool:
    """Whether our own probe may decide: not where only the kubelet can run the probe that does."""
    serving = next((one for one in containers if one.get("ports")), containers[0] if containers else {})
    return "exec" not in (serving.get("readinessProbe") or {}) and not any(
        one.get("startupProbe") for one in containers
    )


def endpoints_of(slices: list[Obj], cluster_ip: str) -> Endpoints:
    """All slices of one private Service together."""
    ready: set[str] = set()
    not_ready: set[str] = set()
    for slice_ in slices:
        port = next(
            (p["port"] for p in slice_.get("ports") or () if p.get("name") in PORT_NAMES and p.get("port")), None
        )
        if port is None:
            continue
        for endpoint in slice_.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            if conditions.get("terminating"):
                continue
            into = ready if conditions.get("ready", True) is not False else not_ready
            into.update(f"{address}:{port}" for address in endpoint.get("addresses") or ())
    return Endpoints(frozenset(ready), frozenset(not_ready - ready), cluster_ip)


def _service_key(slice_: Obj) -> list[str]:
    name = meta.labels(slice_).get(SERVICE_NAME)
    return [f"{meta.namespace(slice_)}/{name}"] if name else []


class Sync:
    """Registers the handlers; the informers must be synced before the listeners open.

    Args:
        make: a new revision for the proxy.
    """

    def __init__(
        self,
        informers: Informers,
        proxy: Proxy,
        backends: Backends,
        *,
        make: Callable[[Key, Settings], Revision],
    ) -> None:
        self._proxy = proxy
        self._backends = backends
        self._make = make
        self._revisions = informers.of(REVISIONS)
        self._private = informers.of(ENDPOINT_SLICES, labels=PRIVATE, indexers={BY_SERVICE: _service_key})
        self._public = informers.of(ENDPOINT_SLICES, labels=PUBLIC, indexers={BY_SERVICE: _service_key})
        self._services = informers.of(SERVICES, labels=PRIVATE)
        informers.of(INGRESSES).add_handler(self._ingress_changed)
        self._revisions.add_handler(self._revision_changed)
        self._private.add_handler(self._private_changed)
        self._public.add_handler(self._public_changed)

    def _ingress_changed(self, change: Change) -> None:
        if change.resync:
            return
        if change.type == "deleted":
            self._proxy.table.remove(change.key)
        else:
            self._proxy.table.put(change.object)

    def _revision_changed(self, change: Change) -> None:
        key: Key = change.key
        if change.type == "deleted":
            self._proxy.revisions.pop(key, None)
            self._backends.remove(key)
            return
        settings = settings_of(change.object)
        known = self._proxy.revisions.get(key)
        if known is not None and known.settings == settings:
            return
        made = self._proxy.revisions[key] = self._make(key, settings)
        self._backends.remove(key)
        self._backends.add(key, made, early=settings.probe_early)
        for slice_ in self._private.list(key[0], {keys.REVISION: key[1]}):
            self._update_private(slice_)
        for slice_ in self._public.list(key[0], {keys.REVISION: key[1]}):
            self._update_public(slice_)

    def _private_changed(self, change: Change) -> None:
        if not change.resync:
            self._update_private(change.object)

    def _update_private(self, slice_: Obj) -> None:
        key = _revision_of(slice_)
        names = _service_key(slice_)
        if key is None or not names:
            return
        service = self._services.get(names[0].partition("/")[2], key[0])
        address = _cluster_address(service)
        self._backends.update(key, endpoints_of(self._private.by_index(BY_SERVICE, names[0]), address))

    def _public_changed(self, change: Change) -> None:
        if not change.resync:
            self._update_public(change.object)

    def _update_public(self, slice_: Obj) -> None:
        key = _revision_of(slice_)
        revision = self._proxy.revisions.get(key) if key else None
        names = _service_key(slice_)
        if revision is None or not names:
            return
        addresses = {
            address
            for one in self._public.by_index(BY_SERVICE, names[0])
            for endpoint in one.get("endpoints") or ()
            if (endpoint.get("conditions") or {}).get("ready", True) is not False
            for address in endpoint.get("addresses") or ()
        }
        revision.throttler.update_activators(addresses)


def _revision_of(obj: Obj) -> Key | None:
    name = meta.labels(obj).get(keys.REVISION)
    return (meta.namespace(obj), name) if name else None


def _cluster_address(service: Obj | None) -> str:
    """`ip:port` of a private Service's HTTP port; "" if it has no address of its own."""
    address = meta.at(service, "spec", "clusterIP", default="")
    if address in ("", "None"):
        return ""
    ports: list[dict[str, Any]] = meta.at(service, "spec", "ports", default=[])
    port = next((p["port"] for p in ports if p.get("name") in PORT_NAMES), None)
    return f"{address}:{port}" if port else ""
