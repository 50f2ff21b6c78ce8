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
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

from kncore.net.chunked import ChunkedReader, chunk
from kncore.net.errors import BadMessage, UpstreamClosed, UpstreamError, UpstreamGarbage
from kncore.net.heads import RESPONSE_BYTES, SILENT, ResponseHead, read_response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kncore.net.exchange import Exchange

__all__ = ["ClientConnection", "Home"]

WRITE_APART: Final = 32 * 1024
"""From this size a body is not worth copying behind its head."""
INTERIM_LIMIT: Final = 32
"""1xx answers to one request."""
SAME_LIMIT: Final = 2048
"""Heads up to this size are kept to be recognised when they come again."""
_VERSION: Final = b"HTTP/1."
_NO_HEAD: Final = ResponseHead()
_SETTINGS: Final = re.compile(rb"\0.[^\n]\x04\0\0\0\0\0", re.DOTALL)
"""The frame that a server of HTTP/2 begins with."""
HTTP2: Final = "it is HTTP/2, but the port is not named h2c"

_IDLE, _HEAD, _LENGTH_BODY, _CHUNKED_BODY, _CLOSE_BODY, _TUNNEL, _GONE = range(7)


class Home(Protocol):
    """The pool entry a connection belongs to."""

    def released(self, connection: ClientConnection) -> None:
        """It can carry another exchange."""

    def lost(self, connection: ClientConnection) -> None:
        """It is closed, or about to be."""


_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)  # Linux


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
        self._partial: bytearray | None = None
        self._chunks: ChunkedReader | None = None
        self._left = 0
        self._interims = 0
        self._sent = True
        self._reusable = True
        self._paused = False
        self._over = False  # a tunnel's direction from the upstream has ended
        self._clogged = False  # the upstream does not take what we write
        self._rest = b""  # of a read with a great many chunks
        self._same = b""
        self._whole = -1  # size of an answer with that head and its whole body, -1 if it takes a closer look
        self._head = _NO_HEAD

    @property
    def usable(self) -> bool:
        """Idle and, as far as we know, open."""
        return self._state == _IDLE and not self.transport.is_closing()

    # the request out ------------------------------------------------------------------------------------------------
    def start(self, exchange: Exchange) -> None:
        """Send the request: head and what there is of the body."""
        self._exchange = exchange
        self._state = _HEAD
        self._interims = 0
        self.served += 1
        head = exchange.head
        start = head.onward(exchange.authority, exchange.drop, exchange.add)
        held = exchange.carry(self)
        self._sent = exchange.body_done
        if not head.length:
            self.transport.write(start)
            return
        body = b"".join(held)
        if head.length < 0:
            body = chunk((body,), exchange.trailers if self._sent else None)
        if len(body) < WRITE_APART:
            self.transport.write(start + body)
        else:
            self.transport.writelines((start, body))

    def send_body(self, data: bytes, *, end: bool, trailers: Sequence[bytes] = ()) -> None:
        assert self._exchange is not None
        self._sent = end
        if self._exchange.head.length < 0:
            data = chunk((data,), trailers if end else None)
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def send_raw(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def end_raw(self) -> None:
        if self.transport.is_closing():
            return
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        try:
            self.transport.write_eof()
        except OSError:  # asyncio's raises what uvloop's keeps to itself: the upstream has just reset the connection
            self.transport.abort()

    def pause(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            if not self._rest:
                self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            if self._rest:
                asyncio.get_running_loop().call_soon(self._go_on)
            else:
                self.transport.resume_reading()

    def cancel(self) -> None:
        self._exchange = None
        if self._over and self._state == _TUNNEL:  # it ended in order: what is on its way still arrives
            self._state = _GONE
            self.home.lost(self)
            self.transport.close()
        else:
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
        self._clogged = True
        if self._exchange is not None:
            self._exchange.hold_body()

    def resume_writing(self) -> None:
        self._clogged = False
        if self._exchange is not None:
            self._exchange.release_body()

    def eof_received(self) -> bool:
        if self._state == _TUNNEL and self._exchange is not None:
            self._over = True
            self._exchange.end_raw()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        while self._rest and self._exchange is not None:
            self._read_chunks(b"")
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
        if self._partial is not None and _SETTINGS.match(self._partial):
            return UpstreamGarbage(f"malformed response: {HTTP2}", written=True, answered=True)
        return kind(why, written=True, reused=self.served > 1, answered=self._partial is not None)

    # the answer in --------------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD:
            exchange = self._exchange
            if (
                len(data) == self._whole
                and data.startswith(self._same)
                and exchange is not None
                and exchange.method != b"HEAD"
            ):  # the head of the answer before, with a body as long: what most apps say most of the time
                self._reusable = True
                self._complete(b"")
                exchange.answer(self._head, data[len(self._same) :], end=True)
                return
            try:
                if self._partial is None:
                    self._read_head(data)
                else:
                    self._more_head(self._partial, data)
            except (BadMessage, httptools.HttpParserError) as exc:
                self._give_up(f"malformed response: {exc}")
        elif state == _LENGTH_BODY:
            self._read_length(data)
        elif state == _CHUNKED_BODY:
            self._read_chunks(data)
        elif self._exchange is None:
            if not self.served:
                self._partial = bytearray(data[:9])  # it may tell who is there
            self.close()  # nobody asked
        elif state == _CLOSE_BODY:
            self._exchange.answer_body(data)
        elif state == _TUNNEL:
            self._exchange.send_raw(data)

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

    def _more_head(self, partial: bytearray, data: bytes) -> None:
        look = max(len(partial) - 3, 0)
        partial += data
        if partial.find(b"\r\n\r\n", look) >= 0:
            self._partial = bytearray()  # not None: an answer has begun
            self._read_head(bytes(partial))
        else:
            self._judge_partial(partial)

    def _judge_partial(self, partial: bytearray) -> None:
        """Give up on a head that cannot become a good one, without waiting for its end: it may never come."""
        if len(partial) > RESPONSE_BYTES:
            raise BadMessage("response header fields too large")
        if not partial.startswith(_VERSION[: len(partial)]):
            raise BadMessage(HTTP2 if _SETTINGS.match(partial) else "malformed status line")

    def _read_head(self, data: bytes) -> None:
        """Take one head and what came behind it."""
        exchange = self._exchange
        assert exchange is not None
        if self._same and data.startswith(self._same):
            head = self._head
            end = len(self._same)
            raw = b""
        else:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._partial = bytearray(data)
                self._whole = -1
                self._judge_partial(self._partial)
                return
            raw = data[:end]
            head = read_response(raw)
        status = head.status
        if status < 200 or status == 204 or status == 304 or exchange.method == b"HEAD":
            body = 0
        else:
            body = head.length
        if raw:
            self._judge(raw, head, body)
        if status < 200:
            self._interim(exchange, head, data[end:])
            return

        self._partial = None
        self._reusable = head.keep_alive
        if body == 0 and (head.length > 0 or head.chunked) and status != 304:
            # Careless apps send the body of an answer to HEAD after all, in a segment of its own: the next request on
            # this connection would take it for its answer.
            self._reusable = False
        rest = data[end:]
        if body == 0 or 0 < body <= len(rest):
            self._complete(rest[body:])
            exchange.answer(head, rest[:body], end=True)
        elif head.chunked:
            self._state = _CHUNKED_BODY
            self._chunks = ChunkedReader()
            if not rest:
                self._acknowledge()
            self._first_chunks(exchange, head, rest)
        elif body < 0:
            self._reusable = False
            self._state = _CLOSE_BODY
            exchange.answer(head, rest, end=False)
        else:
            self._left = body - len(rest)
            self._state = _LENGTH_BODY
            if not rest:
                self._acknowledge()
            exchange.answer(head, rest, end=False)

    def _acknowledge(self) -> None:
        """Have the kernel acknowledge the head now.

        An app that writes head and body apart with Nagle's algorithm on (Python's http.server, many small ones) sends
        the body when the head is acknowledged, and on a kept-alive connection the kernel would take 40 ms to do so.
        """
        sock = self.transport.get_extra_info("socket")
        if _QUICKACK is not None and sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _judge(self, raw: bytes, head: ResponseHead, body: int) -> None:
        """Have llhttp judge a new head, and keep it in case the next one is the same."""
        size = len(raw)
        with suppress(httptools.HttpParserUpgrade):
            httptools.HttpResponseParser(SILENT).feed_data(raw)
        self._head = head
        self._same = raw if size <= SAME_LIMIT and head.status >= 200 else b""
        self._whole = size + body if self._same and head.keep_alive and 0 <= body == head.length else -1

    def _first_chunks(self, exchange: Exchange, head: ResponseHead, rest: bytes) -> None:
        """The head of a chunked answer with what came behind it: a small one goes out in one write."""
        chunks = self._chunks
        assert chunks is not None
        pieces: list[bytes] = []
        pos = chunks.feed(rest, 0, pieces)
        whole = chunks.done and not chunks.trailers
        if pos < len(rest) and not chunks.done:
            self._take_turns(rest[pos:], reading=True)
        if whole:
            self._complete(rest[pos:])
        exchange.answer(head, b"".join(pieces), end=whole)
        if chunks.done and not whole and self._exchange is exchange:
            self._complete(rest[pos:])
            exchange.answer_end(chunks.trailers)

    def _interim(self, exchange: Exchange, head: ResponseHead, rest: bytes) -> None:
        """A 1xx: pass it on, or become a tunnel."""
        if head.status != 101:
            self._partial = bytearray()  # an answer has begun
            self._interims += 1
            if self._interims > INTERIM_LIMIT:
                raise BadMessage("too many interim responses")
            exchange.informational(head)
            if rest and self._exchange is exchange:
                self._read_head(rest)
        elif not exchange.head.upgrade:
            raise BadMessage("switched protocols without being asked")
        else:
            self._state = _TUNNEL
            self._sent = self._reusable = False
            exchange.switch(head, rest)

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
        rest, self._rest = self._rest, b""
        if rest:
            data = rest + data
        try:
            pos = chunks.feed(data, 0, pieces)
        except BadMessage as bad:
            self._give_up(f"malformed response: {bad}")
            return
        if pos < len(data) and not chunks.done:
            self._take_turns(data[pos:], reading=not rest)
        elif rest and not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()
        if pieces:
            exchange.answer_body(b"".join(pieces))
        if chunks.done and self._exchange is exchange:
            self._complete(data[pos:])
            exchange.answer_end(chunks.trailers)

    def _take_turns(self, rest: bytes, *, reading: bool) -> None:
        """A great many chunks came at once: others have their turn before the rest."""
        self._rest = rest
        if reading and not self._paused and not self.transport.is_closing():
            self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._rest and not self._paused and self._state == _CHUNKED_BODY and self._exchange is not None:
            self._read_chunks(b"")

    def _complete(self, rest: bytes) -> None:
        """The answer is complete; `rest` came behind it and belongs to nothing."""
        self._exchange = None
        self._chunks = None
        if self._reusable and self._sent and not rest and not self._clogged:
            self._state = _IDLE
            if self._paused:
                self.resume()
            self.home.released(self)
        else:
            self.close()
