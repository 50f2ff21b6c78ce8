"""Cluster IPs: which addresses Services get, and that no two get the same."""

import ipaddress
from typing import Protocol

__all__ = ["AddressPool", "ClusterIps"]


class ClusterIps(Protocol):
    """Who hands out the addresses of Services."""

    def allocate(self, wanted: str | None = None) -> str:
        """A free address, or exactly the wanted one.

        Raises:
            ValueError: the wanted address is taken or not in the range, or none is free.
        """

    def release(self, address: str) -> None:
        """The Service is gone; an address that was not allocated is ignored."""


class AddressPool:
    """Addresses of one network, handed out in order, each again only after a full turn.

    A released address rests until the others were used: a client that still holds it should not reach a stranger.
    """

    def __init__(self, network: str) -> None:
        self._network = ipaddress.ip_network(network)
        self._size = self._network.num_addresses - 2  # neither the network's nor the broadcast address
        self._next = 0
        self._taken: set[str] = set()

    def allocate(self, wanted: str | None = None) -> str:
        if wanted is not None:
            try:
                inside = ipaddress.ip_address(wanted) in self._network
            except ValueError:
                raise ValueError("must be a valid IP address") from None
            if not inside:
                raise ValueError(
                    f"failed to allocate IP {wanted}: the provided IP is not in the valid range. The range of valid "
                    f"IPs is {self._network}"
                )
            if wanted in self._taken:
                raise ValueError(f"failed to allocate IP {wanted}: provided IP is already allocated")
            self._taken.add(wanted)
            return wanted
        for _ in range(self._size):
            address = str(self._network[1 + self._next])
            self._next = (self._next + 1) % self._size
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise ValueError(f"failed to allocate a serviceIP: range {self._network} is full")

    def release(self, address: str) -> None:
        self._taken.discard(address)
