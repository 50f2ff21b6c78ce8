"""What tenants share in one activator, and how much of it one of them may have (knative/serving#12533, #13583).

A tenant is a namespace. Two things are shared by all: the processor (`kncore.net.overload`) and the room to wait in.

Room: requests that wait for pods are bounded per revision (`activator.throttler`), and here in all. The last part of a
full room would go to whoever asks most often, so a tenant may hold as many places, and as many bytes, as are still
free: alone at most half of the room, two greedy ones a third each; and whoever comes new always finds room. (Source:
Choudhury and Hahne, Dynamic queue length thresholds for shared-memory packet switches, 1998.)

Whoever has a revision holds its tenant; the last one to let go ends it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kncore.net.overload import Party, Turns

__all__ = ["ROOM_BYTES", "ROOM_REQUESTS", "Statistics", "Tenant", "Tenants"]

ROOM_REQUESTS: Final = 40_000
"""Requests waiting for pods, of all revisions; a quarter of it is what one revision may have."""
ROOM_BYTES: Final = 256 * 1024 * 1024
"""Of their bodies."""


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

    __slots__ = ("_tenants", "name", "party", "revisions", "waiting", "waiting_bytes")

    def __init__(self, tenants: "Tenants", name: str, weight: int) -> None:
        self.name = name
        self.party = Party(weight)
        self.revisions = 0
        """How many hold it."""
        self.waiting = 0
        self.waiting_bytes = 0
        self._tenants = tenants

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

    def statistics(self) -> Statistics:
        """What is held now."""
        return Statistics(
            tenants=len(self._tenants),
            waiting=self.waiting,
            waiting_bytes=self.waiting_bytes,
            refused=self.refused,
        )
