"""HTTP/1.1 on the wire: the client's side of a connection, to an upstream.

The counterpart of `kncore.net.http1`, with the same way of reading heads. A connection carries one exchange at a
time; when the answer is complete, the request was sent to its end and neither side wants to close, it goes back to
its pool, otherwise it is closed. Nothing an upstream sends reaches the client unread: an answer is rebuilt from its
parsed lines, so an app cannot split responses, and bytes that arrive outside of an answer close the connection (they
would be taken for the answer to the next request).

Trust: hardened; user code is on the other end.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

from kncore.net.chunked import ChunkedReader, chunk
from kncore.net.errors import BadMessage, UpstreamClosed, UpstreamError, UpstreamGarbage
from kncore.net.exchange import REASONS
from kncore.net.headers import HOP_BY_HOP, options, value_of
from kncore.net.http1 import SILENT, content_length, fields_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kncore.net.exchange import Exchange

__all__ = ["ClientConnection", "Home"]

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of a response head."""
LINES_LIMIT: Final = 256
WRITE_APART: Final = 32 * 1024

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_NOT_PASSED: Final = HOP_BY_HOP | {b"content-length"}
_NO_NAMES: Final = frozenset({b"close", b"keep-alive"})
_known_starts: dict[bytes, tuple[int, bytes, bool]] = {}
"""Status lines seen, at most `_KNOWN_LIMIT`: an upstream has few, and matching one costs more than looking it up."""
_KNOWN_LIMIT: Final = 256

_IDLE, _HEAD, _LENGTH_BODY, _CHUNKED_BODY, _CLOSE_BODY, _TUNNEL, _GONE = range(7)


class Home(Protocol):
    """The pool entry a connection belongs to."""

    def released(self, connection: ClientConnection) -> None:
        """It can carry another exchange."""

    def lost(self, connection: ClientConnection) -> None:
        """It is closed, or about to be."""


class ClientConnection(asyncio.Protocol):
    """A connection to an upstream; a `Carrier` while it has an exchange."""

    transport: asyncio.Transport

    def __init__(self, home: Home) -> None:
        self.home = home
        self.served = 0
        """Exchanges begun on it."""
        self.idle_since = 0.0
        """For the pool: loop time of the first visit that found it idle."""
        self._state = _IDLE
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpResponseParser(SILENT)
        self._partial: bytearray | None = None
        self._chunks: ChunkedReader | None = None
        self._left = 0
        self._sent = True
        self._reusable = True
        self._paused = False

    @property
    def usable(self) -> bool:
        """Idle and, as far as we know, open."""
        return self._state == _IDLE and not self.transport.is_closing()

    # the request out ------------------------------------------------------------------------------------------------
    def start(self, exchange: Exchange) -> None:
        """Send the request: head and what there is of the body."""
        self._exchange = exchange
        self._state = _HEAD
        self._reusable = True
        self.served += 1
        out = [
            b"%b %b HTTP/1.1\r\nHost: %b" % (exchange.method, exchange.target, exchange.authority),
            *exchange.request_lines(),
        ]
        if exchange.upgrade:
            out += b"Connection: Upgrade", b"Upgrade: " + exchange.upgrade
        body = b""
        held = exchange.carry(self)
        self._sent = exchange.body_done
        if exchange.length:
            body = b"".join(held)
            if exchange.length < 0:
                out.append(b"Transfer-Encoding: chunked")
                body = chunk((body,), exchange.trailers if self._sent else None)
        out.append(b"")
        if len(body) < WRITE_APART:
            out.append(body)
            self.transport.write(b"\r\n".join(out))
        else:
            out.append(b"")
            self.transport.writelines((b"\r\n".join(out), body))

    def send_body(self, data: bytes, *, end: bool, trailers: Sequence[bytes] = ()) -> None:
        assert self._exchange is not None
        self._sent = end
        if self._exchange.length < 0:
            data = chunk((data,), trailers if end else None)
        if data:
            self.transport.write(data)

    def send_raw(self, data: bytes) -> None:
        self.transport.write(data)

    def end_raw(self) -> None:
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def pause(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def cancel(self) -> None:
        self._exchange = None
        self.close()

    def close(self) -> None:
        """Close at once and tell the pool."""
        if self._state != _GONE:
            self._state = _GONE
            self.home.lost(self)
            self.transport.abort()

    def discard(self) -> None:
        """Close at once; the pool has already struck it off."""
        self._state = _GONE
        self.transport.abort()

    # transport ------------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.hold_body()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.release_body()

    def eof_received(self) -> bool:
        if self._state == _TUNNEL and self._exchange is not None:
            self._exchange.end_raw()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        state, self._state = self._state, _GONE
        exchange, self._exchange = self._exchange, None
        if state != _GONE:
            self.home.lost(self)
        if exchange is None:
            return
        if state == _HEAD:
            exchange.upstream_failed(self._failure(UpstreamClosed, f"upstream closed the connection: {exc or 'EOF'}"))
        elif state == _TUNNEL:
            exchange.tunnel_closed()
        elif state == _CLOSE_BODY and exc is None:
            exchange.answer_end()
        else:
            exchange.upstream_cut(
                UpstreamClosed("upstream closed the connection in the middle of a body", written=True)
            )

    def _failure(self, kind: type[UpstreamError], why: str) -> UpstreamError:
        return kind(why, written=True, reused=self.served > 1, answered=self._partial is not None)

    # the answer in --------------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD:
            self._read_heads(data)
        elif state == _LENGTH_BODY:
            self._read_length(data)
        elif state == _CHUNKED_BODY:
            self._read_chunks(data)
        elif state == _CLOSE_BODY:
            assert self._exchange is not None
            self._exchange.answer_body(data)
        elif state == _TUNNEL:
            assert self._exchange is not None
            self._exchange.send_raw(data)
        else:
            self.close()  # nobody asked

    def _read_heads(self, data: bytes) -> None:
        """The head of the answer, with any 1xx before it."""
        partial = self._partial
        if partial is not None:
            look = max(len(partial) - 3, 0)
            partial += data
            if partial.find(b"\r\n\r\n", look) < 0:
                if len(partial) > HEAD_LIMIT:
                    self._give_up("response head too large")
                return
            data = bytes(partial)
        try:
            while self._state == _HEAD and data:
                end = data.find(b"\r\n\r\n")
                if end < 0:
                    self._partial = bytearray(data)
                    return
                if end > HEAD_LIMIT:
                    raise BadMessage("response head too large")
                data = self._read_head(data, end)
        except httptools.HttpParserError as exc:
            self._give_up(f"malformed response: {exc}")
        except BadMessage as exc:
            self._give_up(f"malformed response: {exc}")

    def _give_up(self, why: str) -> None:
        """The answer cannot be understood."""
        exchange, self._exchange = self._exchange, None
        failure = UpstreamGarbage(why, written=True, answered=True)
        self.close()
        if exchange is not None:
            if exchange.status:
                exchange.upstream_cut(failure)
            else:
                exchange.upstream_failed(failure)

    def _read_head(self, data: bytes, end: int) -> bytes:
        """Take one head; returns what is left for the next one after a 1xx."""
        exchange = self._exchange
        assert exchange is not None
        lines = data[:end].split(b"\r\n")
        if len(lines) > LINES_LIMIT:
            raise BadMessage("too many header lines")
        start = lines.pop(0)
        status, reason, http11 = _known_starts.get(start) or _read_start(start)
        fields, repeated = fields_of(lines)
        end += 4

        keep_alive = http11
        drop = _NOT_PASSED
        connection = fields.get(b"connection")
        if connection is not None:
            chosen = options(value_of(connection))
            keep_alive = b"close" not in chosen and (http11 or b"keep-alive" in chosen)
            if not _NO_NAMES.issuperset(chosen):
                drop = drop.union(chosen)
        coding = fields.get(b"transfer-encoding")
        line = fields.get(b"content-length")
        length = -1 if line is None else content_length(line)
        if coding is not None and (not http11 or line is not None or value_of(coding).lower() != b"chunked"):
            raise BadMessage("unacceptable Transfer-Encoding")

        if status < 200 or status == 204 or status == 304 or exchange.method == b"HEAD":
            body = 0
        else:
            body = length
        if body > 0 and len(data) == end + body:
            self._parser.feed_data(data)
        elif body == 0 and length <= 0 and coding is None:
            self._parse_bodiless(data if len(data) == end else data[:end])
        else:
            self._parse_bodiless(data[:end])
            self._parser = httptools.HttpResponseParser(SILENT)  # llhttp waits for a body that it will not see

        if repeated:
            passed = [line for line in lines if line.partition(b":")[0].lower() not in drop]
        else:
            passed = [line for name, line in fields.items() if name not in drop]
        if status < 200:
            return self._interim(exchange, status, reason, fields, passed, data[end:])

        self._partial = None
        self._reusable = keep_alive
        rest = data[end:]
        if body == 0:
            self._complete(rest)
            exchange.answer(status, reason, fields, passed, length, b"", end=True)
        elif coding is not None:
            self._state = _CHUNKED_BODY
            self._chunks = chunks = ChunkedReader()
            pieces: list[bytes] = []
            pos = chunks.feed(rest, 0, pieces) if rest else 0
            body_now = b"".join(pieces)
            if chunks.done and not chunks.trailers:
                self._complete(rest[pos:])
                exchange.answer(status, reason, fields, passed, -1, body_now, end=True)
            else:
                exchange.answer(status, reason, fields, passed, -1, body_now, end=False)
                if chunks.done and self._exchange is exchange:
                    self._complete(rest[pos:])
                    exchange.answer_end(chunks.trailers)
        elif body < 0:
            self._reusable = False
            self._state = _CLOSE_BODY
            exchange.answer(status, reason, fields, passed, -1, rest, end=False)
        elif len(rest) >= body:
            self._complete(rest[body:])
            exchange.answer(status, reason, fields, passed, length, rest[:body], end=True)
        else:
            self._left = body - len(rest)
            self._state = _LENGTH_BODY
            exchange.answer(status, reason, fields, passed, length, rest, end=False)
        return b""

    def _parse_bodiless(self, head: bytes) -> None:
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self._parser = httptools.HttpResponseParser(SILENT)

    def _interim(
        self,
        exchange: Exchange,
        status: int,
        reason: bytes,
        fields: dict[bytes, bytes],
        lines: list[bytes],
        rest: bytes,
    ) -> bytes:
        if status != 101:
            self._partial = bytearray()  # an answer has begun
            exchange.informational(status, reason, lines)
            return rest
        if not exchange.upgrade:
            raise BadMessage("switched protocols without being asked")
        self._state = _TUNNEL
        self._sent = self._reusable = False
        upgrade = fields.get(b"upgrade", b"Upgrade: " + exchange.upgrade)
        exchange.switch(reason, [*lines, b"Connection: Upgrade", upgrade], rest)
        return b""

    def _read_length(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        left = self._left = self._left - len(data)
        if left > 0:
            exchange.answer_body(data)
        else:
            exchange.answer_body(data[:left] if left else data)
            if self._exchange is exchange:
                self._complete(b"x" if left else b"")
                exchange.answer_end()

    def _read_chunks(self, data: bytes) -> None:
        exchange, chunks = self._exchange, self._chunks
        assert exchange is not None
        assert chunks is not None
        pieces: list[bytes] = []
        try:
            pos = chunks.feed(data, 0, pieces)
        except BadMessage as bad:
            self._give_up(f"malformed response: {bad}")
            return
        if pieces:
            exchange.answer_body(b"".join(pieces))
        if chunks.done and self._exchange is exchange:
            self._complete(data[pos:])
            exchange.answer_end(chunks.trailers)

    def _complete(self, rest: bytes) -> None:
        """The answer is complete; `rest` came behind it and belongs to nothing."""
        self._exchange = None
        self._chunks = None
        if self._reusable and self._sent and not rest:
            self._state = _IDLE
            if self._paused:
                self.resume()
            self.home.released(self)
        else:
            self.close()


def _read_start(line: bytes) -> tuple[int, bytes, bool]:
    """(status, reason, is HTTP/1.1) of a status line."""
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise BadMessage("malformed status line")
    status = int(found[2])
    start = status, found[3] or REASONS.get(status, b""), found[1] == b"1"
    if len(_known_starts) < _KNOWN_LIMIT:
        _known_starts[line] = start
    return start
