"""A proxy between two transports that are lists: bytes in, bytes out, no sockets."""

from collections.abc import Callable
from typing import Any

import pytest

from kncore.net.exchange import Exchange, Handler
from kncore.net.heads import RequestHead
from kncore.net.http1 import Limits, ServerConnection
from kncore.net.http1_upstream import ClientConnection


class Wire:
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        self.sent = b""
        self.writes = 0
        self.closed = False
        self.aborted = False
        self.eof = False
        self.reading = True
        self.unsent = 0

    def write(self, data: bytes) -> None:
        assert not self.eof, "written after write_eof"
        self.sent += data
        self.writes += 1

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.7", 4711) if name == "peername" else default


class Up:
    """One connection to the upstream, and the pool entry it belongs to."""

    def __init__(self, relay: "Relay") -> None:
        self.relay = relay
        self.wire = Wire()
        self.connection = ClientConnection(self)
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]
        self.free = False
        self.gone = False

    def released(self, connection: ClientConnection) -> None:
        self.free = True

    def lost(self, connection: ClientConnection) -> None:
        self.free = False
        self.gone = True

    @property
    def got(self) -> bytes:
        """What the upstream received."""
        return self.wire.sent

    def answers(self, data: bytes) -> None:
        self.connection.data_received(data)

    def closes(self, exc: Exception | None = None) -> None:
        self.wire.closed = True
        self.connection.connection_lost(exc)


class Relay:
    """A server connection whose handler forwards to connections made on demand."""

    def __init__(self, handler: Handler | None = None, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.draining = False
        self.handler: Handler = handler or (lambda exchange: exchange.forward(self))
        self.refusals: list[int] = []
        self.exchanges: list[Exchange] = []
        self.ups: list[Up] = []
        self.withdrawn: list[Exchange] = []
        self.open = True
        wanted = self.handler

        def keep(exchange: Exchange) -> None:
            self.exchanges.append(exchange)
            wanted(exchange)

        self.handler = keep
        self.wire = Wire()
        self.connection = ServerConnection(self)
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]

    # the owner of the server connection
    def opened(self, connection: ServerConnection) -> bool:
        return True

    def closed(self, connection: ServerConnection) -> None:
        self.open = False

    def refused(self, status: int) -> None:
        self.refusals.append(status)

    def speak_http2(self, connection: ServerConnection, data: bytes, upgrade: RequestHead | None = None) -> None:
        self.refused(505)  # not here
        self.wire.write(b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n")
        self.wire.close()

    # an upstream that always has a connection
    def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
        for up in self.ups:
            if up.free and not fresh:
                up.free = False
                up.connection.start(exchange)
                return
        up = Up(self)
        self.ups.append(up)
        up.connection.start(exchange)

    def withdraw(self, exchange: Exchange) -> None:
        self.withdrawn.append(exchange)

    # the client
    def says(self, data: bytes) -> None:
        if not self.wire.closed:
            self.connection.data_received(data)

    def says_slowly(self, data: bytes, step: int = 1) -> None:
        for at in range(0, len(data), step):
            self.says(data[at : at + step])

    def leaves(self) -> None:
        self.wire.closed = True
        self.connection.connection_lost(None)

    @property
    def up(self) -> Up:
        """The newest upstream connection."""
        return self.ups[-1]

    @property
    def answer(self) -> bytes:
        """What the client received."""
        return self.wire.sent

    @property
    def status(self) -> int:
        """Status of the first answer, 0 without one."""
        return int(self.answer[9:12] or 0)

    @property
    def over(self) -> bool:
        """No further request will be read."""
        return self.wire.closed or self.wire.eof


@pytest.fixture
async def relay() -> Relay:
    return Relay()


@pytest.fixture
def make_relay() -> Callable[..., Relay]:
    """For async tests: a server connection needs a running loop."""
    return Relay
