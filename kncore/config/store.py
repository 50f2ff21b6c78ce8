"""The configuration in force: one immutable value per ConfigMap, swapped as a whole.

Whoever watches the ConfigMaps calls `apply`; readers keep no copies, they read `store.autoscaler` when they need it,
so a change is live at the next decision. A ConfigMap that does not parse changes nothing: `apply` raises, the caller
reports it (an Event, a 400), and the last good value stays. One task writes, everybody reads; there is nothing to
lock.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, Self

from kncore.config.autoscaler import Autoscaler
from kncore.config.certmanager import CertManager
from kncore.config.defaults import Defaults
from kncore.config.deployment import Deployment
from kncore.config.domain import Domain
from kncore.config.features import Features
from kncore.config.gc import Gc
from kncore.config.leaderelection import LeaderElection
from kncore.config.logging import Logging
from kncore.config.network import Network
from kncore.config.observability import Observability

__all__ = ["NAMES", "Store", "parse"]


class _Parsed(Protocol):
    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self: ...


_KINDS: Final[Mapping[str, tuple[str, type[_Parsed]]]] = {
    "config-autoscaler": ("autoscaler", Autoscaler),
    "config-certmanager": ("certmanager", CertManager),
    "config-defaults": ("defaults", Defaults),
    "config-deployment": ("deployment", Deployment),
    "config-domain": ("domain", Domain),
    "config-features": ("features", Features),
    "config-gc": ("gc", Gc),
    "config-leader-election": ("leader_election", LeaderElection),
    "config-logging": ("logging", Logging),
    "config-network": ("network", Network),
    "config-observability": ("observability", Observability),
}

NAMES: Final = frozenset(_KINDS)
"""The ConfigMaps this store knows; others are none of its business."""


def parse(name: str, data: Mapping[str, str]) -> Any:
    """The typed value of a ConfigMap's data, without changing any store: what admission calls. None for an unknown
    name.

    Raises:
        ConfigError: naming every bad key.
    """
    return _KINDS[name][1].parse(data) if name in _KINDS else None


class Store:
    """The current configuration; starts with the defaults, which are Knative's."""

    def __init__(self) -> None:
        self.autoscaler = Autoscaler()
        self.certmanager = CertManager()
        self.defaults = Defaults()
        self.deployment = Deployment()
        self.domain = Domain()
        self.features = Features()
        self.gc = Gc()
        self.leader_election = LeaderElection()
        self.logging = Logging()
        self.network = Network()
        self.observability = Observability()
        self._subscribers: list[Callable[[str], None]] = []

    @classmethod
    def of(cls, config_maps: Mapping[str, Mapping[str, str]]) -> Self:
        """A store holding what these ConfigMaps (name to data) say.

        Raises:
            ConfigError: one of them is bad.
        """
        store = cls()
        for name, data in config_maps.items():
            store.apply(name, data)
        return store

    def apply(self, name: str, data: Mapping[str, str] | None) -> bool:
        """Put a ConfigMap's data in force; whether anything changed. Names this store does not know are ignored.

        Subscribers are told after the swap. `data` of None (the ConfigMap was deleted, or holds nothing) means the
        defaults.

        Raises:
            ConfigError: naming every bad key; the value in force stays.
        """
        if name not in _KINDS:
            return False
        field, kind = _KINDS[name]
        made = kind() if data is None else kind.parse(data)
        if made == getattr(self, field):
            return False
        setattr(self, field, made)
        for notify in tuple(self._subscribers):
            notify(name)
        return True

    def subscribe(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Have `notify(name)` called after each change, from within `apply`; call what is returned to stop."""
        self._subscribers.append(notify)
        return lambda: self._subscribers.remove(notify)
