"""ConfigMaps of the system namespace -> the configuration in force, live, for every component alike."""

import logging
from typing import Literal, Protocol

from kncore.api import meta
from kncore.api.resources import CONFIG_MAPS
from kncore.config.store import NAMES, Store
from kncore.errors import ConfigError
from kncore.kube.client import Obj
from kncore.kube.informer import Change
from kncore.kube.informers import Informers

__all__ = ["Events", "follow"]

logger = logging.getLogger(__name__)

# There is no default for the sidecar's image: without its ConfigMap the last good value is all there is.
_WITHOUT_DEFAULT = frozenset({"config-deployment"})


class Events(Protocol):
    """Where a refused ConfigMap is reported: a `kncore.kube.events.Recorder`."""

    def event(self, obj: Obj, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Record an Event about an object."""


def follow(informers: Informers, store: Store, namespace: str, events: Events | None = None) -> None:
    """Keep the store equal to the ConfigMaps; whoever must know of changes subscribes to the store.

    One that does not parse leaves the last good value in force and is reported in the log, and as a Warning Event on
    the ConfigMap if `events` is given. One component of a platform gives it; all see the same ConfigMaps.

    Args:
        informers: watch the ConfigMaps of `namespace`; the store is complete when they are synced.
        namespace: the system namespace.
    """

    def handle(change: Change) -> None:
        name = meta.name(change.object)
        if change.resync or name not in NAMES:
            return
        deleted = change.type == "deleted"
        if deleted and name in _WITHOUT_DEFAULT:
            return
        try:
            store.apply(name, None if deleted else change.object.get("data") or {})
        except ConfigError as exc:
            logger.error("ConfigMap refused", extra={"configmap": name, "error": str(exc)})
            if events is not None:
                events.event(change.object, "Warning", "InvalidConfiguration", str(exc))

    informers.of(CONFIG_MAPS, namespace).add_handler(handle)
