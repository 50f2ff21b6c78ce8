"""A listener: accepts connections within a bound, drains, and keeps their clocks.

    ticker = Ticker()
    server = Server(handler, limits=Limits(connections=10_000), ticker=ticker)
    await server.listen("0.0.0.0", 8012)
    ...
    await server.drain(loop.time() + 60.0)     # refuse new ones, finish what is in flight, then cut what is left

Draining closes the listening socket and idle connections; a connection in use is told `Connection: close` with its
answer. When there are as many connections as allowed, a new one takes the place of those that have been idle longest
(or slow with a request head): a flood of connections that ask nothing costs others at most a reconnect. There is no
bound per source address, for behind a load balancer all clients have one.

One port speaks HTTP/1.1 and HTTP/2. In clear every connection begins as HTTP/1.1; what it cannot read (HTTP/2's
preface) or is asked to leave (`Upgrade: h2c`) it hands to `speak_http2`, so HTTP/1.1 pays nothing for it. Under TLS the
client says what it speaks, and `codec` makes that. Codecs are asyncio protocols that call `opened`, `closed` and
`handler` of their owner, this server.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from kncore.net.http1 import Limits, ServerConnection
from kncore.net.http2.limits import Http2Limits

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Mapping

    from kncore.net.exchange import Exchange
    from kncore.net.heads import RequestHead
    from kncore.net.http2 import server as http2
    from kncore.net.ticker import Ticker
    from kncore.net.tlsstream import Door, HandshakeLimits

__all__ = ["Server", "ServerStatistics"]

EVICTED_SHARE: Final = 64
"""One in so many connections is closed when there are too many: looking for them visits all."""
FULL: Final = 0.1
"""After a search that found none, how long not to search again, seconds."""
EXCESS: Final = 1.1
"""Beyond this share of the bound, connections are closed without being told why."""

BACKLOG: Final = 4096
"""Connections the kernel completes before we accept them; a wake-up may bring hundreds in one moment."""


@dataclass(frozen=True, kw_only=True)
class ServerStatistics:
    """A listener at one moment; all but the first count since the start."""

    connections: int
    accepted: int
    turned_away: int
    """Connections refused because there were too many."""
    evicted: int
    """Idle connections closed because there were too many."""
    refused: Mapping[int, int]
    """Requests that no handler saw, by the status they got."""
    ended: Mapping[str, int]
    """HTTP/2 connections and streams that we ended for what their client did, by the reason."""
    handshaking: int
    """Sockets without a complete TLS handshake, now."""
    handshakes: Mapping[str, int]
    """TLS handshakes by what came of them (`kncore.net.tlsstream.DoorStatistics`); empty without TLS."""


Connection: TypeAlias = "ServerConnection | http2.ServerConnection"


class Server:
    """One handler behind one or more listening sockets."""

    def __init__(
        self,
        handler: Callable[[Exchange], None],
        *,
        ticker: Ticker,
        limits: Limits | None = None,
        http2: Http2Limits | None = None,
        handshakes: HandshakeLimits | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.http2 = http2 or Http2Limits()
        self.draining = False
        self._ticker = ticker
        self._sockets: list[asyncio.Server] = []
        self._doors: list[Door] = []
        self._handshakes = handshakes
        self._connections: set[Connection] = set()
        self._empty: asyncio.Event | None = None
        self._tunnels = 0.0
        self._accepted = 0
        self._turned_away = 0
        self._evicted = 0
        self._looked = 0.0
        self._refused: Counter[int] = Counter()
        self._ended: Counter[str] = Counter()

    def protocol(self) -> ServerConnection:
        """The codec for a new connection in clear."""
        return ServerConnection(self)

    def codec(self, agreed: str | None) -> Connection:
        """The codec for a new connection under TLS, by the protocol agreed upon (ALPN): `h2`, else HTTP/1.1."""
        if agreed == "h2":
            from kncore.net.http2 import server as http2  # a megabyte: only who speaks it pays for it

            return http2.ServerConnection(self)
        return ServerConnection(self)

    async def listen(
        self,
        host: str | None = None,
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> int:
        """Accept connections on an address or a bound socket; returns the port.

        Args:
            tls: what the next handshake is made with, for a listener that speaks nothing but TLS.
        Raises:
            OSError: the address cannot be had.
        """
        loop = asyncio.get_running_loop()
        factory: Callable[[], asyncio.Protocol] = self.protocol
        if tls is not None:
            from kncore.net.tlsstream import Door  # only who speaks it pays for it

            door = Door(tls, self.codec, ticker=self._ticker, limits=self._handshakes)
            door.open()
            self._doors.append(door)
            factory = door.protocol
        if sock is not None:
            listener = await loop.create_server(factory, sock=sock, backlog=BACKLOG)
        else:
            listener = await loop.create_server(factory, host, port, backlog=BACKLOG)
        if not self._sockets:
            self._ticker.add(self.visit)
        self._sockets.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    async def drain(self, deadline: float, *, tunnels: float | None = None) -> bool:
        """Stop accepting, let requests in flight end, and cut what is left at the deadline (loop time).

        Args:
            tunnels: an earlier deadline for upgraded connections, which may have no end of their own.

        Returns:
            True if nothing had to be cut at the deadline.
        """
        self.draining = True
        self._tunnels = deadline if tunnels is None else tunnels
        for listener in self._sockets:
            listener.close()
        for door in self._doors:
            door.close()
        for connection in tuple(self._connections):
            connection.close_if_idle()
        clean = True
        if self._connections:
            self._empty = asyncio.Event()
            self._ticker.wake()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._empty.wait()
            except TimeoutError:
                clean = False
                for connection in tuple(self._connections):
                    connection.transport.abort()
        self._ticker.discard(self.visit)
        return clean

    def visit(self, now: float) -> bool:
        """Compare every connection's clocks with now; for the ticker."""
        busy = draining = self.draining
        for connection in tuple(self._connections):
            if connection.tick(now):
                busy = True
                if draining and now >= self._tunnels:
                    connection.close_if_tunnel()
            elif draining:
                connection.close_if_idle()
        return busy

    @property
    def connections(self) -> int:
        """Connections now."""
        return len(self._connections)

    def statistics(self) -> ServerStatistics:
        """Connections now and what became of those before."""
        return ServerStatistics(
            connections=len(self._connections),
            accepted=self._accepted,
            turned_away=self._turned_away,
            evicted=self._evicted,
            refused=dict(self._refused),
            ended=dict(self._ended),
            handshaking=sum(door.statistics().pending for door in self._doors),
            handshakes=self._handshakes_so_far(),
        )

    def _handshakes_so_far(self) -> dict[str, int]:
        made: Counter[str] = Counter()
        for door in self._doors:
            made.update(asdict(door.statistics()))
        made.pop("pending", None)
        return dict(made)

    # for connections ------------------------------------------------------------------------------------------------
    def opened(self, connection: Connection) -> bool:
        self._connections.add(connection)
        limit = self.limits.connections
        if len(self._connections) > limit and not self._make_room(connection):
            self._turned_away += 1
            if len(self._connections) > limit * EXCESS + 1:
                connection.transport.abort()
            return False
        self._accepted += 1
        return True

    def _make_room(self, newcomer: Connection) -> bool:
        """Close the connections that have been without a request longest; False if all are in use."""
        now = newcomer.now()
        if now < self._looked + FULL:
            return False
        spare = [
            (since or math.inf, id(connection), connection)  # not seen idle yet: it has just been used
            for connection in self._connections
            if (since := connection.idle_since) is not None
            and connection is not newcomer
            and not connection.transport.is_closing()  # closed in this turn, for the newcomer before this one
        ]
        if not spare:
            self._looked = now
        for _, _, connection in heapq.nsmallest(self.limits.connections // EVICTED_SHARE + 1, spare):
            self._evicted += 1
            connection.transport.abort()
        return bool(spare)

    def speak_http2(self, connection: ServerConnection, data: bytes, upgrade: RequestHead | None = None) -> None:
        """Go on in HTTP/2 on a connection that spoke HTTP/1.

        Args:
            data: what came that HTTP/1 did not read.
            upgrade: the request that asked for it: it is answered as stream 1.
        """
        from kncore.net.http2 import server as http2

        successor = http2.ServerConnection(self, taken_over=True)
        self._connections.discard(connection)
        self._connections.add(successor)
        transport = connection.transport
        transport.set_protocol(successor)
        successor.connection_made(transport)
        if upgrade is not None:
            successor.adopt(upgrade)
        if data:
            successor.data_received(data)

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._empty is not None and not self._connections:
            self._empty.set()

    def refused(self, status: int) -> None:
        self._refused[status] += 1

    def ended(self, reason: str) -> None:
        self._ended[reason] += 1
