"""Addresses that requests go to, and their connections: opened when first needed, given up when nobody needs them.

Pods come and go all day, so whoever stops using an address says so, and the pool forgets it. An address is counted,
because the kernel may give a new pod the IP of an old one before we heard that the old one is gone. Pods of a revision
whose port is named `h2c` are spoken to in HTTP/2, all others in HTTP/1.1, whatever their clients speak.
"""

import re
from collections import Counter, OrderedDict
from typing import Final, Generic, Protocol, TypeVar

from kncore.net.exchange import Upstream

__all__ = ["ELSEWHERE", "Connections", "Upstreams", "split_address"]

ELSEWHERE: Final = 256
"""Hosts of the outside world whose connections are kept."""

_HOST: Final = re.compile(r"(?=.{1,253}$)[\w-]{1,63}(?:\.[\w-]{1,63})*|\[[0-9A-Fa-f:.]{2,45}\]", re.ASCII)
U = TypeVar("U", bound=Upstream)


class Connections(Protocol[U]):
    """A `kncore.net.pool.Pool`."""

    def upstream(self, host: str, port: int, *, http2: bool = False) -> U:
        """The address's connections."""

    def forget(self, upstream: U) -> None:
        """Keep none of them; what is in flight ends undisturbed."""


class Upstreams(Generic[U]):
    """The addresses in use."""

    def __init__(self, pool: Connections[U]) -> None:
        self._pool = pool
        self._users: Counter[tuple[str, bool]] = Counter()
        self._elsewhere: OrderedDict[bytes, U] = OrderedDict()

    def take(self, address: str, http2: bool = False) -> U:
        """Use `ip:port` until `drop`."""
        self._users[address, http2] += 1
        return self._pool.upstream(*split_address(address), http2=http2)

    def drop(self, address: str, http2: bool = False) -> None:
        """Use it no longer; as often as it was taken."""
        self._users[address, http2] -= 1
        if self._users[address, http2] <= 0:
            del self._users[address, http2]
            self._pool.forget(self._pool.upstream(*split_address(address), http2=http2))

    def elsewhere(self, authority: bytes) -> U | None:
        """A host that is none of ours, for pods that use us as their HTTP proxy; None if it names no host."""
        found = self._elsewhere.get(authority)
        if found is not None:
            self._elsewhere.move_to_end(authority)
            return found
        name, colon, port = authority.decode("latin-1").rpartition(":")
        if not colon or not port.isdecimal():
            name, port = authority.decode("latin-1"), "80"
        if not _HOST.fullmatch(name) or not 0 < int(port) < 65536:
            return None
        while len(self._elsewhere) >= ELSEWHERE:  # which hosts there are is the pods' choice
            _, oldest = self._elsewhere.popitem(last=False)
            self._pool.forget(oldest)
        found = self._elsewhere[authority] = self._pool.upstream(name.strip("[]"), int(port))
        return found

    def statistics(self) -> dict[str, int]:
        """Addresses of pods, and hosts elsewhere."""
        return {"pods": len(self._users), "elsewhere": len(self._elsewhere)}


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `ip:port` or `[ip]:port`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
