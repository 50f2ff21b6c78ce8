"""A websocket that pushes stat messages to the autoscaler, for as long as the process lives.

    stream = StatStream("ws://autoscaler.knative-serving:8080", on_state=reachable)
    group.create_task(stream.run(), name="stat stream")
    stream.send_nowait(encode_messages([...]))     # never waits

`run` connects, and connects again whenever the connection is lost, until it is cancelled: back-off from 100 ms, times
1.3 with jitter, up to the 20th step, then again from the start. While connected it pings every 3.33 s; 10 s without
any frame from the server mean the connection is dead. Timings are the original's (serving §5.6), so a server may rely
on them.

What is bounded: unsent bytes. While disconnected, or when the server does not read, messages are dropped and counted,
newest first: a stat is worth something for about a second. Frames from the server are read and dropped.

wsproto frames the messages: no aiohttp in the sidecar. It is imported when the stream is made.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
)
from wsproto.utilities import RemoteProtocolError

from kncore.errors import KnError

__all__ = ["StatStream", "StreamStatistics"]

HANDSHAKE: Final = 3.0
PING: Final = 10.0 / 3
DEAD_AFTER: Final = 10.0
BACKOFF_FIRST: Final = 0.1
BACKOFF_FACTOR: Final = 1.3
BACKOFF_STEPS: Final = 20
BUFFER_LIMIT: Final = 256 * 1024
"""Bytes waiting for the socket beyond which messages are dropped."""


class _Refused(KnError):
    """The server does not speak websocket there."""


@dataclass(frozen=True, kw_only=True)
class StreamStatistics:
    """A stream at one moment; counts are since the start."""

    connected: bool
    sent: int
    dropped: int
    connects: int
    failures: int
    last_error: str


class _Socket(asyncio.Protocol):
    """One websocket connection."""

    transport: asyncio.Transport

    def __init__(self, host: str, target: str) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.heard = loop.time()
        self._now = loop.time
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._request = Request(host=host, target=target)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._ws.send(self._request))

    def data_received(self, data: bytes) -> None:
        self.heard = self._now()
        try:
            self._ws.receive_data(data)
            for event in self._ws.events():
                if isinstance(event, AcceptConnection):
                    self.opened.set_result(None)
                elif isinstance(event, Ping):
                    self.transport.write(self._ws.send(event.response()))
                elif isinstance(event, CloseConnection):
                    self.transport.write(self._ws.send(event.response()))
                    self.transport.close()
                    break
                elif isinstance(event, RejectConnection):
                    raise _Refused(f"the server answered {event.status_code}")
        except (RemoteProtocolError, _Refused) as exc:
            self._end(str(exc))
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc is not None else "closed by the server")

    def _end(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(why))

    def send(self, message: bytes) -> None:
        self.transport.write(self._ws.send(BytesMessage(data=message)))

    def ping(self) -> None:
        self.transport.write(self._ws.send(Ping()))

    def close(self) -> None:
        """Say goodbye and close; what was sent is flushed by the transport."""
        if not self.transport.is_closing():
            self.transport.write(self._ws.send(CloseConnection(code=1000)))
            self.transport.close()


class StatStream:
    """Keeps a websocket to `url` and sends binary frames on it.

    Args:
        url: `ws://host[:port][/path]`.
        on_state: called with True when the connection is up and with False when it is lost.
    """

    def __init__(self, url: str, on_state: Callable[[bool], None] | None = None, *, name: str = "stat stream") -> None:
        parts = urlsplit(url)
        if parts.scheme != "ws" or not parts.hostname:
            raise ValueError(f"not a ws:// URL: {url!r}")
        self.name = name
        self._host = parts.hostname
        self._port = parts.port or 80
        self._netloc = parts.netloc
        self._target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        self._on_state = on_state
        self._socket: _Socket | None = None
        self._sent = 0
        self._dropped = 0
        self._connects = 0
        self._failures = 0
        self._last_error = ""

    @property
    def connected(self) -> bool:
        """The server has accepted the connection, and it is not known to be lost."""
        return self._socket is not None

    def send_nowait(self, message: bytes) -> bool:
        """Send one binary frame; False if it had to be dropped."""
        socket = self._socket
        if socket is None or socket.transport.get_write_buffer_size() > BUFFER_LIMIT:
            self._dropped += 1
            return False
        socket.send(message)
        self._sent += 1
        return True

    async def run(self) -> None:
        """Stay connected until cancelled."""
        step = 0
        while True:
            started = time.monotonic()
            try:
                await self._session()
            except (OSError, TimeoutError) as exc:
                self._failures += 1
                self._last_error = str(exc) or type(exc).__name__
            if time.monotonic() - started > DEAD_AFTER:
                step = 0  # it was up: this is a new trouble
            pause = BACKOFF_FIRST * BACKOFF_FACTOR ** (step % BACKOFF_STEPS)
            step += 1
            await asyncio.sleep(pause * random.uniform(1.0, 1.5))

    async def _session(self) -> None:
        """One connection, from dialling to its loss."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HANDSHAKE):
            _, socket = await loop.create_connection(
                lambda: _Socket(self._netloc, self._target), self._host, self._port
            )
            try:
                await socket.opened
            except BaseException:
                socket.transport.abort()
                raise
        self._connects += 1
        self._socket = socket
        self._tell(True)
        try:
            while True:
                await asyncio.wait((socket.lost,), timeout=PING)
                if socket.lost.done():
                    raise ConnectionError(socket.lost.result())
                if loop.time() - socket.heard > DEAD_AFTER:
                    raise ConnectionError(f"nothing heard for {DEAD_AFTER:.0f} s")
                socket.ping()
        finally:
            self._socket = None
            socket.close()
            self._tell(False)

    def _tell(self, up: bool) -> None:
        if self._on_state is not None:
            self._on_state(up)

    def statistics(self) -> StreamStatistics:
        """What was sent, lost and tried."""
        return StreamStatistics(
            connected=self.connected,
            sent=self._sent,
            dropped=self._dropped,
            connects=self._connects,
            failures=self._failures,
            last_error=self._last_error,
        )
