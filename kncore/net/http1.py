"""HTTP/1.1 on the wire: the server's side of a connection. The client's side is `kncore.net.http1_upstream`.

Both sides do the same three things to a message:

1. **Find the head.** Bytes are looked at only when the blank line is there (or a limit is passed); a head that
   arrives in one read, nearly every head, is never copied.
2. **Judge it.** llhttp (httptools) parses the head in strict mode, one parser object per connection, reused; we split
   the same bytes into lines and check what llhttp lets through: versions, double spaces, codings other than
   `chunked`, `Transfer-Encoding` in HTTP/1.0, repeated `Host`, characters in `Host`. The number of lines llhttp saw
   must be the number of lines we saw.
3. **Pass it on**, rebuilt in one join from the lines that are to be passed on. Message framing is never copied: how
   the body ends is decided here (`content_length`, `ChunkedReader`) and written anew. What we understood is what the
   next hop sees, nothing else.

llhttp's verdict on bodies is not used: it has no way to stop between two pipelined requests, cannot be told that a
response has none (HEAD), and skips the body of a request that offers an upgrade. Counting bytes is the easy part.

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

import httptools

from kncore.net.chunked import ChunkedReader, chunk
from kncore.net.errors import BadMessage
from kncore.net.exchange import REASONS, Exchange
from kncore.net.headers import FRAMING, options, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["TAIL_LIMIT", "Limits", "ServerConnection", "ServerExchange", "content_length", "fields_of"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may do on one listener (DESIGN.md §5)."""

    header_bytes: int = 64 * 1024
    """Request line and fields together; more is answered 431."""
    header_lines: int = 128
    request_line_bytes: int = 16 * 1024
    """More is answered 414."""
    header_time: float = 60.0
    """From the first byte of a head to its last, seconds; then 408."""
    idle_time: float = 75.0
    """A connection without a request is closed, seconds."""
    connections: int = 10_000
    """More are answered 503 and closed."""


TAIL_LIMIT: Final = 64 * 1024
"""Bytes of pipelined requests kept before reading pauses."""
LINGER: Final = 2.0
"""How long a connection that was answered before its request was complete is still read, seconds: closing at once
would make the kernel send a reset, and the reset can overtake the answer."""
WRITE_APART: Final = 32 * 1024
"""From this size a body is not worth copying behind its head."""

_HTTP11: Final = b"HTTP/1.1"
_BARE: Final = re.compile(rb"(?<!\r)\n|\r[^\n]|\0")
_TOKEN_START: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,24}(?: |$)")
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]*)?")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

# what the bytes that come next belong to
_HEAD, _LENGTH_BODY, _CHUNKED_BODY, _WAIT, _TUNNEL, _DISCARD = range(6)


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


def content_length(line: bytes) -> int:
    """The number in a `Content-Length` line.

    Raises:
        BadMessage: anything but 1 to 18 ASCII digits.
    """
    value = value_of(line)
    if _LENGTH.fullmatch(value) is None:
        raise BadMessage("bad Content-Length")
    return int(value)


def fields_of(lines: list[bytes]) -> tuple[dict[bytes, bytes], bool]:
    """Lower-case name -> line, and whether some name occurs more than once (then its values are joined by commas)."""
    fields = {line.partition(b":")[0].lower(): line for line in lines}
    if len(fields) == len(lines):
        return fields, False
    fields = {}
    for line in lines:
        name = line.partition(b":")[0].lower()
        fields[name] = fields[name] + b", " + value_of(line) if name in fields else line
    return fields, True


class Silent:
    """llhttp is asked for its verdict only: without callbacks it makes no objects."""


SILENT: Final = Silent()


class ServerExchange(Exchange):
    """An exchange whose client speaks HTTP/1."""

    def __init__(
        self,
        connection: ServerConnection,
        method: bytes,
        target: bytes,
        fields: Mapping[bytes, bytes],
        lines: Sequence[bytes],
        started: float,
    ) -> None:
        self._connection = connection
        self._transport = connection.transport
        self.method = method
        self.target = target
        self.fields = fields
        self.lines = lines
        self.started = started

    old = False
    """HTTP/1.0: no chunked coding, no interim answers, and the connection ends with the answer unless asked to stay."""
    _chunked = False
    _left = 0

    def _send_head(
        self, status: int, reason: bytes, lines: Sequence[bytes], length: int, body: bytes, *, end: bool
    ) -> None:
        connection = self._connection
        self.status = status
        out = [b"HTTP/1.1 %d %b" % (status, reason), *lines]
        bodiless = self.method == b"HEAD" or status == 204 or status == 304
        if length >= 0:
            if status != 204:
                out.append(b"Content-Length: %d" % length)
        elif bodiless:
            pass
        elif not self.old:
            self._chunked = True
            out.append(b"Transfer-Encoding: chunked")
        else:
            connection.keep_alive = False  # the body of an HTTP/1.0 answer ends with the connection
        if not self.body_done:
            connection.keep_alive = False  # the rest of the request may never come
        if not connection.keep_alive or connection.owner.draining:
            connection.keep_alive = False
            out.append(b"Connection: close")
        elif self.old:
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
        size = len(data)
        self.bytes_out += size
        if self._chunked:
            self._transport.writelines((b"%x\r\n" % size, data, b"\r\n"))
        else:
            self._left -= size
            self._transport.write(data)

    def _send_end(self, trailers: Sequence[bytes]) -> None:
        if self._chunked:
            self._transport.write(chunk((), trailers))
        self._connection.complete(self)

    def _send_informational(self, status: int, reason: bytes, lines: Sequence[bytes]) -> None:
        if not self.old and not self.status:
            self._transport.write(b"\r\n".join((b"HTTP/1.1 %d %b" % (status, reason), *lines, b"", b"")))

    def _send_switch(self, reason: bytes, lines: Sequence[bytes], data: bytes) -> None:
        self.status = 101
        self.bytes_out = len(data)
        self._transport.write(b"\r\n".join((b"HTTP/1.1 101 %b" % reason, *lines, b"", data)))
        self._connection.tunnel()

    def send_raw(self, data: bytes) -> None:
        """Bytes of the tunnel for the client."""
        self.bytes_out += len(data)
        if self._idle:
            self._touch()
        self._transport.write(data)

    def end_raw(self) -> None:
        """The upstream will send nothing more through the tunnel."""
        self._connection.end_tunnel()

    def _cut(self, text: bytes) -> None:
        connection = self._connection
        if self._chunked:
            # the original ends a body that ran out of time with its text, properly terminated (serving §6.5)
            if text:
                self._transport.write(chunk((text,), ()))
        elif text and self._left > 0:
            self._transport.write(text[: self._left - 1])
        connection.cut(self, abruptly=self._left < 0 and not self._chunked)

    def _touch(self) -> None:
        self._touched = self._connection.now()

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
        self.peer = ""
        self.peer_port = 0
        self._state = _HEAD
        self._exchange: ServerExchange | None = None
        self._parser = httptools.HttpRequestParser(SILENT)
        self._partial: bytearray | None = None
        self._tail = b""
        self._tail_pos = 0
        self._left = 0
        self._chunks: ChunkedReader | None = None
        self._feeding = False
        self._paused = False
        self._good_host = b""
        self._since = 0.0
        self._ended = False

    # transport ------------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.now = asyncio.get_running_loop().time
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer, self.peer_port = peer[0], peer[1]
        if not self.owner.opened(self):
            self._refuse(503, "too many connections")

    def data_received(self, data: bytes) -> None:
        partial = self._partial
        if partial is not None:
            look = max(len(partial) - 3, 0)
            partial += data
            if partial.find(b"\r\n\r\n", look) < 0:
                self._judge_partial(partial, look)
                return
            self._partial = None
            data = bytes(partial)
        if self._tail or self._feeding:
            self._hold(data)
        else:
            self._feed(data, 0)

    def eof_received(self) -> bool:
        exchange = self._exchange
        if exchange is None or self._ended:
            return False
        self._ended = True
        self.keep_alive = False
        if exchange.upgraded:
            exchange.tunnel_end()
            return True
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
        if self._exchange is not None:
            self._exchange.clogged()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.drained()

    # bytes in -------------------------------------------------------------------------------------------------------
    def _feed(self, data: bytes, pos: int) -> None:
        """Consume bytes until they are used up or a request is in progress that must be answered first."""
        size = len(data)
        self._feeding = True
        while pos < size:
            state = self._state
            if state == _HEAD:
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
                break
        self._feeding = False

    def _hold(self, data: bytes) -> None:
        self._keep_tail(self._tail[self._tail_pos :] + data, 0)

    def _keep_tail(self, data: bytes, pos: int) -> None:
        self._tail = data
        self._tail_pos = pos
        if len(data) - pos > TAIL_LIMIT:
            self.pause()

    def _take_tail(self) -> None:
        data, pos = self._tail, self._tail_pos
        self._tail = b""
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
        limits = self.owner.limits
        line_end = partial.find(b"\r\n", 0, limits.request_line_bytes + 2)
        if _BARE.search(partial, max(look - 1, 0)) or not _TOKEN_START.match(partial.lstrip(b"\r\n") or b"G"):
            self._refuse(400, "malformed request head")
        elif line_end < 0 and len(partial) > limits.request_line_bytes:
            self._refuse(414, "request line too long")
        elif len(partial) > limits.header_bytes or partial.count(b"\n") > limits.header_lines + 2:
            self._refuse(431, "request header fields too large")

    def _read_head(self, data: bytes, pos: int) -> int:
        end = data.find(b"\r\n\r\n", pos)
        if data.startswith(b"\r\n", pos):
            pos += 2  # some clients end a body with a line too many (RFC 9112 §2.2)
            end = data.find(b"\r\n\r\n", pos)
        if end < 0:
            if pos < len(data):
                self._partial = partial = bytearray(data[pos:])
                self._since = 0.0
                self._judge_partial(partial, 0)
            return len(data)
        try:
            exchange = self._parse(data, pos, end + 4)
        except BadMessage as bad:
            self._refuse(bad.verdict, str(bad))
            return len(data)
        pos = end + 4
        self._exchange = exchange
        length = exchange.length
        if length == 0:
            exchange.body_done = True
            self._state = _WAIT
        elif length > 0:
            self._left = length
            self._state = _LENGTH_BODY
            if pos < len(data):
                pos = self._read_length(data, pos)
        else:
            self._chunks = ChunkedReader()
            self._state = _CHUNKED_BODY
            if pos < len(data):
                pos = self._read_chunks(data, pos)
                if self._state == _DISCARD:
                    return pos
        self.owner.handler(exchange)
        return pos

    def _parse(self, data: bytes, pos: int, end: int) -> ServerExchange:
        """The request whose head is `data[pos:end]`.

        Raises:
            BadMessage: it is none that we would let through.
        """
        limits = self.owner.limits
        head = data if pos == 0 and end == len(data) else data[pos:end]
        lines = head[:-4].split(b"\r\n")
        if len(head) > limits.header_bytes or len(lines) > limits.header_lines + 1:
            if len(lines[0]) > limits.request_line_bytes:
                raise BadMessage("request line too long", 414)
            raise BadMessage("request header fields too large", 431)
        start = lines.pop(0)
        if len(start) > limits.request_line_bytes:
            raise BadMessage("request line too long", 414)
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserInvalidMethodError:
            raise BadMessage("unknown method", 501 if _TOKEN_START.match(start) else 400) from None
        except httptools.HttpParserError as exc:
            raise BadMessage(str(exc)) from None
        words = start.split(b" ")
        if len(words) != 3:
            raise BadMessage("malformed request line")
        method, target, version = words
        fields, repeated = fields_of(lines)
        exchange = ServerExchange(self, method, target, fields, lines, self.now())
        exchange.peer = self.peer
        exchange.peer_port = self.peer_port
        exchange.repeated = repeated
        self.keep_alive = True
        if version != _HTTP11:
            if version != b"HTTP/1.0":
                raise BadMessage("HTTP version not supported", 505)
            exchange.version = version
            exchange.old = True
            self.keep_alive = False
        host = fields.get(b"host")
        if host is not None:
            exchange.host = host = value_of(host)
            if host != self._good_host:
                if _HOST.fullmatch(host) is None:  # a repeated Host has a comma now
                    raise BadMessage("malformed Host")
                self._good_host = host
        elif version == _HTTP11:
            raise BadMessage("missing Host")
        else:
            exchange.host = b""
        if target[:1] != b"/":
            self._read_target(exchange)
        elif b"#" in target:
            raise BadMessage("fragment in request target")
        if not FRAMING.isdisjoint(fields):
            self._read_framing(exchange)
        if exchange.length:
            # llhttp waits for a body that it will not see
            self._parser = httptools.HttpRequestParser(SILENT)
        return exchange

    def _read_target(self, exchange: ServerExchange) -> None:
        """Absolute and asterisk form."""
        target = exchange.target
        if exchange.method == b"CONNECT":
            raise BadMessage("CONNECT is not served here", 405)
        if target == b"*" and exchange.method == b"OPTIONS":
            return
        found = _ABSOLUTE.fullmatch(target)
        if found is None or not found[1] or _HOST.fullmatch(found[1]) is None or b"#" in target:
            raise BadMessage("malformed request target")
        exchange.host = found[1]
        rest = found[2]
        exchange.target = rest if rest.startswith(b"/") else b"/" + rest

    def _read_framing(self, exchange: ServerExchange) -> None:
        """Where the body ends, and what becomes of the connection."""
        fields = exchange.fields
        chosen = options(value_of(fields[b"connection"])) if b"connection" in fields else ()
        if b"close" in chosen:
            self.keep_alive = False
        elif b"keep-alive" in chosen:
            self.keep_alive = True
        coding = fields.get(b"transfer-encoding")
        length = fields.get(b"content-length")
        if coding is not None:
            if length is not None:
                raise BadMessage("Transfer-Encoding with Content-Length")
            if exchange.old:
                raise BadMessage("Transfer-Encoding in HTTP/1.0")
            if value_of(coding).lower() != b"chunked":
                raise BadMessage("unknown transfer coding")
            exchange.length = -1
        elif length is not None:
            exchange.length = content_length(length)
        if b"upgrade" in chosen and not exchange.old and exchange.length == 0:
            # an offer of h2c is for us, not for the upstream: passed on, it would open a connection past all our
            # rules
            offered = value_of(fields.get(b"upgrade", b""))
            exchange.upgrade = b"" if b"h2c" in options(offered) else offered

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
        elif pieces:
            exchange.body(b"".join(pieces), end=False)
        return pos

    # answers --------------------------------------------------------------------------------------------------------
    def complete(self, exchange: ServerExchange) -> None:
        """The answer has been written to its end."""
        self._exchange = None
        self._since = 0.0
        if self.keep_alive and exchange.body_done:
            self._state = _HEAD
            exchange.finish()
            if self._tail and not self._feeding:
                self._take_tail()
        else:
            self._shut(exchange.body_done and not self._tail)
            exchange.finish()

    def cut(self, exchange: ServerExchange, *, abruptly: bool) -> None:
        """The answer ends here, incomplete or refused."""
        self._exchange = None
        self._state = _DISCARD
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
        if clean or self._ended or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write_eof()
            self.unpause()

    # tunnel ---------------------------------------------------------------------------------------------------------
    def tunnel(self) -> None:
        """The exchange was upgraded: everything the client sends is the upstream's."""
        self._state = _TUNNEL
        self.keep_alive = False
        if self._tail and not self._feeding:
            self._take_tail()

    def end_tunnel(self) -> None:
        """The upstream's direction has ended."""
        if self._ended or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write_eof()

    # time -----------------------------------------------------------------------------------------------------------
    def tick(self, now: float) -> bool:
        """Compare the connection's clocks with now; True if a request is in progress."""
        exchange = self._exchange
        if exchange is not None:
            exchange.tick(now)
            return True
        if not self._since:
            self._since = now
            return False
        age = now - self._since
        if self._state == _DISCARD:
            if age > LINGER:
                self.transport.abort()
        elif self._partial is not None:
            if age > self.owner.limits.header_time:
                self._refuse(408, "request head not complete in time")
        elif age > self.owner.limits.idle_time:
            self.transport.close()
        return False

    def close_if_idle(self) -> None:
        """Close unless a request has begun."""
        if self._exchange is None and self._partial is None and self._state == _HEAD:
            self._state = _DISCARD
            self.transport.close()
