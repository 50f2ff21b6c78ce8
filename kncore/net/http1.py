"""HTTP/1.1 on the wire: the server's side of a connection. The client's side is `kncore.net.http1_upstream`.

Both sides do the same three things to a message:

1. **Find the head.** Bytes are looked at only when the blank line is there (or a limit is passed); a head that
arrives in one read, nearly every head, is not copied.
2. **Understand it** (`kncore.net.heads`).
3. **Pass it on**, rebuilt in one join from the lines that are to be passed on. Message framing is never copied: how
the body ends is decided here and written anew. What we understood is what the next hop sees, nothing else.

llhttp never sees bodies: it has no way to stop between two pipelined requests, cannot be told that a response has
none (HEAD), and skips the body of a request that offers an upgrade. Counting bytes is the easy part.

A server connection handles one exchange at a time; pipelined requests wait as bytes (at most `TAIL_LIMIT` beyond one
read, then reading pauses) and are answered in order. On the usual path a request costs one `data_received`, one write
to the upstream, one `data_received` from it and one write to the client; no task, future or timer.

End of input from a client: with a request in progress that already is with an upstream, the answer is still delivered
(half-close); one that still waits for its turn is dropped, for a client that hung up looks the same and must not hold
a place in a queue.

Trust: hardened against both peers.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

from kncore.net.chunked import ChunkedReader, chunk
from kncore.net.errors import BadMessage
from kncore.net.exchange import Exchange
from kncore.net.hangup import hung_up, readable
from kncore.net.heads import DEFAULT_LIMITS, REASONS, RequestHead, RequestLimits, read_request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ssl import SSLObject

    from kncore.net.heads import ResponseHead

__all__ = ["TAIL_LIMIT", "Limits", "ServerConnection", "ServerExchange"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may do on one listener (DESIGN.md §5)."""

    head: RequestLimits = DEFAULT_LIMITS
    head_time: float = 60.0
    """From the first byte of a head to its last, seconds; then 408."""
    idle_time: float = 75.0
    """A connection without a request is closed, seconds."""
    body_time: float = 60.0
    """Without a byte of a request body that we would read, before an answer has begun, seconds; then 408."""
    connections: int = 10_000
    """More are answered 503 and closed."""


SAME_LIMIT: Final = 2048
"""Heads up to this size are kept to be recognised when they come again."""
TAIL_LIMIT: Final = 64 * 1024
"""Bytes of pipelined requests kept before reading pauses."""
QUIET: Final = 0.25
"""How long a connection without a request is waited for when draining, seconds."""
LINGER: Final = 2.0
"""How long a connection that was answered before its request was complete is still read after its last byte, seconds:
closing at once would make the kernel send a reset, and the reset can overtake the answer."""
LINGER_LIMIT: Final = 30.0
"""The longest that is done for a client that does not stop sending, seconds (nginx's lingering_time)."""
STALL: Final = 30.0
"""A connection that is to be closed once its last answer is sent is cut when the client takes nothing for so long."""
TURN: Final = 32
"""Pipelined requests answered at once before other connections have their turn: one read can hold ten thousand."""
WRITE_APART: Final = 32 * 1024
"""From this size a body is not worth copying behind its head."""

PREFACE_HEAD: Final = b"PRI * HTTP/2.0\r\n\r\n"
"""What HTTP/1 sees of the beginning of HTTP/2 (RFC 9113 §3.4), and cannot read."""
SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}(?: |$)")

# what the bytes that come next belong to
_HEAD, _LENGTH_BODY, _CHUNKED_BODY, _WAIT, _TUNNEL, _DISCARD = range(6)


_NO_HEAD: Final = RequestHead()


def _has_bare(partial: bytearray, pos: int) -> bool:
    """Whether bytes of a head contain NUL, or CR or LF alone, from a position up to which they were looked at before.

    Counting is a hundred times cheaper than a pattern, and heads can be made to be looked at often.
    """
    part = partial[pos:]
    ends = part.count(b"\r\n")
    return (
        b"\0" in part
        or part.count(b"\n") != ends + (pos > 0 and part[0] == 10)
        or part.count(b"\r") != ends + (part[-1] == 13)
    )


class Owner(Protocol):
    """The listener a server connection belongs to."""

    limits: Limits
    handler: Callable[[Exchange], None]
    draining: bool

    def opened(self, connection: ServerConnection) -> bool:
        """A connection was accepted; False refuses it."""

    def closed(self, connection: ServerConnection) -> None:
        """It is gone."""

    def refused(self, status: int) -> None:
        """It sent something that no handler sees; for statistics."""

    def speak_http2(self, connection: ServerConnection, data: bytes, upgrade: RequestHead | None = None) -> None:
        """Go on in HTTP/2 with `data`; `upgrade` is the request that asked for it, to be answered as stream 1."""


class ServerExchange(Exchange):
    """An exchange whose client speaks HTTP/1."""

    def __init__(self, connection: ServerConnection, head: RequestHead, started: float) -> None:
        # not super().__init__: a call less, on every request
        self.head = head
        self.method = head.method
        self.target = head.target
        self.host = head.host
        self.fields = head.fields
        self.started = started
        self._connection = connection
        self._transport = connection.transport

    _chunked = False
    _left = 0

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

    def answer(self, head: ResponseHead, body: bytes, *, end: bool) -> None:
        """The usual answer is whole, and its head the one before: it is sent as it was then (1.2 us less)."""
        connection = self._connection
        start = head.onward() if head.written is None else head.written
        if not (
            start
            and end
            and self.body_done
            and connection.keep_alive
            and not connection.owner.draining
            and not self.head.old
            and self._on_answer is None
            and self.method != b"HEAD"
            and len(body) < WRITE_APART
            and not self._transport.is_closing()
        ):
            super().answer(head, body, end=end)
            return
        self._carrier = None
        self.status = head.status
        self.bytes_out = len(body)
        self._transport.write(start + body)
        connection.complete(self)

    @property
    def trailing(self) -> bool:
        return self._chunked

    def _send_head(
        self, status: int, reason: bytes, lines: Sequence[bytes], length: int, body: bytes, *, end: bool
    ) -> None:
        connection = self._connection
        if self._transport.is_closing():
            return  # the client is gone and `connection_lost` is on its way: uvloop refuses writes already
        self.status = status
        out = [b"HTTP/1.1 %d %b" % (status, reason), *lines]
        bodiless = self.method == b"HEAD" or status == 204 or status == 304
        if length >= 0:
            if status != 204:
                out.append(b"Content-Length: %d" % length)
        elif bodiless:
            pass
        elif not self.head.old:
            self._chunked = True
            out.append(b"Transfer-Encoding: chunked")
        else:
            connection.keep_alive = False  # the body of an HTTP/1.0 answer ends with the connection
        if not self.body_done:
            connection.keep_alive = False  # the rest of the request may never come
        if not connection.keep_alive or connection.owner.draining:
            connection.keep_alive = False
            out.append(b"Connection: close")
        elif self.head.old:
            out.append(b"Connection: keep-alive")
        if bodiless:
            body = b""
        self.bytes_out = size = len(body)
        self._left = length - size
        if self._chunked and (body or end):
            body = chunk((body,), () if end else None)
        out.append(b"")
        if size < WRITE_APART:
            out.append(body)
            self._transport.write(b"\r\n".join(out))
        else:
            out.append(b"")
            self._transport.writelines((b"\r\n".join(out), body))
        if end:
            connection.complete(self)

    def _send_body(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        size = len(data)
        self.bytes_out += size
        if self._chunked:
            self._transport.writelines((b"%x\r\n" % size, data, b"\r\n"))
        else:
            self._left -= size
            self._transport.write(data)

    def _send_end(self, trailers: Sequence[bytes]) -> None:
        if self._transport.is_closing():
            return
        if self._chunked:
            self._transport.write(chunk((), trailers))
        self._connection.complete(self)

    def _send_informational(self, status: int, reason: bytes, lines: Sequence[bytes]) -> None:
        if not self.head.old and not self.status and not self._transport.is_closing():
            self._transport.write(b"\r\n".join((b"HTTP/1.1 %d %b" % (status, reason), *lines, b"", b"")))

    def _send_switch(self, reason: bytes, lines: Sequence[bytes], data: bytes) -> None:
        self.status = 101
        self.bytes_out = len(data)
        self._transport.write(b"\r\n".join((b"HTTP/1.1 101 %b" % reason, *lines, b"", data)))
        self._connection.tunnel()

    def send_raw(self, data: bytes) -> None:
        """Bytes of the tunnel for the client."""
        self.bytes_out += len(data)
        if not self._transport.is_closing():
            self._transport.write(data)

    def end_raw(self) -> None:
        """The upstream will send nothing more through the tunnel."""
        self._connection.end_tunnel()

    def _cut(self, text: bytes) -> None:
        connection = self._connection
        if self._transport.is_closing():
            pass
        elif self._chunked:
            # the original ends a body that ran out of time with its text, properly terminated (serving §6.5)
            if text:
                self._transport.write(chunk((text,), ()))
        elif text and self._left > 0:
            self._transport.write(text[: self._left - 1])
        connection.cut(self, abruptly=self._left < 0 and not self._chunked)

    def _pause_body(self) -> None:
        self._connection.pause()

    def _resume_body(self) -> None:
        self._connection.unpause()


class ServerConnection(asyncio.Protocol):
    """A client's connection: reads requests one after the other and gives each to the owner's handler."""

    transport: asyncio.Transport
    now: Callable[[], float]

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.keep_alive = True
        self._limits = owner.limits
        self.peer = ""
        self.peer_port = 0
        self._state = _HEAD
        self._exchange: ServerExchange | None = None
        self._partial: bytearray | None = None
        self._tail = b""
        self._tail_pos = 0
        self._left = 0
        self._chunks: ChunkedReader | None = None
        self._feeding = False
        self._paused = False
        self._same = b""
        self._head = _NO_HEAD
        self._since = 0.0
        self._ended = False
        self._over = False  # a tunnel's direction towards the client has ended
        self._blank = False
        self._clogged = False  # the client does not take what we write
        self._seen = 0  # at the last tick: bytes received, or still to be sent
        self._until = 0.0

    # transport ------------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.now = asyncio.get_running_loop().time
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer, self.peer_port = peer[0], peer[1]
        if not self.owner.opened(self) and not self.transport.is_closing():
            self._refuse(503, "too many connections")

    def data_received(self, data: bytes) -> None:
        if data == self._same and self._state == _HEAD and not self._head.length:
            # what most clients send most of the time: the head of the request before, and nothing else
            self._begin(self._head)
        elif self._state == _HEAD:
            if self._partial is not None:
                data = self._more_head(self._partial, data)
                if not data:
                    return
            pos = self._read_head(data, 0)
            if pos < len(data):
                self._feed(data, pos)
        elif self._tail:
            self._keep_tail(self._tail[self._tail_pos :] + data, 0)
        else:
            self._feed(data, 0)

    def _more_head(self, partial: bytearray, data: bytes) -> bytes:
        """The bytes from the head's first one, empty while its end is not there."""
        look = max(len(partial) - 3, 0)
        partial += data
        if partial.find(b"\r\n\r\n", look) < 0:
            self._judge_partial(partial, look)
            return b""
        self._partial = None
        return bytes(partial)

    def eof_received(self) -> bool:
        exchange = self._exchange
        if self._ended:
            return False
        self._ended = True
        if exchange is None or (self._tail and not exchange.body_done):
            return bool(self._tail)
        if not self._tail:
            self.keep_alive = False  # else there are more requests to answer
        if exchange.upgraded:
            exchange.tunnel_end()
            return not self._over  # when both directions have ended, nobody else would close it
        if exchange.body_done and exchange.upstream is not None:
            return True
        self._exchange = None
        exchange.gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _DISCARD
        self._partial = None
        self._tail = b""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.gone()
        self.owner.closed(self)

    def pause_writing(self) -> None:
        self._clogged = True
        if self._exchange is not None:
            self._exchange.clogged()
        else:
            self.pause()

    def resume_writing(self) -> None:
        self._clogged = False
        if self._exchange is not None:
            self._exchange.drained()
        else:
            self._go_on()

    # bytes in -------------------------------------------------------------------------------------------------------
    def _feed(self, data: bytes, pos: int) -> None:
        """Consume bytes until they are used up or a request is in progress that must be answered first."""
        size = len(data)
        self._feeding = True
        turns = TURN
        while pos < size:
            state = self._state
            if state == _HEAD:
                if not turns:
                    self._state = _WAIT
                    asyncio.get_running_loop().call_soon(self._go_on)
                    continue
                turns -= 1
                pos = self._read_head(data, pos)
            elif state == _LENGTH_BODY:
                pos = self._read_length(data, pos)
            elif state == _CHUNKED_BODY:
                pos = self._read_chunks(data, pos)
            elif state == _TUNNEL:
                assert self._exchange is not None
                self._exchange.tunnel_in(data[pos:])
                pos = size
            elif state == _WAIT:
                self._keep_tail(data, pos)
                break
            else:
                self._since = 0.0  # a client that is still sending has not read the answer
                break
        self._feeding = False
        if self._ended and not self._tail:
            self._judge_end()

    def _judge_end(self) -> None:
        """All that the client has sent is read."""
        exchange = self._exchange
        if exchange is None:
            if self._state == _HEAD:
                self._shut(clean=True)
        elif not exchange.body_done:
            self._exchange = None
            self.transport.close()
            exchange.gone()

    def _keep_tail(self, data: bytes, pos: int) -> None:
        self._tail = data
        self._tail_pos = pos
        if len(data) - pos > TAIL_LIMIT:
            self.pause()

    def _go_on(self) -> None:
        """Read on after a rest: others had a turn, or the client has taken its answers."""
        if self._state == _CHUNKED_BODY:
            if self._tail:
                self._take_tail()
        elif self._exchange is None and not self._clogged:
            if self._state == _WAIT:
                self._state = _HEAD
            if self._tail and self._state == _HEAD:
                self._take_tail()
            else:
                self.unpause()

    def _take_tail(self) -> None:
        data, pos = self._tail, self._tail_pos
        self._tail = b""
        if self._exchange is None or not self._exchange.body_held:
            self.unpause()
        self._feed(data, pos)

    def pause(self) -> None:
        """Read no more from the client for now."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def unpause(self) -> None:
        """Read on."""
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def _judge_partial(self, partial: bytearray, look: int) -> None:
        """Refuse a head that cannot become a good one, without waiting for its end."""
        head_bytes, head_lines, line_bytes = self._limits.head
        line_end = partial.find(b"\r\n", 0, line_bytes + 2)
        start = partial.lstrip(b"\r\n") if partial[0] in b"\r\n" else partial
        if not _METHOD.match(start or b"G"):
            self._refuse(400, "malformed request head")
        elif line_end < 0 and len(partial) > line_bytes + 1:
            self._refuse(414, "request line too long")
        elif len(partial) > head_bytes or partial.count(b"\n") > head_lines + 2:
            self._refuse(431, "request header fields too large")
        elif _has_bare(partial, max(look - 1, 0)):
            self._refuse(400, "malformed request head")

    def _read_head(self, data: bytes, pos: int) -> int:
        """Take one request's head and what came of its body; returns the position behind."""
        if self._same and data.startswith(self._same, pos):
            head = self._head
            end = pos + len(self._same)
        else:
            end = data.find(b"\r\n\r\n", pos) + 4
            if end > 3 and data.startswith(b"\r\n", pos):
                if self._blank:
                    self._refuse(400, "malformed request head")
                    return len(data)
                self._blank = True
                pos += 2  # some clients end a body with a line too many (RFC 9112 §2.2)
                end = data.find(b"\r\n\r\n", pos) + 4
            if end < 4:
                if pos < len(data):
                    self._partial = partial = bytearray(data[pos:])
                    self._same = b""
                    self._since = 0.0
                    self._judge_partial(partial, 0)
                return len(data)
            raw = data[pos:end]
            try:
                self._head = head = read_request(raw, self._limits.head)
            except BadMessage as bad:
                if raw == PREFACE_HEAD and self._head is _NO_HEAD:
                    self._leave(data[pos:], None)
                else:
                    self._refuse(bad.verdict, str(bad))
                return len(data)
            if head.http2 and self.transport.get_extra_info("ssl_object") is None:
                self._leave(data[end:], head)
                return len(data)
            self._same = raw if len(raw) <= SAME_LIMIT else b""
            self._blank = False
        length = head.length
        if not length:
            self._begin(head)
            return end
        self._exchange = exchange = ServerExchange(self, head, self.now())
        self.keep_alive = head.keep_alive
        if length > 0:
            self._left = length
            self._state = _LENGTH_BODY
            if end < len(data):
                end = self._read_length(data, end)
        else:
            self._chunks = ChunkedReader()
            self._state = _CHUNKED_BODY
            if end < len(data):
                end = self._read_chunks(data, end)
                if exchange.done:
                    return end
        self.owner.handler(exchange)
        return end

    def _begin(self, head: RequestHead) -> None:
        """Hand over a request without a body."""
        self._state = _WAIT
        self.keep_alive = head.keep_alive
        self._exchange = exchange = ServerExchange(self, head, self.now())
        exchange.body_done = True
        self.owner.handler(exchange)

    def _leave(self, rest: bytes, upgrade: RequestHead | None) -> None:
        """Speak HTTP/2 from here on: this object is of no further use."""
        self._state = _DISCARD
        if upgrade is not None:
            self.transport.write(SWITCHING)
        self.owner.speak_http2(self, rest, upgrade)

    def _read_length(self, data: bytes, pos: int) -> int:
        exchange = self._exchange
        assert exchange is not None
        piece = data[pos : pos + self._left] if pos or len(data) > self._left else data
        self._left -= len(piece)
        if self._left:
            exchange.body(piece, end=False)
        else:
            self._state = _WAIT
            exchange.body(piece, end=True)
        return pos + len(piece)

    def _read_chunks(self, data: bytes, pos: int) -> int:
        exchange, chunks = self._exchange, self._chunks
        assert exchange is not None
        assert chunks is not None
        pieces: list[bytes] = []
        try:
            pos = chunks.feed(data, pos, pieces)
        except BadMessage as bad:
            self._exchange = None
            exchange.gone(bad)
            if exchange.status:
                self.transport.abort()
            else:
                self._refuse(bad.verdict, str(bad))
            return len(data)
        if chunks.done:
            self._chunks = None
            self._state = _WAIT
            exchange.body(b"".join(pieces), end=True, trailers=chunks.trailers)
        else:
            if pos < len(data):  # a great many chunks
                self._keep_tail(data, pos)
                asyncio.get_running_loop().call_soon(self._go_on)
                pos = len(data)
            if pieces:
                exchange.body(b"".join(pieces), end=False)
        return pos

    # answers --------------------------------------------------------------------------------------------------------
    def complete(self, exchange: ServerExchange) -> None:
        """The answer has been written to its end."""
        self._exchange = None
        self._since = 0.0
        if self.keep_alive and exchange.body_done:
            if self._clogged:
                self.pause()  # and stay in _WAIT: answers would pile up here
                exchange.finish()
                return
            self._state = _HEAD
            if self._paused:
                self.unpause()  # the body was held back, and nobody took it
            exchange.finish()
            if self._feeding:
                return
            if self._tail:
                self._take_tail()
            elif self._ended:
                self._shut(clean=True)
        else:
            self._shut(exchange.body_done and not self._tail)
            exchange.finish()

    def cut(self, exchange: ServerExchange, *, abruptly: bool) -> None:
        """The answer ends here, incomplete or refused."""
        self._exchange = None
        self._state = _DISCARD
        self._since = 0.0
        if abruptly:
            self.transport.abort()
        else:
            self.transport.close()
        exchange.finish()

    def _refuse(self, status: int, why: str) -> None:
        """Answer something that no handler gets to see, and close."""
        self._partial = None
        self.owner.refused(status)
        body = why.encode() + b"\n"
        head = b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        self.transport.write(head % (status, REASONS[status], len(body)) + body)
        self._shut(clean=False)

    def _shut(self, clean: bool) -> None:
        """Close after what was written has been sent; `clean` if the client owes us no bytes."""
        self._state = _DISCARD
        self._tail = b""
        self._since = 0.0
        self._until = self.now() + LINGER_LIMIT
        if clean or self._ended or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            self._write_eof()
            self.unpause()

    def _write_eof(self) -> None:
        try:
            self.transport.write_eof()
        except OSError:  # asyncio's raises what uvloop's keeps to itself: the client has just reset the connection
            self.transport.abort()

    # tunnel ---------------------------------------------------------------------------------------------------------
    def tunnel(self) -> None:
        """The exchange was upgraded: everything the client sends is the upstream's."""
        self._state = _TUNNEL
        self.keep_alive = False
        if self._tail and not self._feeding:
            self._take_tail()
        if self._ended and self._exchange is not None:
            self._exchange.tunnel_end()  # it said so while the upstream made up its mind

    def end_tunnel(self) -> None:
        """The upstream's direction has ended."""
        if self._ended or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            self._over = True
            self._write_eof()

    # time -----------------------------------------------------------------------------------------------------------
    def tick(self, now: float) -> bool:
        """Compare the connection's clocks with now; True if a request is in progress."""
        exchange = self._exchange
        if exchange is not None:
            if not exchange.body_done:
                self._watch_body(exchange, now)
            if self._paused and hung_up(self.transport, half=exchange.upstream is None):
                self.transport.abort()  # nobody reads, so nobody else would notice
            exchange.tick(now)
            return True
        if not self._since:
            self._since = now
            return False
        age = now - self._since
        if self._state == _DISCARD:
            self._linger(now, age)
        elif self._partial is not None:
            if age > self._limits.head_time:
                self._refuse(408, "request head not complete in time")
        elif age > self._limits.idle_time:
            self._shut(clean=True)
        return False

    def _watch_body(self, exchange: ServerExchange, now: float) -> None:
        """End a request whose body does not come; one that is answered already may be a conversation."""
        if exchange.bytes_in != self._seen or self._paused:
            self._seen = exchange.bytes_in
            self._since = now
        elif exchange.status or (not exchange.bytes_in and b"expect" in exchange.fields):
            pass  # a client that waits for 100 is right to send nothing; the request's own clocks bound it
        elif now - max(self._since, exchange.started) > self._limits.body_time:
            late = BadMessage("request body not complete in time", 408)
            exchange.fail(late.verdict, str(late).encode() + b"\n", late)

    def _linger(self, now: float, age: float) -> None:
        """Abort a connection that was to be closed, once nothing moves on it."""
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            if unsent != self._seen:
                self._seen = unsent
                self._since = now
            elif age > STALL:
                self.transport.abort()
        elif age > LINGER or now > self._until:
            self.transport.abort()

    @property
    def idle_since(self) -> float | None:
        """Loop time since which it was seen without a whole request, 0 if it was not looked at yet; None while it has
        one, or is about to be closed."""
        return self._since if self._exchange is None and self._state in (_HEAD, _WAIT) else None

    def close_if_idle(self) -> None:
        """Draining: close unless a request has begun, or may be on its way.

        A client that asks without a pause sends its next request while we decide to close, and would have to guess
        what became of it. So a connection is given a moment, and told to close with that request's answer.
        """
        if self._exchange is None and self._partial is None and self._state in (_HEAD, _WAIT):
            now = self.now()
            if not self._since:
                self._since = now
            elif now - self._since >= QUIET and not readable(self.transport):
                self._shut(clean=True)

    def close_if_tunnel(self) -> None:
        """End a tunnel from our side."""
        if self._state == _TUNNEL:
            self.transport.close()
