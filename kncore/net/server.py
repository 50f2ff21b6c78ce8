"""A listener: accepts connections within a bound, drains, and keeps their clocks.

    ticker = Ticker()
    server = Server(handler, limits=Limits(connections=10_000), ticker=ticker)
    await server.listen("0.0.0.0", 8012)
    ...
    await server.drain(loop.time() + 60.0)     # refuse new ones, finish what is in flight, then cut what is left

Draining closes the listening socket and idle connections; a connection in use is told `Connection: close` with its
answer. Codecs plug in through `protocol`: a factory of asyncio protocols that call `opened`, `closed` and `handler`
of their owner, this server.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kncore.net.http1 import Limits, ServerConnection

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Mapping

    from kncore.net.exchange import Exchange
    from kncore.net.ticker import Ticker

__all__ = ["Server", "ServerStatistics"]

BACKLOG: Final = 4096
"""Connections the kernel completes before we accept them; a wake-up may bring hundreds in one moment."""


@dataclass(frozen=True, kw_only=True)
class ServerStatistics:
    """A listener at one moment; the last three count since the start."""

    connections: int
    accepted: int
    turned_away: int
    """Connections refused because there were too many."""
    refused: Mapping[int, int]
    """Requests that no handler saw, by the status they got."""


class Server:
    """One handler behind one or more listening sockets."""

    def __init__(self, handler: Callable[[Exchange], None], *, ticker: Ticker, limits: Limits | None = None) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.draining = False
        self._ticker = ticker
        self._sockets: list[asyncio.Server] = []
        self._connections: set[ServerConnection] = set()
        self._empty: asyncio.Event | None = None
        self._tunnels = 0.0
        self._accepted = 0
        self._turned_away = 0
        self._refused: Counter[int] = Counter()

    def protocol(self) -> ServerConnection:
        """The codec for a new connection."""
        return ServerConnection(self)

    async def listen(
        self,
        host: str | None = None,
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> int:
        """Accept connections on an address or a bound socket; returns the port.

        Raises:
            OSError: the address cannot be had.
        """
        loop = asyncio.get_running_loop()
        if sock is not None:
            listener = await loop.create_server(self.protocol, sock=sock, backlog=BACKLOG, ssl=tls)
        else:
            listener = await loop.create_server(self.protocol, host, port, backlog=BACKLOG, ssl=tls)
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
        busy = False
        for connection in tuple(self._connections):
            if connection.tick(now):
                busy = True
                if self.draining and now >= self._tunnels:
                    connection.close_if_tunnel()
        return busy

    def statistics(self) -> ServerStatistics:
        """Connections now and what became of those before."""
        return ServerStatistics(
            connections=len(self._connections),
            accepted=self._accepted,
            turned_away=self._turned_away,
            refused=dict(self._refused),
        )

    # for connections ------------------------------------------------------------------------------------------------
    def opened(self, connection: ServerConnection) -> bool:
        self._connections.add(connection)
        if len(self._connections) > self.limits.connections:
            self._turned_away += 1
            return False
        self._accepted += 1
        return True

    def closed(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        if self._empty is not None and not self._connections:
            self._empty.set()

    def refused(self, status: int) -> None:
        self._refused[status] += 1
