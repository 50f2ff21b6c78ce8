"""What tenants share in one activator, and how much of it one of them may have (knative/serving#12533, #13583).

A tenant is a namespace. Three things are shared by all: the processor (`kncore.net.overload`), the room to wait in,
and the connections of the listeners.

Room: requests that wait for pods are bounded per revision (`activator.throttler`), and here in all. The last part of a
full room would go to whoever asks most often, so a tenant may hold as many places, and as many bytes, as are still
free: alone at most half of the room, two greedy ones a third each; and whoever comes new always finds room. (Source:
Choudhury and Hahne, Dynamic queue length thresholds for shared-memory packet switches, 1998.)

Connections: while a listener is nearly full of them, a tenant that has half of its connections busy gets no more
requests in. What it is refused on is idle then, and idle connections make room for others (`kncore.net.server`).

Whoever has a revision holds its tenant; the last one to let go ends it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from kncore.errors import ProxyError
from kncore.net.overload import Party, Turns

__all__ = ["ROOM_BYTES", "ROOM_REQUESTS", "Crowded", "Held", "Listener", "Statistics", "Tenant", "Tenants"]

ROOM_REQUESTS: Final = 40_000
"""Requests waiting for pods, of all revisions; a quarter of it is what one revision may have."""
ROOM_BYTES: Final = 256 * 1024 * 1024
"""Of their bodies."""


NEARLY_FULL: Final = 0.75
SHARE: Final = 0.5
"""Of a listener's connections: when it counts as nearly full, and what one tenant may have busy then."""


class Crowded(ProxyError):
    """The listeners are nearly full, and the tenant has more than its share."""

    status: ClassVar[int] = 503

    def __init__(self) -> None:
        super().__init__("too many requests of this namespace under way")


class Held(Protocol):
    """A throttler, to its tenant."""

    @property
    def held(self) -> int:
        """Requests under way, waiting ones included."""


class Bound(Protocol):
    """The limits of a listener."""

    @property
    def connections(self) -> int: ...


class Listener(Protocol):
    """A `kncore.net.server.Server`."""

    @property
    def limits(self) -> Bound: ...

    @property
    def connections(self) -> int:
        """Connections there are."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """All tenants at one moment; `refused` counts since the start."""

    tenants: int
    waiting: int
    waiting_bytes: int
    refused: int
    """Requests for which there was no room, or which would have taken more than a tenant's share."""


class Tenant:
    """One namespace's part; made by `Tenants.enter`."""

    __slots__ = ("_tenants", "name", "party", "revisions", "throttlers", "waiting", "waiting_bytes")

    def __init__(self, tenants: "Tenants", name: str, weight: int) -> None:
        self.name = name
        self.party = Party(weight)
        self.revisions = 0
        """How many hold it."""
        self.throttlers: set[Held] = set()
        """Theirs."""
        self.waiting = 0
        self.waiting_bytes = 0
        self._tenants = tenants

    def judge(self) -> None:
        """Refuse one more request while the listeners are nearly full; asked only then.

        Raises:
            Crowded: it has its share.
        """
        if sum(throttler.held for throttler in self.throttlers) >= self._tenants.share:
            self._tenants.refused += 1
            raise Crowded

    def hold(self, size: int, *, always: bool = False) -> bool:
        """Take room for one more request that waits; False if that would be more than its share.

        Args:
            always: of one that had a place already.
        """
        room = self._tenants
        if not always and (
            self.waiting >= room.requests - room.waiting or self.waiting_bytes + size > room.bytes - room.waiting_bytes
        ):
            room.refused += 1
            return False
        self.waiting += 1
        self.waiting_bytes += size
        room.waiting += 1
        room.waiting_bytes += size
        return True

    def free(self, size: int) -> None:
        """It does not wait any more."""
        self.waiting -= 1
        self.waiting_bytes -= size
        room = self._tenants
        room.waiting -= 1
        room.waiting_bytes -= size


class Tenants:
    """All tenants of an activator.

    Args:
        turns: the event loop's processor; None shares none, for tests without a loop.
        weights: due of a namespace against others, 1 if it is not named.
    """

    def __init__(
        self,
        turns: Turns | None = None,
        *,
        weights: Mapping[str, int] | None = None,
        requests: int = ROOM_REQUESTS,
        bytes: int = ROOM_BYTES,
    ) -> None:
        self.turns = turns
        self.requests = requests
        self.bytes = bytes
        self.waiting = 0
        self.waiting_bytes = 0
        self.refused = 0
        self.share = 0
        """Requests that one tenant may have under way while a listener is nearly full; 0 while none is."""
        self._weights = weights or {}
        self._tenants: dict[str, Tenant] = {}

    def enter(self, namespace: str) -> Tenant:
        """The tenant, for one more revision of it."""
        tenant = self._tenants.get(namespace)
        if tenant is None:
            tenant = self._tenants[namespace] = Tenant(self, namespace, self._weights.get(namespace, 1))
        tenant.revisions += 1
        return tenant

    def leave(self, tenant: Tenant) -> None:
        """One revision less. What still waits frees its room through the tenant it took it from."""
        tenant.revisions -= 1
        if not tenant.revisions and self._tenants.get(tenant.name) is tenant:
            del self._tenants[tenant.name]

    def look(self, listeners: Iterable[Listener]) -> None:
        """See how full the listeners are; for a ticker."""
        self.share = min(
            (
                int(listener.limits.connections * SHARE)
                for listener in listeners
                if listener.connections > listener.limits.connections * NEARLY_FULL
            ),
            default=0,
        )

    def statistics(self) -> Statistics:
        """What is held now."""
        return Statistics(
            tenants=len(self._tenants),
            waiting=self.waiting,
            waiting_bytes=self.waiting_bytes,
            refused=self.refused,
        )
