"""From the API server to the proxy: KIngresses become routes, Revisions become queues, EndpointSlices become pods.

Handlers of informers, synchronous and cheap: a change is in force when the handler returns. They may come in any
order (a slice before its Revision, a Service after its slices), so each looks up what else is known. The last known
state stays in force while the API server is away, for the informers keep it.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from activator.app import Proxy
from activator.backends import Backends, Endpoints
from activator.revision import Key, Revision, Settings
from kncore.api import keys, meta
from kncore.api.resources import ENDPOINT_SLICES, INGRESSES, REVISIONS, SERVICES
from kncore.kube.client import Obj
from kncore.kube.informer import Change
from kncore.kube.informers import Informers

__all__ = ["Sync", "activators_of", "endpoints_of", "settings_of"]

PRIVATE: Final = f"{keys.SERVICE_TYPE}=Private"
PUBLIC: Final = f"{keys.SERVICE_TYPE}=Public"
BY_REVISION: Final = "revision"
PORT_NAMES: Final = ("http", "http2")


def settings_of(revision: Obj) -> Settings:
    """What the proxy needs of a Revision."""
    spec = revision.get("spec") or {}
    labels = meta.labels(revision)
    return Settings(
        container_concurrency=int(spec.get("containerConcurrency") or 0),
        timeout=float(spec.get("timeoutSeconds") or 0),
        response_start_timeout=float(spec.get("responseStartTimeoutSeconds") or 0),
        idle_timeout=float(spec.get("idleTimeoutSeconds") or 0),
        probe_early=_may_probe_early(spec.get("containers") or []),
        http2=_speaks_http2(spec.get("containers") or []),
        service=labels.get(keys.SERVICE, ""),
        configuration=labels.get(keys.CONFIGURATION, ""),
    )


def _may_probe_early(containers: list[Obj]) -> bool:
    """Whether our own probe may decide: not where only the kubelet can run the probe that does."""
    serving = next((one for one in containers if one.get("ports")), containers[0] if containers else {})
    return "exec" not in (serving.get("readinessProbe") or {}) and not any(
        one.get("startupProbe") for one in containers
    )


def _speaks_http2(containers: list[Obj]) -> bool:
    """Whether the serving container's port is named `h2c`, as the controllers decide it too (serving §6.1)."""
    ports = next((one["ports"] for one in containers if one.get("ports")), ())
    return any(port.get("name") == "h2c" for port in ports[:1])


def endpoints_of(slices: Iterable[Obj], cluster_ip: str) -> Endpoints:
    """All slices of one private Service together; a pod that is being stopped is not among them."""
    ready: set[str] = set()
    not_ready: set[str] = set()
    for slice_ in slices:
        port = _port(slice_.get("ports"))
        if port is None:
            continue
        for endpoint in slice_.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            if conditions.get("terminating"):
                continue
            into = not_ready if conditions.get("ready") is False else ready
            into.update(_join(address, port) for address in endpoint.get("addresses") or ())
    return Endpoints(frozenset(ready), frozenset(not_ready - ready), cluster_ip)


def activators_of(slices: Iterable[Obj]) -> set[str]:
    """The IPs behind one public Service: activators, or the pods themselves."""
    return {
        address
        for slice_ in slices
        if _port(slice_.get("ports")) is not None
        for endpoint in slice_.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint.get("addresses") or ()
    }


def _port(ports: list[dict[str, Any]] | None) -> int | None:
    """The number of the port that requests go to, among all that a Service has."""
    return next((port["port"] for port in ports or () if port.get("name") in PORT_NAMES and port.get("port")), None)


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _revision_of(obj: Obj) -> Key | None:
    name = meta.labels(obj).get(keys.REVISION)
    return (meta.namespace(obj), name) if name else None


def _by_revision(obj: Obj) -> list[str]:
    key = _revision_of(obj)
    return ["/".join(key)] if key else []


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
        indexers = {BY_REVISION: _by_revision}
        self._private = informers.of(ENDPOINT_SLICES, labels=PRIVATE, indexers=indexers)
        self._public = informers.of(ENDPOINT_SLICES, labels=PUBLIC, indexers=indexers)
        self._services = informers.of(SERVICES, labels=PRIVATE, indexers=indexers)
        informers.of(INGRESSES).add_handler(self._ingress_changed)
        informers.of(REVISIONS).add_handler(self._revision_changed)
        self._private.add_handler(self._private_changed)
        self._services.add_handler(self._service_changed)
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
        known = self._proxy.revisions.get(key)
        if change.type == "deleted":
            self._backends.remove(key)
            if known is not None:
                del self._proxy.revisions[key]
                known.close()
            return
        settings = settings_of(change.object)
        if known is None:
            made = self._proxy.revisions[key] = self._make(key, settings)
            self._backends.add(key, made, early=settings.probe_early)
            self._update_private(key)
            self._update_public(key)
        elif known.settings != settings:
            known.change(settings)
            self._backends.add(key, known, early=settings.probe_early)

    def _private_changed(self, change: Change) -> None:
        if not change.resync and (key := _revision_of(change.object)):
            self._update_private(key)

    def _service_changed(self, change: Change) -> None:
        if not change.resync and (key := _revision_of(change.object)):
            self._update_private(key)

    def _update_private(self, key: Key) -> None:
        """Where a revision's pods are, and the address of the Service in front of them."""
        slices = self._private.by_index(BY_REVISION, "/".join(key))
        services = self._services.by_index(BY_REVISION, "/".join(key))
        self._backends.update(key, endpoints_of(slices, _cluster_address(services[0] if services else None)))

    def _public_changed(self, change: Change) -> None:
        if not change.resync and (key := _revision_of(change.object)):
            self._update_public(key)

    def _update_public(self, key: Key) -> None:
        """Which activators share a revision's pods."""
        revision = self._proxy.revisions.get(key)
        if revision is not None:
            revision.throttler.update_activators(activators_of(self._public.by_index(BY_REVISION, "/".join(key))))


def _cluster_address(service: Obj | None) -> str:
    """`ip:port` of a private Service's HTTP port; "" if it has no address of its own."""
    address = meta.at(service, "spec", "clusterIP", default="")
    port = _port(meta.at(service, "spec", "ports", default=[]))
    return _join(address, port) if port and address not in ("", "None") else ""
