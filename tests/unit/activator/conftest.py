"""A proxy without sockets: exchanges whose answers are kept in memory, and upstreams that do what they are told."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from activator.app import Proxy
from activator.backends import Answer, Backends, Endpoints
from activator.reporter import Reporter
from activator.revision import Addresses, Key, Revision, Settings
from activator.routes import Table
from activator.tenants import Tenants
from activator.wakes import Wakes
from kncore.net.errors import ConnectFailed, UpstreamClosed
from kncore.net.exchange import Exchange
from kncore.net.heads import ResponseHead, read_request, read_response
from kncore.testing import FakeClock
from kncore.wire import decode_messages


class MemoryExchange(Exchange):
    """An exchange whose client is a test; `text` and `lines` are its answer."""

    def __init__(self, raw: bytes, peer: str = "192.0.2.7") -> None:
        super().__init__(read_request(raw), 0.0)
        self.body_done = self.head.length == 0
        self.lines: list[bytes] = []
        self.text = b""
        self.cut = False
        self._peer = peer

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def peer_port(self) -> int:
        return 4711

    def _send_head(
        self, status: int, reason: bytes, lines: Sequence[bytes], length: int, body: bytes, *, end: bool
    ) -> None:
        self.status = status
        self.lines = list(lines)
        self.text += body
        if end:
            self.finish()

    def _send_body(self, data: bytes) -> None:
        self.text += data

    def _send_end(self, trailers: Sequence[bytes]) -> None:
        self.finish()

    def _cut(self, text: bytes) -> None:
        self.cut = True
        self.finish()

    def _pause_body(self) -> None: ...
    def _resume_body(self) -> None: ...


class FakeUpstream:
    """One pod's connections: `sent` are the exchanges it has and did not answer yet."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sent: list[Exchange] = []
        self.forgotten = False

    def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
        exchange.carry(_Carrier(self, exchange))
        self.sent.append(exchange)

    def withdraw(self, exchange: Exchange) -> None:
        if exchange in self.sent:
            self.sent.remove(exchange)

    def answer(self, body: bytes = b"hello") -> Exchange:
        """Answer the oldest."""
        exchange = self.sent.pop(0)
        exchange.answer(_head(len(body)), body, end=True)
        return exchange

    def refuse(self) -> Exchange:
        """Nobody listens."""
        exchange = self.sent.pop(0)
        exchange.upstream_failed(ConnectFailed(f"connect to {self.address}: connection refused"))
        return exchange

    def hang_up(self, *, answered: bool = False) -> Exchange:
        """Close the connection of the oldest after its request was written."""
        exchange = self.sent.pop(0)
        exchange.upstream_failed(UpstreamClosed("upstream closed", written=True, answered=answered))
        return exchange


def _head(length: int) -> ResponseHead:
    return read_response(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)


class _Carrier:
    def __init__(self, upstream: FakeUpstream, exchange: Exchange) -> None:
        self._upstream = upstream
        self._exchange = exchange

    def send_body(self, data: bytes, *, end: bool, trailers: Sequence[bytes] = ()) -> None: ...
    def send_raw(self, data: bytes) -> None: ...
    def end_raw(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def cancel(self) -> None:
        self._upstream.withdraw(self._exchange)


class World:
    """A whole activator with nothing real around it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.told: list[dict[str, Any]] = []
        self.stream_up = True
        self.unfit: str | None = None
        self.upstreams: dict[str, FakeUpstream] = {}
        self.taken: list[str] = []
        self.ready: set[str] = set()
        self.wakes = Wakes()
        self.tenants = Tenants()
        self.backends = Backends(self.probe)
        self.reporter = Reporter("activator-1", self._send, self.clock)
        self.proxy = Proxy(Table(), self.wakes, healthy=lambda: self.unfit)

    def _send(self, frame: bytes) -> bool:
        if self.stream_up:
            self.told += [
                {"key": (namespace, name), "concurrency": s.average_concurrent_requests, "count": s.request_count}
                for namespace, name, s in decode_messages(frame)
                if s is not None
            ]
        return self.stream_up

    async def probe(self, address: str, timeout: float, *, host: str = "") -> Answer:
        await asyncio.sleep(0)
        return Answer.READY if address in self.ready else Answer.NOT_READY

    def _take(self, address: str, http2: bool) -> FakeUpstream:
        self.taken.append(f"h2c://{address}" if http2 else address)
        return self.upstreams.setdefault(address, FakeUpstream(address))

    def _drop(self, address: str, http2: bool) -> None:
        self.taken.remove(f"h2c://{address}" if http2 else address)

    def revision(self, key: Key = ("default", "hello-1"), **settings: Any) -> Revision:
        """A revision that the proxy knows."""
        made = Revision(
            key,
            Settings(**settings),
            self_ip="10.0.0.1",
            addresses=Addresses(take=self._take, drop=self._drop),
            backends=self.backends,
            reporter=self.reporter,
            wakes=self.wakes,
            tenants=self.tenants,
        )
        self.proxy.revisions[key] = made
        self.backends.add(key, made, early=made.settings.probe_early)
        return made

    def pods(self, revision: Revision, *addresses: str) -> list[FakeUpstream]:
        """These pods answer, as far as the backends know."""
        self.backends.update(revision.key, Endpoints(ready=frozenset(addresses)))
        watched = self.backends._revisions[revision.key]  # proven without the time that proving takes
        watched.healthy = set(addresses)
        watched.tell()
        return [self.upstreams[address] for address in addresses]

    def elsewhere(self, *, exists: bool = True) -> FakeUpstream:
        """Let pods reach other hosts; all of them are this one."""
        made = FakeUpstream("outside")
        self.proxy._elsewhere = lambda authority: made if exists else None
        return made

    def inside(self, raw: bytes, peer: str = "192.0.2.7") -> MemoryExchange:
        """A request on the internal listener."""
        exchange = MemoryExchange(raw, peer)
        self.proxy.internal(exchange)
        return exchange

    def outside(self, raw: bytes, peer: str = "192.0.2.7") -> MemoryExchange:
        """A request on the public listener."""
        exchange = MemoryExchange(raw, peer)
        self.proxy.public(exchange)
        return exchange

    def secure(self, raw: bytes, peer: str = "192.0.2.7") -> MemoryExchange:
        """A request on the https listener."""
        exchange = MemoryExchange(raw, peer)
        self.proxy.https(exchange)
        return exchange

    def send(self, key: Key = ("default", "hello-1"), method: str = "GET", *lines: str) -> MemoryExchange:
        """A request for a revision."""
        head = [
            f"{method} / HTTP/1.1",
            "Host: hello.example.com",
            f"Knative-Serving-Namespace: {key[0]}",
            f"Knative-Serving-Revision: {key[1]}",
            *lines,
        ]
        return self.inside(("\r\n".join(head) + "\r\n\r\n").encode())


@pytest.fixture
def world() -> World:
    return World()
