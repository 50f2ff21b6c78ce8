"""An upstream that speaks HTTP/2 through the h2 library, and misbehaves when told to."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Self, cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame

__all__ = ["Call", "H2Upstream", "Link", "SettingCodes"]

Headers = Sequence[tuple[str, str]]


class Call:
    """One request, and the means to answer it."""

    def __init__(self, link: "Link", stream: int, headers: Headers) -> None:
        self.link = link
        self.stream = stream
        self.headers = dict(headers)
        self.body = bytearray()
        self.trailers: Headers = ()
        self.ended = False

    @property
    def path(self) -> str:
        return self.headers[":path"]

    def answer(self, body: bytes = b"", *, status: int = 200, headers: Headers = (), trailers: Headers = ()) -> None:
        """A whole answer."""
        self.head(status, headers, end=not body and not trailers)
        if body:
            self.data(body, end=not trailers)
        if trailers:
            self.link.h2.send_headers(self.stream, list(trailers), end_stream=True)
        self.link.flush()

    def head(self, status: int = 200, headers: Headers = (), *, end: bool = False) -> None:
        """The head of an answer, final or interim."""
        self.link.h2.send_headers(self.stream, [(":status", str(status)), *headers], end_stream=end)
        self.link.flush()

    def data(self, body: bytes, *, end: bool = False) -> None:
        """More of the body; what the windows do not allow goes when they do."""
        self.link.send(self.stream, body, end)

    def reset(self, code: int) -> None:
        """RST_STREAM."""
        self.link.h2.reset_stream(self.stream, code)
        self.link.flush()


class Link(asyncio.Protocol):
    """One connection from the proxy."""

    transport: asyncio.Transport

    def __init__(self, owner: "H2Upstream") -> None:
        self.owner = owner
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.calls: dict[int, Call] = {}
        self.resets: list[int] = []
        self.waiting: dict[int, list[tuple[memoryview, bool]]] = {}
        self.served = 0
        self.spoken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.owner.links.append(self)
        if self.owner.garbage is not None:
            self.transport.write(self.owner.garbage)
            return
        if self.owner.settings:
            self.h2.update_settings(self.owner.settings)
            self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.open.discard(self)

    def data_received(self, data: bytes) -> None:
        if self.owner.garbage is not None:
            return
        self.spoken = True
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as exc:
            self.owner.complaints.append(str(exc))
            self.transport.abort()
            return
        for event in events:
            self._take(event)
        self.flush()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            call = self.calls[event.stream_id] = Call(self, event.stream_id, cast("Headers", event.headers))
            self.owner.calls.append(call)
            if self.owner.on_head is not None:
                self.owner.on_head(call)
        elif isinstance(event, h2.events.DataReceived):
            self.calls[event.stream_id].body += event.data or b""
            if self.owner.windows and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.calls[event.stream_id].trailers = cast("Headers", event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            call = self.calls[event.stream_id]
            call.ended = True
            self.served += 1
            self.owner.behave(call)
        elif isinstance(event, h2.events.StreamReset):
            self.resets.append(event.stream_id)
            self.waiting.pop(event.stream_id, None)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for stream in list(self.waiting):
                self._send_waiting(stream)

    def send(self, stream: int, data: bytes, end: bool) -> None:
        self.waiting.setdefault(stream, []).append((memoryview(data), end))
        self._send_waiting(stream)

    def _send_waiting(self, stream: int) -> None:
        parts = self.waiting.get(stream)
        while parts:
            data, end = parts.pop(0)
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if len(data) > room:
                parts.insert(0, (data[room:], end))
                if not room:
                    break
                data, end = data[:room], False
            try:
                self.h2.send_data(stream, bytes(data), end_stream=end)
            except h2.exceptions.StreamClosedError:  # its reset is among the events to come
                parts.clear()
        if not parts:
            self.waiting.pop(stream, None)
        self.flush()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.transport.write(data)

    def goaway(self, last: int, code: int = 0) -> None:
        """Say that streams above `last` were not looked at."""
        frame = GoAwayFrame(0, last_stream_id=last, error_code=code)  # the library would stop at that
        self.transport.write(frame.serialize())


class H2Upstream:
    """A listening upstream.

    Args:
        behave: called with every complete request; answers it with `ok` unless told otherwise.
        on_head: called with every request head.
        settings: what it announces.
        windows: it gives windows back.
        garbage: what it says instead of speaking HTTP/2.
    """

    def __init__(
        self,
        behave: Callable[[Call], None] = lambda call: call.answer(b"ok"),
        *,
        on_head: Callable[[Call], None] | None = None,
        settings: dict[SettingCodes | int, int] | None = None,
        windows: bool = True,
        garbage: bytes | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.behave = behave
        self.on_head = on_head
        self.settings = settings
        self.windows = windows
        self.garbage = garbage
        self.links: list[Link] = []
        self.open: set[Link] = set()
        self.calls: list[Call] = []
        self.complaints: list[str] = []
        """What the library had against what it was sent; empty in the end, or the proxy is wrong."""
        self.port = 0
        self._tls = tls

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._make, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in self.links:
            link.transport.abort()
        await asyncio.sleep(0)
        assert self.complaints == []

    def _make(self) -> Link:
        made = Link(self)
        self.open.add(made)
        return made
