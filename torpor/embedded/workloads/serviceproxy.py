"""kube-proxy in user space: TCP from a Service's cluster IP to one of its ready endpoints.

There is no packet filter to program without privileges, so each port of each Service has a listening socket on its
own loopback address. A connection picks an endpoint (round robin over the ready ones of the Service's slices), and
bytes are copied both ways with back-pressure until both sides are done.

Bounds: listening sockets, connections; what exceeds them is refused (a listener) or closed at once (a connection) and
counted. Services that only the platform itself uses (a revision's private one) get no listeners: their users go to
the pods.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from kncore.api import keys, meta
from kncore.api.meta import Obj, at
from kncore.api.resources import ENDPOINT_SLICES, SERVICES
from kncore.kube.client import Key
from kncore.kube.informers import Informers
from kncore.kube.reconcile import Controller, enqueue_self
from torpor.embedded.workloads.endpoints import SERVICE_NAME

__all__ = ["ServiceProxy", "Statistics", "backends"]

log = logging.getLogger(__name__)

MAX_LISTENERS = 2048
MAX_CONNECTIONS = 2048
CONNECT_TIMEOUT = 5.0
HIGH_WATER_BYTES = 256 * 1024

_BY_SERVICE = "service proxy"


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the proxy holds, and what it turned away."""

    listeners: int
    connections: int
    refused: int
    """Connections closed for lack of an endpoint or of room."""


def backends(port: Mapping[str, object], slices: list[Obj]) -> list[tuple[str, int]]:
    """Ready addresses of one port of a Service, in a stable order."""
    found = {
        (address, int(one["port"]))
        for slice_ in slices
        for one in slice_.get("ports") or ()
        if (one.get("name") or "") == (port.get("name") or "") and one.get("port")
        for endpoint in slice_.get("endpoints") or ()
        if at(endpoint, "conditions", "ready", default=True)
        for address in endpoint["addresses"][:1]
    }
    return sorted(found)


class ServiceProxy:
    """Listens for every Service with a cluster IP.

    Args:
        serves: whether an address is one of ours to listen on.
    """

    def __init__(self, informers: Informers, *, serves: Callable[[str], bool]) -> None:
        self._serves = serves
        self._services = informers.of(SERVICES)
        self._slices = informers.of(ENDPOINT_SLICES, indexers={_BY_SERVICE: _service_of})
        self._listeners: dict[Key, dict[tuple[str, int], asyncio.Server]] = {}
        self._connections: set[_Inbound] = set()
        self._turn = 0
        self._refused = 0
        self.controller = Controller("serviceproxy", self._reconcile)
        self.name = self.controller.name
        self._services.add_handler(enqueue_self(self.controller))

    def statistics(self) -> Statistics:
        """See `Statistics`."""
        return Statistics(sum(map(len, self._listeners.values())), len(self._connections), self._refused)

    async def run(self) -> None:
        """Listen until cancelled; then everything is closed."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self.controller.run()
        finally:
            for listeners in self._listeners.values():
                for server in listeners.values():
                    server.close()
            for connection in list(self._connections):
                connection.abort()

    async def _reconcile(self, key: Key) -> None:
        service = self._services.get(key.name, key.namespace)
        wanted = self._addresses(service) if service is not None else set()
        present = self._listeners.setdefault(key, {})
        for address in present.keys() - wanted:
            present.pop(address).close()
        for address in wanted - present.keys():
            if sum(map(len, self._listeners.values())) >= MAX_LISTENERS:
                log.warning("too many Services for the service proxy", extra={"key": str(key), "limit": MAX_LISTENERS})
                break
            try:
                present[address] = await self._listen(key, address)
            except OSError as exc:
                extra = {"key": str(key), "address": f"{address[0]}:{address[1]}", "error": exc.strerror}
                log.warning("a Service's address cannot be listened on", extra=extra)
        if not present:
            del self._listeners[key]

    def _addresses(self, service: Obj) -> set[tuple[str, int]]:
        address = at(service, "spec", "clusterIP", default="")
        if not address or address == "None" or not self._serves(address):
            return set()
        if meta.labels(service).get(keys.SERVICE_TYPE) == "Private":
            return set()
        ports = at(service, "spec", "ports", default=[])
        return {(address, int(one["port"])) for one in ports if (one.get("protocol") or "TCP") == "TCP"}

    async def _listen(self, key: Key, address: tuple[str, int]) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Inbound(self, key, address[1]), *address, backlog=64)

    def pick(self, key: Key, number: int) -> tuple[str, int] | None:
        """The endpoint for the next connection to a port of a Service, or None if there is none."""
        service = self._services.get(key.name, key.namespace)
        port = next((one for one in at(service, "spec", "ports", default=[]) if one["port"] == number), None)
        found = backends(port, self._slices.by_index(_BY_SERVICE, str(key))) if port else []
        if not found or len(self._connections) >= MAX_CONNECTIONS:
            self._refused += 1
            return None
        self._turn += 1
        return found[self._turn % len(found)]

    def opened(self, connection: "_Inbound", connect: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Count a connection, and start to connect it."""
        self._connections.add(connection)
        return self._group.create_task(connect, name=f"service connection {len(self._connections)}")

    def closed(self, connection: "_Inbound") -> None:
        """Count it no more."""
        self._connections.discard(connection)


class _Side(asyncio.Protocol):
    """One end of a proxied connection: what it reads, `other` writes."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            with suppress(RuntimeError):  # it is closing
                self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            with suppress(RuntimeError):
                self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        self.ended = True
        if self.other is not None and self.other.transport is not None and not self.other.transport.is_closing():
            if self.other.ended:
                self.other.transport.close()
            else:
                self.other.transport.write_eof()
        # Half-closed: the other direction goes on until it ends too.
        return self.other is not None and not self.other.ended

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Inbound(_Side):
    """The client's end; opens the other one."""

    def __init__(self, proxy: ServiceProxy, key: Key, port: int) -> None:
        super().__init__()
        self._proxy = proxy
        self._key = key
        self._port = port
        self._connecting: asyncio.Task[None] | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        target = self._proxy.pick(self._key, self._port)
        if target is None:
            self._reset()
            return
        self._connecting = self._proxy.opened(self, self._connect(target))

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            # Not in connection_made(): uvloop and CPython 3.11.2 start to read after it whatever it said.
            assert self.transport is not None
            self.transport.pause_reading()
            self._early += data
        else:
            super().data_received(data)

    def eof_received(self) -> bool:
        if self.other is None:
            self.ended = True
            return True
        return super().eof_received()

    def _reset(self) -> None:
        """End the connection so that the client sees an error, as where nobody listens, and not an empty answer."""
        assert self.transport is not None
        own = self.transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def _connect(self, target: tuple[str, int]) -> None:
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        side = _Side()
        side.other = self  # before it is connected: an app may speak first
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.create_connection(lambda: side, *target)
        except (OSError, TimeoutError):
            self._reset()
            return
        self.other = side
        if self.transport.is_closing():
            side.abort()
            return
        if self._early:
            super().data_received(self._early)
            self._early = b""
            self.transport.resume_reading()
        if self.ended and side.transport is not None:
            side.transport.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._proxy.closed(self)
        super().connection_lost(exc)


def _service_of(slice_: Obj) -> list[str]:
    service = meta.labels(slice_).get(SERVICE_NAME)
    return [str(Key(meta.namespace(slice_), service))] if service else []
