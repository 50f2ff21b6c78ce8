"""This machine's loopback network as the cluster's: every instance of the platform has a /16 of 127/8 to itself.

On Linux all of 127/8 is loopback without any set-up, so pods and Services can have addresses of their own, and ports
are the same as in a cluster. Who has which /16 is agreed on through abstract Unix sockets: their names vanish with the
process that holds them, however it ends, so a lease is never stale.
"""

import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from kncore.errors import KnError

__all__ = ["Addresses", "Exhausted", "Network", "NetworkUnavailable", "Ports", "claim_network", "find_network"]

FIRST, LAST = 2, 250
PORT_RANGE = (20000, 31999)
"""Ports that user containers are told to listen on; below Linux's range for outgoing connections (32768..60999)."""


class NetworkUnavailable(KnError):
    """This machine has no free loopback network for us."""


class Exhausted(KnError):
    """There are more pods, Services or ports than addresses."""


@dataclass(frozen=True)
class Network:
    """The addresses of one instance, all below `127.<number>`."""

    number: int
    lease: socket.socket | None = field(default=None, repr=False, compare=False)
    """Holds the number; None where another process does."""

    @property
    def prefix(self) -> str:
        """`127.<number>`; what `TORPOR_NET` says."""
        return f"127.{self.number}"

    @property
    def node(self) -> str:
        """The node's own address, `hostIP` of its pods."""
        return f"{self.prefix}.0.1"

    @property
    def autoscaler(self) -> str:
        """Where the autoscaler takes stats."""
        return f"{self.prefix}.0.2"

    @property
    def activator(self) -> str:
        """The activator's own address."""
        return f"{self.prefix}.0.3"

    @property
    def cluster_ips(self) -> ipaddress.IPv4Network:
        """Addresses of Services."""
        return ipaddress.IPv4Network(f"{self.prefix}.64.0/18")

    @property
    def pod_ips(self) -> ipaddress.IPv4Network:
        """Addresses of pods."""
        return ipaddress.IPv4Network(f"{self.prefix}.128.0/17")

    def release(self) -> None:
        """Give the number back."""
        if self.lease is not None:
            self.lease.close()


def claim_network(preferred: int | None = None) -> Network:
    """A /16 of loopback addresses that no other instance on this machine uses, held until `release` or our end.

    Args:
        preferred: the number to take if it is free: the one of the last run, so that Services keep their addresses.

    Raises:
        NetworkUnavailable: not Linux, or 249 instances run.
    """
    if sys.platform != "linux":
        raise NetworkUnavailable("pods need loopback addresses in 127/8, which only Linux has without set-up")
    numbers = range(FIRST, LAST + 1)
    for number in (preferred, *numbers) if preferred in numbers else numbers:
        lease = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            lease.bind(f"\0torpor-net-{number}")
        except OSError as exc:
            lease.close()
            if exc.errno != errno.EADDRINUSE:
                raise NetworkUnavailable(f"cannot reserve a loopback network: {exc.strerror}") from exc
            continue
        return Network(number, lease)
    raise NetworkUnavailable(f"all loopback networks 127.{FIRST} to 127.{LAST} are taken by other instances")


def find_network(environ: Mapping[str, str] = os.environ) -> Network:
    """The network that the supervisor claimed for us and named in `TORPOR_NET`.

    Raises:
        NetworkUnavailable: the variable is missing or not of the form `127.<2..250>`.
    """
    first, _, second = environ.get("TORPOR_NET", "").partition(".")
    if first != "127" or not second.isdecimal() or not FIRST <= int(second) <= LAST:
        raise NetworkUnavailable(f"TORPOR_NET={environ.get('TORPOR_NET')!r} is not 127.<{FIRST}..{LAST}>")
    return Network(int(second))


class Addresses:
    """Hands out the addresses of a range; one that was given back is the last to be handed out again.

    Late reuse matters: a proxy may still have connections, or a probe under way, to the pod that had it before.
    """

    def __init__(self, network: ipaddress.IPv4Network) -> None:
        self._network = network
        self._used: set[str] = set()
        self._next = 1  # .0 would look like a network

    def reserve(self, address: str) -> bool:
        """Mark an address that is in use already; False if it is not of this range or is taken."""
        try:
            known = ipaddress.IPv4Address(address) in self._network
        except ipaddress.AddressValueError:
            return False
        if not known or address in self._used:
            return False
        self._used.add(address)
        return True

    def take(self) -> str:
        """A free address.

        Raises:
            Exhausted: there is none.
        """
        size = self._network.num_addresses
        for _ in range(size):
            address = str(self._network[self._next])
            self._next = self._next % (size - 2) + 1
            if address not in self._used:
                self._used.add(address)
                return address
        raise Exhausted(f"all {size} addresses of {self._network} are in use")

    def free(self, address: str) -> None:
        """Give an address back."""
        self._used.discard(address)

    def __len__(self) -> int:
        return len(self._used)


class Ports:
    """Hands out TCP ports that are free on this machine, in turn, so that one is not reused soon.

    Between handing a port out and the app listening on it, nobody can see that it is taken; another instance would
    hand it out too, and a probe of the one app would be answered by the other. So a port is leased like a network, by
    the name of an abstract socket (where there are such).
    """

    def __init__(self, low: int = PORT_RANGE[0], high: int = PORT_RANGE[1], *, start: int = 0) -> None:
        self._low = low
        self._count = high - low + 1
        self._next = start % self._count
        self._used: dict[int, int | None] = {}

    def reserve(self, port: int) -> None:
        """Mark a port that one of our containers has already."""
        if port not in self._used:
            self._used[port] = _lease(port)

    def take(self) -> int:
        """A port nobody listens on.

        Raises:
            Exhausted: there is none.
        """
        for _ in range(self._count):
            port = self._low + self._next
            self._next = (self._next + 1) % self._count
            if port in self._used or not _is_free(port):
                continue
            lease = _lease(port)
            if lease is not None or sys.platform != "linux":
                self._used[port] = lease
                return port
        raise Exhausted(f"no free port from {self._low} to {self._low + self._count - 1}")

    def free(self, port: int) -> None:
        """Give a port back."""
        lease = self._used.pop(port, None)
        if lease is not None:
            os.close(lease)

    def __len__(self) -> int:
        return len(self._used)


def _lease(port: int) -> int | None:
    """The descriptor that holds the port's name among all instances on this machine; None if another one has it."""
    if sys.platform != "linux":
        return None
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lease.bind(f"\0torpor-port-{port}")
    except OSError:
        lease.close()
        return None
    return lease.detach()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose connections linger in TIME_WAIT is free to listen on.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
