"""Connections to upstreams: one pool per process, one last-in-first-out stack per address.

The most recently used connection is taken first, so a pool that was large in a burst shrinks by itself: what lies at
the bottom of the stack grows old and is closed. Nothing is scanned per request. A connection that an app closed for
being idle teaches its address a shorter limit, so that the next one is closed by us before the app does it in the
middle of a request (knative/serving#12414).

That is HTTP/1. An address that is asked for in HTTP/2 shares connections among exchanges (`kncore.net.http2.address`);
both look the same to exchanges and to the pool, and both can be spoken to in TLS.

An exchange that finds no idle connection waits while one is dialled, and takes whichever comes first: the new
connection or one that another exchange gave back. Dials are tasks of the pool's group, the only tasks here;
everything else happens inside transport callbacks.

    async with Pool() as pool:
        app = pool.upstream("127.0.0.1", 8080)
        grpc = pool.upstream("127.0.0.1", 8081, http2=True)
        ...
        exchange.forward(app)                  # any number of times
        pool.forget(app)                       # its pod is gone: idle connections are closed, requests in flight go on

What is bounded: idle connections per address and in total, dials in time. Connections in use are as many as there are
exchanges, which the listeners bound. What dies when: leaving the context closes idle connections and cancels dials;
exchanges still waiting fail with 502.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from kncore.net.dial import dial
from kncore.net.errors import ConnectFailed
from kncore.net.hangup import readable
from kncore.net.http1_upstream import ClientConnection

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from kncore.net.dial import Tls
    from kncore.net.exchange import Exchange
    from kncore.net.http2.address import Http2Address
    from kncore.net.ticker import Ticker

    Address: TypeAlias = "UpstreamAddress | Http2Address"

__all__ = ["Pool", "PoolLimits", "PoolStatistics", "UpstreamAddress"]


@dataclass(frozen=True, kw_only=True)
class PoolLimits:
    """Bounds of a pool."""

    idle: int = 1000
    """Idle connections in all (the original's MAX_IDLE_PROXY_CONNS)."""
    idle_per_upstream: int = 100
    """Idle connections of one address (MAX_IDLE_PROXY_CONNS_PER_HOST)."""
    idle_time: float = 60.0
    """Older idle connections are closed, seconds."""
    connect_time: float = 5.0
    """A dial that takes longer has failed, seconds."""
    connections: int = 64
    """Connections to one address in HTTP/2."""
    ping: float = 0.0
    """An upstream in HTTP/2 that is silent for so long while it owes an answer is asked whether it is there, and has as
    long to say so; seconds. 0 never asks: an app that computes in its event loop answers no pings, and on the same
    machine a connection does not die unseen."""


@dataclass(frozen=True, kw_only=True)
class PoolStatistics:
    """A pool at one moment, in connections but for `waiting`; `dialled` and `reused` count since the start."""

    upstreams: int
    idle: int
    in_use: int
    waiting: int
    dialled: int
    reused: int


_LEARNED_SHARE: Final = 0.8
"""Of the age at which an upstream closed an idle connection: how old we let the next ones become."""
_LEARNED_FLOOR: Final = 0.5
"""An app that closes at once is not keeping connections alive; there is nothing to learn from it, seconds."""


class UpstreamAddress:
    """One address with its connections; made by `Pool.upstream`."""

    def __init__(self, pool: Pool, host: str, port: int, *, tls: Tls | None = None) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.in_use = 0
        """Connections that carry an exchange."""
        self.dialled = 0
        self.reused = 0
        self._pool = pool
        self._idle: list[ClientConnection] = []
        self._waiting: deque[Exchange] = deque()
        self._idle_time = pool.limits.idle_time
        self._idle_limit = pool.limits.idle_per_upstream

    def __repr__(self) -> str:
        return f"<{self.host}:{self.port} {self.in_use} in use, {self.idle} idle, {self.waiting} waiting>"

    # for exchanges --------------------------------------------------------------------------------------------------
    def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """Send the exchange on an idle connection, or on the next one that is free or new."""
        idle = self._idle
        if not fresh:
            while idle:
                connection = idle.pop()
                self._pool.idle -= 1
                if connection.idle_since and self._left_alone(connection):
                    continue
                if not connection.transport.is_closing():  # idle it is, or it would not be here
                    self.in_use += 1
                    self.reused += 1
                    connection.start(exchange)
                    return
        self._waiting.append(exchange)
        self._pool.dial(self)

    def _left_alone(self, connection: ClientConnection) -> bool:
        """Discard a connection that was idle for a while, if the app is about to close it or has done so already: its
        FIN may lie in the kernel, and a request that cannot be repeated would be lost on it.
        """
        age = self._pool.now() - connection.idle_since
        closed = readable(connection.transport)
        if closed:
            self._learn(age)
        elif age <= self._idle_time:
            return False
        connection.discard()
        return True

    def withdraw(self, exchange: Exchange) -> None:
        """Forget an exchange that still waits."""
        if self._waiting and exchange in self._waiting:
            self._waiting.remove(exchange)

    # for connections ------------------------------------------------------------------------------------------------
    def released(self, connection: ClientConnection) -> None:
        """The connection is free: give it to whoever waits, or keep it."""
        if self._waiting:
            self.reused += 1
            connection.start(self._waiting.popleft())
            return
        self.in_use -= 1
        pool = self._pool
        if pool.idle >= pool.limits.idle or len(self._idle) >= self._idle_limit:
            connection.discard()
            return
        connection.idle_since = 0.0
        pool.idle += 1
        self._idle.append(connection)

    def lost(self, connection: ClientConnection) -> None:
        """The connection is gone."""
        if connection in self._idle:
            self._idle.remove(connection)
            self._pool.idle -= 1
            if connection.idle_since:
                self._learn(self._pool.now() - connection.idle_since)
        else:
            self.in_use -= 1

    def _learn(self, age: float) -> None:
        if _LEARNED_FLOOR < age < self._idle_time:
            self._idle_time = max(age * _LEARNED_SHARE, _LEARNED_FLOOR)

    # for the pool ---------------------------------------------------------------------------------------------------
    async def connect(self) -> None:
        """Dial once, for whoever waits longest when the connection is up."""
        self.dialled += 1
        try:
            connection = await dial(
                self._make, self.host, self.port, seconds=self._pool.limits.connect_time, tls=self.tls
            )
        except ConnectFailed as failure:
            self._failed(failure)
        else:
            self.in_use += 1
            if self._waiting:
                connection.start(self._waiting.popleft())
            else:
                self.released(connection)  # another connection was faster

    def _make(self) -> ClientConnection:
        return ClientConnection(self)

    def _failed(self, failure: ConnectFailed) -> None:
        if self._waiting:
            self._waiting.popleft().upstream_failed(failure)

    def expire(self, now: float) -> None:
        """Close connections that were idle too long."""
        idle = self._idle
        old = 0
        for connection in idle:
            if not connection.idle_since:
                connection.idle_since = now
            elif now - connection.idle_since > self._idle_time:
                old += 1
        if old:
            # the stack is ordered by age, so the old ones are its bottom
            expired = idle[:old]
            del idle[:old]
            self._pool.idle -= old
            for connection in expired:
                connection.discard()

    def close(self) -> None:
        """Close idle connections, fail those that wait, keep no connection from now on."""
        self._idle_limit = 0
        idle, self._idle = self._idle, []
        self._pool.idle -= len(idle)
        for connection in idle:
            connection.discard()
        while self._waiting:
            self._failed(ConnectFailed(f"connect to {self.host}:{self.port}: closing"))

    @property
    def idle(self) -> int:
        """Idle connections."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Exchanges waiting for a connection."""
        return len(self._waiting)


class Pool:
    """All connections of a process to its upstreams."""

    def __init__(self, limits: PoolLimits | None = None, *, ticker: Ticker | None = None) -> None:
        self.limits = limits or PoolLimits()
        self.idle = 0
        """Idle connections of all addresses."""
        self.now: Callable[[], float]
        self._ticker = ticker
        self._upstreams: dict[tuple[str, int, bool, Tls | None], Address] = {}
        self._group = asyncio.TaskGroup()
        self._dials: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.now = asyncio.get_running_loop().time
        await self._group.__aenter__()
        if self._ticker is not None:
            self._ticker.add(self.visit)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticker is not None:
            self._ticker.discard(self.visit)
        for upstream in self._upstreams.values():
            upstream.close()
        for task in self._dials:
            task.cancel()
        await self._group.__aexit__(None, None, None)  # the block's own exception goes on as it is

    def upstream(self, host: str, port: int, *, http2: bool = False, tls: Tls | None = None) -> Address:
        """The address, always the same object until it is forgotten.

        Args:
            http2: it speaks HTTP/2, with prior knowledge; in TLS if its ALPN agrees.
            tls: how to speak TLS to it; None is cleartext.
        """
        key = host, port, http2, tls
        found = self._upstreams.get(key)
        if found is None:
            if http2:
                from kncore.net.http2.address import Http2Address  # most sidecars never need it

                plain = UpstreamAddress(self, host, port, tls=tls)
                found = Http2Address(self, host, port, tls=tls, plain=plain)
            else:
                found = UpstreamAddress(self, host, port, tls=tls)
            self._upstreams[key] = found
        return found

    def forget(self, upstream: Address) -> None:
        """Keep nothing of an address that serves no more; exchanges on it end undisturbed."""
        key = upstream.host, upstream.port, not isinstance(upstream, UpstreamAddress), upstream.tls
        if self._upstreams.get(key) is upstream:
            del self._upstreams[key]
        upstream.close()

    def dial(self, upstream: Address) -> None:
        """Begin a connection for an address."""
        task = self._group.create_task(upstream.connect(), name=f"dial {upstream.host}:{upstream.port}")
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    def visit(self, now: float) -> bool:
        """Expire idle connections; for the ticker."""
        for upstream in tuple(self._upstreams.values()):  # one that is given up may be forgotten meanwhile
            upstream.expire(now)
        return False

    def statistics(self) -> PoolStatistics:
        """Sums over all addresses."""
        upstreams = self._upstreams.values()
        return PoolStatistics(
            upstreams=len(upstreams),
            idle=sum(upstream.idle for upstream in upstreams),
            in_use=sum(upstream.in_use for upstream in upstreams),
            waiting=sum(upstream.waiting for upstream in upstreams),
            dialled=sum(upstream.dialled for upstream in upstreams),
            reused=sum(upstream.reused for upstream in upstreams),
        )
