"""ConfigMaps of the system namespace -> the configuration in force, live.

Most are parsed by `kncore.config`; `config-logging` only travels through here, into the environment of queue-proxies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from kncore.api import meta
from kncore.api.resources import CONFIG_MAPS
from kncore.config.store import Store
from kncore.kube import configs
from kncore.kube.informer import Change
from kncore.kube.informers import Informers

__all__ = ["CurrentLogging", "Logging", "follow"]

_LOGGING = "config-logging"


@dataclass(frozen=True, kw_only=True)
class Logging:
    """ConfigMap config-logging, the part that queue-proxies are given."""

    config: str = ""
    """The zap configuration, JSON; handed on as it is."""
    queue_proxy_level: str = ""

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """From the ConfigMap's data; nothing in it can be wrong for us."""
        return cls(
            config=data.get("zap-logger-config", ""), queue_proxy_level=data.get("loglevel.queueproxy", "").strip()
        )


class CurrentLogging:
    """The value in force; swapped as a whole."""

    def __init__(self, value: Logging | None = None) -> None:
        self.value = value or Logging()

    def apply(self, data: Mapping[str, str]) -> bool:
        """Put a ConfigMap's data in force; says whether anything changed."""
        parsed = Logging.parse(data)
        changed, self.value = parsed != self.value, parsed
        return changed


def follow(
    informers: Informers,
    store: Store,
    current: CurrentLogging,
    events: configs.Events,
    namespace: str,
    changed: Callable[[str], None],
) -> None:
    """Keep the configuration equal to the ConfigMaps.

    A ConfigMap that does not parse leaves the last good value in force and gets a Warning Event.

    Args:
        changed: called with the ConfigMap's name after a change of config-logging; `store` has subscribers of its own.
    """

    def handle(change: Change) -> None:
        if meta.name(change.object) == _LOGGING:
            data = {} if change.type == "deleted" else change.object.get("data") or {}
            if current.apply(data):
                changed(_LOGGING)

    configs.follow(informers, store, namespace, events)
    informers.of(CONFIG_MAPS, namespace).add_handler(handle)
