"""An HTTP/2 client (the h2 library) talking to a server connection over transports that are lists."""

from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from kncore.net.exchange import Handler
from kncore.net.http1 import Limits
from kncore.net.http2.frames import PREFACE, settings
from kncore.net.http2.limits import Http2Limits
from kncore.net.http2.server import ServerConnection
from tests.unit.kncore.net.conftest import Relay, Wire

GREETING = PREFACE + settings(())


class FullWire(Wire):
    """A transport whose client may stop reading."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Relay2(Relay):
    """A server connection for HTTP/2 whose handler forwards to connections (of HTTP/1) made on demand."""

    def __init__(
        self,
        handler: Handler | None = None,
        limits: Limits | None = None,
        http2: Http2Limits | None = None,
        greeting: bytes = GREETING,
    ) -> None:
        self.http2 = http2 or Http2Limits()
        self.endings: list[str] = []
        super().__init__(handler, limits)
        self.wire = FullWire()
        self.served = ServerConnection(self)
        self.served.connection_made(self.wire)  # type: ignore[arg-type]
        self.served._soon = lambda flush: flush()  # the loop does not turn here
        self.connection = self.served  # type: ignore[assignment]
        self.says(greeting)

    def ended(self, reason: str) -> None:
        self.endings.append(reason)

    @property
    def code(self) -> int | None:
        """The code of our last GOAWAY, None without one."""
        at = self.wire.sent.rfind(b"\x07\x00\x00\x00\x00\x00")
        return int.from_bytes(self.wire.sent[at + 10 : at + 14], "big") if at >= 3 else None


class Client:
    """The h2 library's client on a relay's wire."""

    def __init__(self, relay: Relay2, **settings: int) -> None:
        self.relay = relay
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings({getattr(h2.settings.SettingCodes, k): v for k, v in settings.items()})
        self.events: list[Any] = []
        self.said = b""
        self._read = 0
        self.turn()

    def turn(self) -> list[Any]:
        """Let both sides say what they have to say; returns what the client learned."""
        learned: list[Any] = []
        while True:
            out = self.h2.data_to_send()
            if out:
                self.said += out
                self.relay.says(out)
            sent = self.relay.wire.sent
            if len(sent) == self._read:
                break
            learned += self.h2.receive_data(sent[self._read :])
            self._read = len(sent)
        self.events += learned
        return learned

    def ask(self, *fields: tuple[str, str], method: str = "GET", end: bool = True, path: str = "/") -> int:
        """Open a stream with a request."""
        number = self.h2.get_next_available_stream_id()
        base = [(":method", method), (":scheme", "http"), (":authority", "h"), (":path", path)]
        self.h2.send_headers(number, [*base, *fields], end_stream=end)
        self.turn()
        return number

    def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(number, data, end_stream=end)
        self.turn()

    def answer(self, number: int) -> tuple[int, dict[bytes, bytes], bytes, dict[bytes, bytes] | None]:
        """(status, fields, body, trailers) of a stream so far; no trailers, no end: None."""
        fields: dict[bytes, bytes] = {}
        trailers: dict[bytes, bytes] | None = None
        body = b""
        for event in self.events:
            if getattr(event, "stream_id", None) != number:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                fields = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.TrailersReceived):
                trailers = dict(event.headers)
            elif isinstance(event, h2.events.StreamEnded) and trailers is None:
                trailers = {}
        return int(fields.pop(b":status", b"0")), fields, body, trailers

    def reset(self, number: int) -> int | None:
        """The code with which a stream was reset, None if it was not."""
        for event in self.events:
            if isinstance(event, h2.events.StreamReset) and event.stream_id == number:
                return int(event.error_code)
        return None


@pytest.fixture
def make_relay2() -> Callable[..., Relay2]:
    """For async tests: a server connection needs a running loop."""
    return Relay2


@pytest.fixture
async def relay2() -> Relay2:
    return Relay2(greeting=b"")


@pytest.fixture
async def client(relay2: Relay2) -> Client:
    return Client(relay2)
