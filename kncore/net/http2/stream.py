"""A stream as an exchange: the server's side of one request over HTTP/2. Its connection is `kncore.net.http2.server`.

What the answer's upstream sends goes out as the client's windows allow; what they do not allow waits here, and the
upstream is read no further until it has left. The request body's bytes are counted as they are taken, which is what
the client gets window back for.

Trust: hardened; called with what the connection has read.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from kncore.net import grpc
from kncore.net.errors import BadMessage, ClientGone
from kncore.net.exchange import Exchange
from kncore.net.http2.frames import (
    DATA,
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    Code,
    data_frames,
    header_frames,
    write_header,
)
from kncore.net.http2.headers import response_block, trailer_block

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ssl import SSLObject

    from kncore.net.heads import RequestHead
    from kncore.net.http1 import Limits
    from kncore.net.http2.server import ServerConnection

__all__ = ["ServerExchange"]

_ANSWERED: Final = frozenset({b"sec-websocket-accept"})
"""What an upgrade says in HTTP/1 and the success of an extended CONNECT does not."""


class ServerExchange(Exchange):
    """An exchange whose client speaks HTTP/2: a stream."""

    def __init__(self, connection: ServerConnection, head: RequestHead, started: float, number: int) -> None:
        # not super().__init__: a call less, on every request
        self.head = head
        self.method = head.method
        self.target = head.target
        self.host = head.host
        self.fields = head.fields
        self.started = started
        self.number = number
        """The stream's."""
        self.window = connection.peer_settings.window
        """Bytes of body the client takes, by its stream's window."""
        self._connection = connection

    ended = False
    """The client's half of the stream is over."""
    protocol = "HTTP/2.0"
    left = -1
    """Bytes of the request body still to come, -1 if it did not say."""
    room = DEFAULT_WINDOW
    """Bytes of body the client may send, by our window."""
    owed = 0
    """Bytes that came and for which it got no window yet."""
    kept = 0
    """Bytes that came and that nobody has taken: part of the connection's window too."""
    stopped = True
    """Nobody takes the request body at the moment."""
    sent = 0.0
    """When the last byte left that had to wait for a window."""

    _pending: deque[bytes] | None = None
    _pending_bytes = 0
    _end: Sequence[bytes] | None = None
    _declared = False
    _early: list[bytes] | None = None
    tunnel = False
    """It came as an extended CONNECT."""

    @property
    def peer(self) -> str:
        return self._connection.peer

    @property
    def peer_port(self) -> int:
        return self._connection.peer_port

    @property
    def tls(self) -> SSLObject | None:
        session: SSLObject | None = self._connection.transport.get_extra_info("ssl_object")
        return session

    @property
    def trailing(self) -> bool:
        return self.status > 0 and self._end is None and not self._declared

    @property
    def pending_bytes(self) -> int:
        """Bytes of the answer that wait for a window."""
        return self._pending_bytes

    @property
    def said_all(self) -> bool:
        """Nothing more comes from the upstream, and nothing waits."""
        return self._end is not None and self._pending is None

    def expect_body(self) -> None:
        """There is more of the request to come; nobody takes it until an upstream has the exchange."""
        self._body_paused = True
        if self.head.upgrade:
            self.tunnel = self.body_done = True
        else:
            self.left = self.head.length

    # the answer -----------------------------------------------------------------------------------------------------
    def _send_head(
        self, status: int, reason: bytes, lines: Sequence[bytes], length: int, body: bytes, *, end: bool
    ) -> None:
        connection = self._connection
        if connection.over:
            return
        if self.tunnel and status < 300:
            self._no_tunnel()
            return
        self.status = status
        if status == 204 or status == 304 or self.method == b"HEAD":
            body = b""
            if status == 204:
                length = -1
        elif length >= 0:
            self._declared = True
        block = response_block(status, length, lines)
        if connection.peer_settings.table_update:
            block = connection.updated(block)
        size = len(body)
        self.bytes_out = size
        number = self.number
        if end and size <= self.window and size <= connection.window and size <= DEFAULT_FRAME_BYTES:
            if not size:
                connection.write(header_frames(number, block, end=True, frame_bytes=connection.frame_bytes))
            elif len(block) <= DEFAULT_FRAME_BYTES:
                connection.window -= size
                connection.data_sent += 1
                many = len(block)
                connection.write(
                    b"".join(
                        (
                            write_header(many >> 8, many & 255, HEADERS, END_HEADERS, number),
                            block,
                            write_header(size >> 8, size & 255, DATA, END_STREAM, number),
                            body,
                        )
                    )
                )
            else:
                connection.write(header_frames(number, block, end=False, frame_bytes=connection.frame_bytes))
                self._push(body)
                connection.write(write_header(0, 0, DATA, END_STREAM, number))
            connection.complete(self)
            return
        connection.write(header_frames(number, block, end=False, frame_bytes=connection.frame_bytes))
        if size:
            self._push(body)
        if end:
            self._finish(())

    def _no_tunnel(self) -> None:
        """The upstream answered an upgrade as if it were none: to this client, success would mean a tunnel."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.cancel()
        self.tunnel = False
        self.respond(502, b"the upstream does not speak the protocol asked for\n")

    def _send_body(self, data: bytes) -> None:
        if not self._connection.over:
            self.bytes_out += len(data)
            self._push(data)

    def _send_end(self, trailers: Sequence[bytes]) -> None:
        if not self._connection.over:
            self._finish(trailers)

    def _send_informational(self, status: int, reason: bytes, lines: Sequence[bytes]) -> None:
        if not self.status and not self._connection.over:
            block = self._connection.updated(response_block(status, -1, lines))
            self._connection.write(header_frames(self.number, block, end=False))

    def _send_switch(self, reason: bytes, lines: Sequence[bytes], data: bytes) -> None:
        self.status = 200
        lines = [line for line in lines if line.partition(b":")[0].lower() not in _ANSWERED]
        block = self._connection.updated(response_block(200, -1, lines))
        self._connection.write(header_frames(self.number, block, end=False))
        if data:
            self.send_raw(data)
        early, self._early = self._early, None
        for piece in early or ():
            self.tunnel_in(piece)
        if not self._body_paused:
            self._resume_body()
        if self.ended:
            self.tunnel_end()

    def send_raw(self, data: bytes) -> None:
        """Bytes of the tunnel for the client."""
        if not self._connection.over:
            self.bytes_out += len(data)
            self._push(data)

    def end_raw(self) -> None:
        """The upstream will send nothing more through the tunnel."""
        if not self._connection.over and self._end is None:
            self._end = ()
            if self._pending is None:
                self._connection.write(write_header(0, 0, DATA, END_STREAM, self.number))
                if self.ended:
                    self._connection.complete(self)

    def _push(self, data: bytes) -> None:
        """Send what the windows allow; the rest waits, and the upstream with it."""
        size = len(data)
        connection = self._connection
        if self._pending is None:
            if size <= self.window and size <= connection.window:
                self.window -= size
                connection.window -= size
                connection.data_sent += 1
                connection.writelines(
                    data_frames(self.number, data, end=False, frame_bytes=connection.frame_bytes), size
                )
                if connection.held_back:
                    self.clogged()
                return
            self._pending = deque()
            self.sent = connection.now()
        self._pending.append(data)
        self._pending_bytes += size
        connection.wait(size)
        if self.number not in connection.blocked:
            connection.blocked[self.number] = self
            self.pump(size)
        if self._pending is not None:
            self.clogged()

    def pump(self, most: int) -> bool:
        """Send up to `most` bytes of what waits, as the windows allow; True if some was sent and some is left."""
        connection = self._connection
        pending = self._pending
        assert pending is not None
        room = min(most, self.window, connection.window)
        if room <= 0:
            return False
        before = self._pending_bytes
        while pending and room > 0:
            piece = pending.popleft()
            if len(piece) > room:
                pending.appendleft(piece[room:])
                piece = piece[:room]
            size = len(piece)
            room -= size
            self.window -= size
            connection.window -= size
            self._pending_bytes -= size
            connection.data_sent += 1
            connection.writelines(data_frames(self.number, piece, end=False, frame_bytes=connection.frame_bytes), size)
        self.sent = connection.now()
        if pending:
            connection.wait(self._pending_bytes - before)
            return True
        self._pending = None
        connection.blocked.pop(self.number, None)
        connection.wait(-before)
        if self._end is None:
            if not connection.held_back:
                self.drained()
        elif self.upgraded:
            connection.write(write_header(0, 0, DATA, END_STREAM, self.number))
            if self.ended or self._carrier is None:
                connection.complete(self)
        else:
            self._write_end(self._end)
        return False

    def _finish(self, trailers: Sequence[bytes]) -> None:
        """The answer is complete, once what waits is sent."""
        if self._end is not None:
            return
        self._end = trailers
        if self._pending is None:
            self._write_end(trailers)

    def _write_end(self, trailers: Sequence[bytes]) -> None:
        connection = self._connection
        block = trailer_block(trailers) if trailers else b""
        if block:
            block = connection.updated(block)
            connection.write(header_frames(self.number, block, end=True, frame_bytes=connection.frame_bytes))
        else:
            connection.write(write_header(0, 0, DATA, END_STREAM, self.number))
        connection.complete(self)

    def _cut(self, text: bytes) -> None:
        connection = self._connection
        if connection.over:
            self.finish()
        elif self.upgraded and (self._pending is None or self.error is None):  # else it stalled, or took too long
            if self._end is not None:
                if self._pending is None:
                    connection.complete(self)  # both directions are over
            else:
                self._finish(())  # a tunnel has no other end
        elif text and self.trailing and self._pending is None and len(text) <= min(self.window, connection.window):
            # the original ends a body that ran out of time with its text, properly terminated (serving §6.5)
            self._push(text)
            self._finish(())
        elif self.refused and not self.status:
            connection.reset(self, Code.REFUSED_STREAM)
        else:
            connection.reset(self, Code.INTERNAL_ERROR)

    # the request ----------------------------------------------------------------------------------------------------
    def _pause_body(self) -> None:
        self.stopped = True

    def _resume_body(self) -> None:
        if self.tunnel and not self.upgraded:
            return  # an upstream that has yet to agree takes nothing: it waits here, within the stream's window
        self.stopped = False
        kept = self.kept
        if kept:
            self.kept = 0
            self._connection.taken(self, kept)

    def tunnel_in(self, data: bytes) -> None:
        if self.upgraded:
            super().tunnel_in(data)
        elif self._early is None:
            self._early = [data]
        else:
            self._early.append(data)

    def watch(self, now: float, limits: Limits, stall_time: float) -> None:
        """Compare the stream's clocks with now."""
        if self._pending is not None and now - self.sent > stall_time:
            self.abort(ClientGone("client opened no window in time"))
            self._connection.owner.ended("stalled stream")
            return
        if not self.body_done and not self.status and not self.stopped and self.bytes_in == self._watched[0]:
            if now - self._watched[1] > limits.body_time and not self._may_be_silent():
                late = BadMessage("request body not complete in time", 408)
                self.fail(late.verdict, str(late).encode() + b"\n", late)
                return
        else:
            self._watched = (self.bytes_in, now)
        self.tick(now)

    _watched = (-1, 0.0)

    def _may_be_silent(self) -> bool:
        """A client that waits for 100 is right to send nothing, and a call may be a conversation."""
        return (not self.bytes_in and b"expect" in self.fields) or grpc.is_call(self.fields)
