"""ConfigMaps and Secrets that pods refer to: from a cache if it knows them, else asked for.

The cache keeps the start of a pod free of API calls; the question on a miss covers an object that was created a moment
before the pod. What was asked for once is then found in the cache, whose informer follows all of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.api.resources import CONFIG_MAPS, SECRETS, Resource
from kncore.kube.client import Client
from kncore.kube.errors import ApiError, NotFound
from kncore.kube.informer import Change, Informer
from kncore.kube.informers import Informers
from torpor.embedded.node.environment import References

__all__ = ["Objects", "referenced"]


def referenced(pod: Obj) -> Iterator[tuple[Resource, str]]:
    """Every ConfigMap and Secret that the pod's environment and volumes name."""
    for group in ("containers", "initContainers"):
        for container in at(pod, "spec", group, default=[]):
            for source in container.get("envFrom") or ():
                yield from _named(source, "configMapRef", "secretRef", "name")
            for one in container.get("env") or ():
                yield from _named(one.get("valueFrom") or {}, "configMapKeyRef", "secretKeyRef", "name")
    for volume in at(pod, "spec", "volumes", default=[]):
        yield from _named(volume, "configMap", "", "name")
        yield from _named(volume, "", "secret", "secretName")
        for source in at(volume, "projected", "sources", default=[]):
            yield from _named(source, "configMap", "secret", "name")


def _named(source: Obj, config_map: str, secret: str, key: str) -> Iterator[tuple[Resource, str]]:
    for field_, resource in ((config_map, CONFIG_MAPS), (secret, SECRETS)):
        if field_ and source.get(field_) and source[field_].get(key):
            yield resource, source[field_][key]


@dataclass
class Objects:
    """Looks up ConfigMaps and Secrets of any namespace."""

    client: Client
    informers: Informers
    _caches: dict[Resource, Informer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._caches = {resource: self.informers.of(resource) for resource in (CONFIG_MAPS, SECRETS)}

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Call `changed(namespace)` when a ConfigMap or Secret there appears, changes or goes."""

        def handle(change: Change) -> None:
            if not change.resync:
                changed(meta.namespace(change.object))

        for cache in self._caches.values():
            cache.add_handler(handle)

    async def resolve(self, pod: Obj) -> References:
        """Everything the pod refers to, looked up now; awaits only what the cache does not have."""
        space = meta.namespace(pod)
        found: dict[tuple[Resource, str], Obj | None] = {}
        for resource, name in referenced(pod):
            if (resource, name) not in found:
                known = self._caches[resource].get(name, space)
                found[resource, name] = known if known is not None else await self._ask(resource, name, space)
        return References(
            config_map=lambda name: found.get((CONFIG_MAPS, name)), secret=lambda name: found.get((SECRETS, name))
        )

    async def _ask(self, resource: Resource, name: str, namespace: str) -> Obj | None:
        try:
            return await self.client.get(resource, name, namespace)
        except NotFound:
            return None
        except ApiError:
            # The server is away: as if missing, the container waits and asks again.
            return None
