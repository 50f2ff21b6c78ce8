"""One address that speaks HTTP/2, with its connections: the counterpart of the pool's entry for HTTP/1.

Exchanges fill one connection before the next one is used: what goes out in one turn of the loop then goes out in one
write, and connections that a burst needed run dry and are closed for being idle. Who finds no room waits, in order,
for a stream that ends or for a connection being dialled; as many are dialled as those who wait could fill, up to
`PoolLimits.connections`.

Two things still go by HTTP/1, on connections of their own: an upgrade (WebSocket), which HTTP/2 has no way to pass on,
and everything where TLS was asked for HTTP/2 and its ALPN chose HTTP/1.

What is bounded: connections, streams on each, dials in time; who waits is bounded by who lets exchanges in. What dies
when: `close` fails those that wait and closes idle connections, the others after their last stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from kncore.net.dial import Tls, dial
from kncore.net.errors import ConnectFailed, UpstreamGarbage
from kncore.net.http2.upstream import ClientConnection

if TYPE_CHECKING:
    from kncore.net.exchange import Exchange
    from kncore.net.pool import Pool, UpstreamAddress

__all__ = ["Http2Address"]

EXPECTED_STREAMS: Final = 100
"""What a connection will take that has not said it yet; what most do."""


class Http2Address:
    """One address with its connections; made by `Pool.upstream`.

    Args:
        plain: the same address in HTTP/1.
    """

    def __init__(self, pool: Pool, host: str, port: int, *, tls: Tls | None, plain: UpstreamAddress) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.dialled = 0
        self.reused = 0
        self._pool = pool
        self._plain = plain
        self._downgraded = False
        self._closed = False
        self._open: list[ClientConnection] = []  # those that take exchanges
        self._leaving: set[ClientConnection] = set()  # those that only end what they have
        self._waiting: deque[Exchange] = deque()
        self._dials = 0

    def __repr__(self) -> str:
        return f"<{self.host}:{self.port} h2 {self.in_use} in use on {len(self._open)}, {self.waiting} waiting>"

    # for exchanges --------------------------------------------------------------------------------------------------
    def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """Send the exchange on a connection with room, or on the next one that has it."""
        if exchange.head.upgrade or self._downgraded:
            self._plain.submit(exchange, fresh=fresh)
            return
        for connection in self._open:
            if connection.limit > len(connection.streams):
                self.reused += 1
                connection.start(exchange, fresh=fresh)
                return
        self._waiting.append(exchange)
        self._dial()

    def withdraw(self, exchange: Exchange) -> None:
        """Forget an exchange that still waits."""
        if self._waiting and exchange in self._waiting:
            self._waiting.remove(exchange)
        else:
            self._plain.withdraw(exchange)

    # for connections ------------------------------------------------------------------------------------------------
    def released(self, connection: ClientConnection) -> None:
        """An exchange on it is over: somebody who waits may have its place."""
        if self._waiting:
            self.roomy(connection)

    def roomy(self, connection: ClientConnection) -> None:
        """Give its places to those who wait."""
        waiting = self._waiting
        if waiting and connection not in self._open and connection.limit:
            return  # whoever dialled it has yet to hear of it, and may have given it up
        while waiting and connection.limit > len(connection.streams):
            self.reused += 1
            connection.start(waiting.popleft())
        if waiting:
            self._dial()

    def closing(self, connection: ClientConnection) -> None:
        """It takes no further exchanges."""
        if connection in self._open:
            self._open.remove(connection)
        self._leaving.add(connection)
        if self._waiting:
            self._dial()

    def lost(self, connection: ClientConnection) -> None:
        """It is gone."""
        self._leaving.discard(connection)
        if self._waiting:
            self._dial()

    # dialling -------------------------------------------------------------------------------------------------------
    def _dial(self) -> None:
        """Dial if those who wait could fill another connection."""
        if self._dials + len(self._open) < self._pool.limits.connections:
            coming = self._dials + sum(not connection.greeted for connection in self._open)
            if coming * EXPECTED_STREAMS < len(self._waiting):
                self._dials += 1
                self._pool.dial(self)

    async def connect(self) -> None:
        """Dial once, for whoever waits when the connection is up."""
        self.dialled += 1
        try:
            connection = await dial(
                self._make, self.host, self.port, seconds=self._pool.limits.connect_time, tls=self.tls, http2=True
            )
        except ConnectFailed as failure:
            self._dials -= 1
            self._failed(str(failure))
        except asyncio.CancelledError:
            self._dials -= 1
            raise
        else:
            self._dials -= 1
            self._take(connection)

    def _make(self) -> ClientConnection:
        return ClientConnection(self, b"http" if self.tls is None else b"https")

    def _take(self, connection: ClientConnection) -> None:
        """A connection is up."""
        if not connection.agreed:
            self._downgrade(connection)
            return
        if connection.transport.is_closing():
            self._failed(f"connect to {self.host}:{self.port}: closed at once", connection.failure)
            return
        self._open.append(connection)
        self.reused -= min(connection.limit, len(self._waiting))
        self.roomy(connection)
        if self._closed:  # it was for an exchange that was sent again
            connection.retire()

    def _downgrade(self, connection: ClientConnection) -> None:
        connection.transport.abort()
        self._downgraded = True
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            self._plain.submit(exchange)

    def _failed(self, why: str, garbage: str = "") -> None:
        """A dial failed: so do those who wait, unless another connection may still take them.

        Args:
            garbage: it came up, and what it said is not HTTP/2.
        """
        if self._open or self._dials:
            return
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.upstream_failed(
                UpstreamGarbage(garbage, written=False, answered=True) if garbage else ConnectFailed(why)
            )

    # for the pool ---------------------------------------------------------------------------------------------------
    def expire(self, now: float) -> None:
        """Close connections that were idle too long; ask silent ones whether they are there."""
        limits = self._pool.limits
        for connection in tuple(self._open):
            connection.visit(now, limits.ping)
            if connection.streams:
                connection.idle_since = 0.0
            elif not connection.idle_since:
                connection.idle_since = now
            elif now - connection.idle_since > limits.idle_time:
                connection.retire()
        for connection in tuple(self._leaving):
            connection.visit(now, limits.ping)
        self._plain.expire(now)

    def close(self) -> None:
        """Fail those that wait, close connections that carry nothing, and the others after their last exchange."""
        self._closed = True
        waiting, self._waiting = self._waiting, deque()
        for connection in tuple(self._open):
            connection.retire()
        for exchange in waiting:
            exchange.upstream_failed(ConnectFailed(f"connect to {self.host}:{self.port}: closing"))
        self._plain.close()

    @property
    def in_use(self) -> int:
        """Connections that carry exchanges."""
        used = sum(bool(connection.streams) for connection in (*self._open, *self._leaving))
        return used + self._plain.in_use

    @property
    def idle(self) -> int:
        """Connections without an exchange."""
        return sum(not connection.streams for connection in self._open) + self._plain.idle

    @property
    def waiting(self) -> int:
        """Exchanges waiting for a place on a connection."""
        return len(self._waiting) + self._plain.waiting
