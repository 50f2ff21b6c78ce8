"""HTTP/2 on the wire: the server's side of a connection. What both sides share is described in `kncore.net.http2`.

One read, of this connection or of an upstream's, brings many frames and causes many answers; they go out in one write
at its end, for every write of the transport is a system call. No task, future or timer belongs to a
stream: the exchange is the stream. Requests are given to the handler at the end of a read, so that one whose body
came along is forwarded whole, and one that was reset in the same breath costs nothing.

**Flow control is end to end.** A client gets window back only as the upstream takes the bytes: 64 KiB are kept while a
request waits for its turn, then `stream_window` bytes are on their way at most, and `connection_window` in all. In the
other direction, what an upstream sent and the client has no window for waits here while the upstream is read no
further, so a stream holds what came in one read. While the client's socket takes nothing, no new request is begun.

**Ends.** A stream is over when our half is: a client that has not finished its own by then is told to stop
(RST_STREAM NO_ERROR). A connection ends by a fault (GOAWAY with a reason, counted in `statistics()`), for being idle,
or by draining in two steps: GOAWAY that names no stream yet and a PING; when that is answered every request that was
under way has arrived, the second GOAWAY names the last stream, and the connection closes when all are answered.

An extended CONNECT (RFC 8441: a WebSocket in a stream) is forwarded as the upgrade that HTTP/1 has for it.

What is bounded: everything in `Http2Limits` and `Limits`. What dies when: client gone -> every exchange is told.

Trust: hardened; every frame is a stranger's.
"""

from __future__ import annotations

import asyncio
import base64
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

from kncore.net.errors import BadMessage, ClientGone
from kncore.net.headers import value_of
from kncore.net.http2 import frames
from kncore.net.http2.compression import Decoder, TooLarge
from kncore.net.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    Code,
    ConnectionFault,
    PeerSettings,
    Setting,
    StreamFault,
    data_frames,
    header_frames,
    read_header,
)
from kncore.net.http2.headers import read_call, read_request, read_trailers, response_block
from kncore.net.http2.limits import ANSWER_EARNS, DATA_EARNS, Budget, Http2Limits
from kncore.net.http2.stream import ServerExchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from kncore.net.exchange import Exchange
    from kncore.net.heads import RequestHead
    from kncore.net.http1 import Limits
    from kncore.net.http2.compression import Field

__all__ = ["ServerConnection"]

KEPT_HEADS: Final = 64
"""Heads of one connection that are kept to be recognised when they come again."""
KEPT_BYTES: Final = 4096
"""Header lists up to this size are: with everything made of them they come to a megabyte for each connection at most.
A block of them is always smaller."""
DROPPED: Final = 256
"""Streams that we reset and for which the client may still be sending."""
GAPS: Final = 16
"""Ranges of stream numbers that a client left out."""
LINGER: Final = 2.0
"""How long a connection is read that was ended from our side, seconds: closing at once would make the kernel send a
reset, and the reset can overtake the GOAWAY that tells why."""
WORK: Final = 256
"""Bytes of Huffman code that count as a glitch: decoding them takes about 20 us. A request with a long token of its own
costs six of them, and earns more with its answer."""
WRITE_NOW: Final = 256 * 1024
"""Bytes of DATA that are written before the end of a read: only then the transport can say that it is enough."""
WRITE_APART: Final = 64 * 1024
"""From this size on, what is written in one go is not worth joining."""
DRAIN_PAUSE: Final = 1.0
"""A client that does not answer the PING of draining has seen the first GOAWAY after so many seconds, or never will."""
TURN: Final = 1000
"""Frames read at once before other connections have their turn: one read can hold twenty thousand."""
SEND_FRAME: Final = 64 * 1024
"""DATA frames are no larger, even for who takes more: streams take turns."""

_DRAIN_PING: Final = b"draining"
_NO_STREAM: Final = 2**31 - 1
_CONNECT_SETTING: Final = (Setting.ENABLE_CONNECT_PROTOCOL, 1)
_TEXT: Final = (b"content-type: text/plain",)


class Owner(Protocol):
    """The listener a server connection belongs to."""

    limits: Limits
    http2: Http2Limits
    handler: Callable[[Exchange], None]
    draining: bool

    def opened(self, connection: ServerConnection) -> bool:
        """A connection was accepted; False refuses it."""

    def closed(self, connection: ServerConnection) -> None:
        """It is gone."""

    def refused(self, status: int) -> None:
        """It sent something that no handler sees; for statistics."""

    def ended(self, reason: str) -> None:
        """We ended it; for statistics."""


class ServerConnection(asyncio.Protocol):
    """A client's connection: reads frames and gives each request to the owner's handler.

    Args:
        taken_over: the connection was accepted as HTTP/1, the owner counts it already.
    """

    transport: asyncio.Transport
    now: Callable[[], float]

    def __init__(self, owner: Owner, *, taken_over: bool = False) -> None:
        self.owner = owner
        self.peer = ""
        self.peer_port = 0
        self.scheme = b"http"
        self.peer_settings = PeerSettings()
        self.window = DEFAULT_WINDOW
        """Bytes of DATA the client takes, by the connection's window."""
        self.frame_bytes = DEFAULT_FRAME_BYTES
        """Largest payload we send."""
        self.streams: dict[int, ServerExchange] = {}
        self.blocked: dict[int, ServerExchange] = {}
        """Streams with bytes that wait for a window, in the order of their turns."""
        self.over = False
        """Nothing can be sent any more."""
        self.held_back = False
        """The client does not keep up: its socket takes nothing at the moment, or much waits for windows."""
        self.data_sent = 0
        """DATA frames, roughly."""
        self._limits = owner.limits
        self._http2 = owner.http2
        self._taken_over = taken_over
        self._decoder = Decoder(list_bytes=owner.limits.head.head_bytes)
        self._ended_heads: dict[bytes, RequestHead] = {}
        self._open_heads: dict[bytes, RequestHead] = {}
        self._calls: dict[tuple[bytes, ...], RequestHead] = {}
        self._parts: list[bytes] = []
        self._have = 0
        self._need = len(PREFACE)
        self._greeting = 2  # preface and SETTINGS are to come
        self._out: list[bytes] | None = None
        self._fresh: list[ServerExchange] = []
        self._last = 0
        self._gaps: list[tuple[int, int]] = []
        self._dropped: dict[int, None] = {}
        self._block: list[bytes] | None = None
        self._block_bytes = 0
        self._block_flags = 0
        self._block_stream = 0
        self._room = DEFAULT_WINDOW
        self._owed = 0
        self._answers = 0
        self._counted = 0
        self._controls = 0
        self._queued = 0
        self._reading = False
        self._clogged = False  # the client's socket takes nothing
        self._crowded = False  # much waits for windows
        self._waiting = 0
        self._goaway = _NO_STREAM
        self._draining = 0.0  # since when
        self._drain_step = 0
        self._leaving = False  # the client said GOAWAY
        self._since = 0.0
        self._unsent = (0, 0.0)

    # transport ------------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        loop = asyncio.get_running_loop()
        self.now = loop.time
        self._soon = loop.call_soon
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer, self.peer_port = peer[0], peer[1]
        if transport.get_extra_info("ssl_object") is not None:
            self.scheme = b"https"
        now = self.now()
        http2 = self._http2
        self._resets = Budget(http2.resets, now)
        self._glitches = Budget(http2.glitches, now)
        admitted = self._taken_over or self.owner.opened(self)
        if transport.is_closing():
            return
        more = http2.connection_window - DEFAULT_WINDOW
        self._room += more
        self.transport.write(
            frames.settings(
                (
                    (Setting.MAX_CONCURRENT_STREAMS, http2.streams),
                    (Setting.MAX_HEADER_LIST_SIZE, self._limits.head.head_bytes),
                    _CONNECT_SETTING,
                )
            )
            + frames.window_update(0, more)
        )
        if not admitted:
            self._close(Code.ENHANCE_YOUR_CALM, "too many connections")

    def data_received(self, data: bytes) -> None:
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts = []
        if self.over:
            return
        self._since = 0.0
        self._reading = True
        if self._out is None:
            self._out = []
        try:
            pos = self._greet(data) if self._greeting == 2 else 0
            pos = self._read(data, pos)
        except ConnectionFault as fault:
            self._close(fault.code, fault.reason)
        else:
            if pos < len(data):
                self._parts = [data[pos:] if pos else data]
                self._have = len(data) - pos
        if self._fresh and not self.held_back:
            self._begin()
        self._reading = False
        if self._out is not None:
            self._flush()

    def _flush(self) -> None:
        out, self._out = self._out, None
        self._queued = 0
        if not out or self.transport.is_closing():
            return
        if len(out) == 1:
            self.transport.write(out[0])
        elif sum(map(len, out)) < WRITE_APART:
            self.transport.write(b"".join(out))
        else:
            self.transport.writelines(out)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        self._parts = []
        self._forget_streams(None)
        self.owner.closed(self)

    def pause_writing(self) -> None:
        self._clogged = True
        self._unsent = (-1, 0.0)  # what is in the socket now is news, however much it is
        self._controls = 0
        self._hold_back()

    def resume_writing(self) -> None:
        self._clogged = False
        if not self._crowded:
            self._let_on()

    def wait(self, size: int) -> None:
        """Bytes of answers came to wait for windows, or (negative) went on."""
        self._waiting += size
        if not self._crowded:
            if self._waiting > self._http2.waiting_bytes:
                self._crowded = True
                self._hold_back()
        elif self._waiting * 2 < self._http2.waiting_bytes:
            self._crowded = False
            if not self._clogged:
                self._let_on()

    def _hold_back(self) -> None:
        """Read no upstream's answer and begin no request for now."""
        if not self.held_back:
            self.held_back = True
            for exchange in tuple(self.streams.values()):
                exchange.clogged()

    def _let_on(self) -> None:
        self.held_back = False
        for exchange in tuple(self.streams.values()):
            if not exchange.pending_bytes:
                exchange.drained()
        if self._fresh and not self.over and not self._reading:
            self._begin()

    # bytes out ------------------------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        """Send frames at the end of the read that is being handled, be it an upstream's."""
        if self._out is not None:
            self._out.append(data)
        elif not self.over:  # after the last word, nothing
            self._out = [data]
            self._soon(self._flush)

    def writelines(self, parts: list[bytes], size: int) -> None:
        """The same for DATA frames in parts, `size` bytes in all; many are sent at once, to see what is taken."""
        if self._out is not None:
            self._out += parts
        elif not self.over:
            self._out = parts
            self._soon(self._flush)
        self._queued += size
        if self._queued > WRITE_NOW:
            self._flush()

    def updated(self, block: bytes) -> bytes:
        """A header block, with the word about the size of our table that a client may be waiting for."""
        update, self.peer_settings.table_update = self.peer_settings.table_update, b""
        return update + block if update else block

    def _control(self, data: bytes) -> None:
        """Send a frame that the client provoked."""
        if self._clogged:
            self._controls += 1
            if self._controls > self._http2.control_frames:
                raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "control frames not taken")
        self.write(data)

    # frames in ------------------------------------------------------------------------------------------------------
    def _greet(self, data: bytes) -> int:
        """The preface; returns the position behind it."""
        size = len(PREFACE)
        if not data.startswith(PREFACE[: len(data)]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "no HTTP/2 preface")
        if len(data) < size:
            return 0
        self._greeting = 1
        return size

    def _read(self, data: bytes, pos: int) -> int:
        """Take the frames that are complete; returns the position behind them."""
        size = len(data)
        if self._greeting == 2:
            self._need = len(PREFACE)
            return pos
        streams = self.streams
        turns = TURN
        while size - pos >= 9:
            turns -= 1
            if not turns:
                self._rest_of_turn()
                return pos
            high, low, kind, flags, number = read_header(data, pos)
            length = high << 8 | low
            if length > DEFAULT_FRAME_BYTES:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "frame too large")
            start = pos + 9
            end = start + length
            if end > size:
                self._need = end - pos
                return pos
            pos = end
            number &= _NO_STREAM
            try:
                if self._block is not None:
                    self._continue(data, start, end, kind, flags, number)
                elif self._greeting:
                    if kind != SETTINGS or flags & ACK:
                        raise ConnectionFault(Code.PROTOCOL_ERROR, "first frame is not SETTINGS")
                    self._greeting = 0
                    self._read_settings(data[start:end], flags, number)
                elif kind == DATA:
                    exchange = streams.get(number)
                    if exchange is None:
                        self._stray_data(number, length, flags)
                    else:
                        pos = self._read_data(exchange, data, start, end, flags)
                elif kind == HEADERS:
                    if flags & (PADDED | PRIORITY_FLAG):
                        start, end = self._strip(data, start, end, flags, number)
                    if flags & END_HEADERS:
                        self._read_block(data[start:end], flags, number)
                    else:
                        self._block = [data[start:end]]
                        self._block_bytes = end - start
                        self._block_flags = flags
                        self._block_stream = number
                elif kind == WINDOW_UPDATE:
                    self._read_window(data, start, length, number)
                else:
                    self._read_other(kind, data[start:end], flags, number)
            except StreamFault as fault:
                self._stream_fault(number, fault)
            if self.over:
                return size
        self._need = 9
        return pos

    def _rest_of_turn(self) -> None:
        """Read on when other connections had their turn."""
        self._need = 0
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()
            if not self.over:
                self.data_received(b"")

    def _strip(self, data: bytes, start: int, end: int, flags: int, number: int) -> tuple[int, int]:
        """Where the header block in a HEADERS frame begins and ends."""
        start, end = frames.unpadded(data, start, end, flags)
        if flags & PRIORITY_FLAG:
            if end - start < 5:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "frame too short")
            if int.from_bytes(data[start : start + 4], "big") & _NO_STREAM == number:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "stream depends on itself")
            start += 5
        return start, end

    def _continue(self, data: bytes, start: int, end: int, kind: int, flags: int, number: int) -> None:
        """A CONTINUATION frame: nothing else may come while a header block is not complete."""
        block = self._block
        assert block is not None
        if kind != CONTINUATION or number != self._block_stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "header block interrupted")
        block.append(data[start:end])
        self._block_bytes += end - start
        if self._block_bytes > self._http2.block_bytes:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "header block too large")
        if len(block) > self._http2.continuations + 1:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        if flags & END_HEADERS:
            self._block = None
            self._read_block(b"".join(block), self._block_flags, number)

    def _read_block(self, block: bytes, flags: int, number: int) -> None:
        """A whole header block: a request, or the trailers of one."""
        if number <= self._last:
            self._read_more(block, flags, number)
            return
        if not number & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "stream number that is not a client's")
        if number > self._last + 2 and len(self._gaps) < GAPS:
            self._gaps.append((self._last, number))
        self._last = number
        ended = flags & END_STREAM
        heads = self._ended_heads if ended else self._open_heads
        head = heads.get(block)
        if head is None:
            head = self._read_head(block, number, ended > 0)
            if head is None:
                return
        if len(self.streams) >= self._http2.streams:
            raise StreamFault(Code.REFUSED_STREAM, "too many streams")
        if number > self._goaway:
            self._drop(number, ended > 0)
            return
        self._open(number, head, ended > 0)

    def _open(self, number: int, head: RequestHead, ended: bool) -> ServerExchange:
        self.streams[number] = exchange = ServerExchange(self, head, self.now(), number)
        if self.scheme != b"http":
            exchange.scheme = self.scheme
        if ended:
            exchange.ended = exchange.body_done = True
        else:
            exchange.expect_body()
        self._fresh.append(exchange)
        return exchange

    def _read_head(self, block: bytes, number: int, ended: bool) -> RequestHead | None:
        """Decode and judge a request head; None if the request was answered."""
        decoder = self._decoder
        before = decoder.generation
        try:
            fields = decoder.decode(block)
            if ended:
                head = read_request(fields, ended=True, limits=self._limits.head)
            else:
                head = read_call(fields, self._calls, limits=self._limits.head)
            if head.upgrade:
                return self._offer(head, ended)
        except TooLarge:
            self._refuse(number, 431, "request header fields too large", ended)
            return None
        except BadMessage as bad:
            self._refuse(number, bad.verdict, str(bad), ended)
            return None
        finally:
            if decoder.generation != before:
                self._ended_heads.clear()
                self._open_heads.clear()
            if decoder.work >= WORK:
                self._charge()
        if decoder.generation == before and sum([field.size for field in fields]) <= KEPT_BYTES >= len(block):
            heads = self._ended_heads if ended else self._open_heads
            if len(heads) >= KEPT_HEADS:
                heads.clear()
            heads[block] = head
        return head

    def _charge(self) -> None:
        """Count what it cost to decode what the client sent."""
        work, self._decoder.work = self._decoder.work, 0
        self._glitch("header compression that costs much", work / WORK)

    def _offer(self, head: RequestHead, ended: bool) -> RequestHead:
        """An extended CONNECT as the upgrade it would be in HTTP/1."""
        if head.upgrade.lower() != b"websocket":
            raise BadMessage("unknown :protocol", 501)
        if ended:
            raise StreamFault(Code.PROTOCOL_ERROR, "extended CONNECT that ended at once")
        line = b"sec-websocket-key: " + base64.b64encode(os.urandom(16))
        head.lines = [line for line in head.lines if not line.startswith(b"sec-websocket-key:")] + [line]
        head.fields = {**head.fields, b"sec-websocket-key": line}
        return head

    def _read_more(self, block: bytes, flags: int, number: int) -> None:
        """A header block for a stream that was opened before: trailers, or a mistake."""
        decoder = self._decoder
        before = decoder.generation
        fields: list[Field] | None = None
        with suppress(TooLarge):
            fields = decoder.decode(block)
        if decoder.generation != before:
            self._ended_heads.clear()
            self._open_heads.clear()
        if decoder.work >= WORK:
            self._charge()
        exchange = self.streams.get(number)
        if exchange is None:
            if number in self._dropped:
                self._drop(number, flags & END_STREAM > 0)
            elif not number & 1 or any(low < number < high for low, high in self._gaps):
                raise ConnectionFault(Code.PROTOCOL_ERROR, "stream numbers not in order")
            else:
                raise ConnectionFault(Code.STREAM_CLOSED, "HEADERS for a closed stream")
        elif exchange.ended:
            raise StreamFault(Code.STREAM_CLOSED, "HEADERS for a half-closed stream")
        elif not flags & END_STREAM or fields is None or exchange.left > 0 or exchange.tunnel:
            raise StreamFault(Code.PROTOCOL_ERROR, "malformed trailers")
        else:
            trailers = read_trailers(fields)
            exchange.ended = True
            exchange.body(b"", end=True, trailers=trailers)

    def _read_data(self, exchange: ServerExchange, data: bytes, start: int, end: int, flags: int) -> int:
        """A DATA frame and those of the same stream right behind it; returns the position behind."""
        size = len(data)
        number = data[start - 4 : start]
        pieces: list[bytes] = []
        while True:
            ended = flags & END_STREAM
            try:
                self._count_data(exchange, data, start, end, flags, pieces)
            except StreamFault as fault:  # here, where it is known how far we are: no frame may be counted twice
                self._stream_fault(exchange.number, fault)
                return end
            if ended or size - end < 9 or data[end + 3] != DATA or data[end + 5 : end + 9] != number:
                break
            high, low, _, flags, _ = read_header(data, end)
            start = end + 9
            length = high << 8 | low
            if length > DEFAULT_FRAME_BYTES or start + length > size:
                break
            end = start + length
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if ended:
            exchange.ended = True
        if not exchange.tunnel:
            exchange.body(body, end=ended > 0)
        else:
            if body:
                exchange.tunnel_in(body)
            if ended and exchange.upgraded:
                exchange.tunnel_end()
                if exchange.said_all:
                    self.complete(exchange)
        if not exchange.stopped and exchange.kept:
            kept, exchange.kept = exchange.kept, 0
            self.taken(exchange, kept)
        return end

    def _count_data(
        self, exchange: ServerExchange, data: bytes, start: int, end: int, flags: int, pieces: list[bytes]
    ) -> None:
        """Judge one DATA frame by the windows and the announced length, and take its content."""
        length = end - start
        if length > self._room:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "connection window overrun")
        self._room -= length
        if exchange.ended:
            self._give_back(length)
            raise StreamFault(Code.STREAM_CLOSED, "DATA for a half-closed stream")
        exchange.kept += length
        exchange.room -= length
        if exchange.room < 0:
            raise StreamFault(Code.FLOW_CONTROL_ERROR, "stream window overrun")
        if flags & PADDED:
            start, end = frames.unpadded(data, start, end, flags)
        size = end - start
        if exchange.left >= 0:
            exchange.left = left = exchange.left - size
            if left < 0 or (flags & END_STREAM and left):
                raise StreamFault(Code.PROTOCOL_ERROR, "body unlike its content-length")
        if not size and not flags & END_STREAM:
            self._glitch("empty frames")
        pieces.append(data[start:end])

    def taken(self, exchange: ServerExchange, size: int) -> None:
        """The upstream took bytes of the body: the client may send as many again."""
        if exchange.done:
            self._owed += size
        elif not exchange.ended:
            owed = exchange.owed = exchange.owed + size
            self._owed += size
            window = self._http2.stream_window
            if owed * 4 >= window or (owed and exchange.room * 2 < DEFAULT_WINDOW):
                more = window - exchange.room
                exchange.room = window
                exchange.owed = 0
                self.write(frames.window_update(exchange.number, more))
        else:
            self._owed += size
        if self._owed * 4 >= self._http2.connection_window:
            self.write(frames.window_update(0, self._owed))
            self._room += self._owed
            self._owed = 0

    def _stray_data(self, number: int, length: int, flags: int) -> None:
        """DATA for a stream that is not open."""
        if not number & 1 or number > self._last:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA for an idle stream")
        if length > self._room:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "connection window overrun")
        self._room -= length
        self._give_back(length)
        if number not in self._dropped:
            raise StreamFault(Code.STREAM_CLOSED, "DATA for a closed stream")
        self._drop(number, flags & END_STREAM > 0)

    def _give_back(self, size: int) -> None:
        """Return window of the connection for bytes that nobody needs."""
        self._owed += size
        if self._owed * 4 >= self._http2.connection_window:
            self.write(frames.window_update(0, self._owed))
            self._room += self._owed
            self._owed = 0

    def _read_window(self, data: bytes, start: int, length: int, number: int) -> None:
        if length != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a length that is none")
        more = int.from_bytes(data[start : start + 4], "big") & _NO_STREAM
        self._glitch("WINDOW_UPDATE flood")
        if not number:
            if not more:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "window opened by nothing")
            self.window += more
            if self.window > MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "window too large")
            if self.blocked:
                self._pump()
            return
        exchange = self.streams.get(number)
        if exchange is None:
            if not number & 1 or number > self._last:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE for an idle stream")
            return
        if not more:
            raise StreamFault(Code.PROTOCOL_ERROR, "window opened by nothing")
        exchange.window += more
        if exchange.window > MAX_WINDOW:
            raise StreamFault(Code.FLOW_CONTROL_ERROR, "window too large")
        if exchange.pending_bytes:
            exchange.pump(exchange.pending_bytes)

    def _pump(self) -> None:
        """Send what waited for a window; streams take turns, a frame each."""
        blocked = self.blocked
        moved = True
        while moved and self.window > 0:
            moved = False
            for number, exchange in tuple(blocked.items()):
                if self.window <= 0:
                    return
                if exchange.pump(self.frame_bytes):
                    moved = True
                    if blocked.pop(number, None) is not None:
                        blocked[number] = exchange

    def _read_other(self, kind: int, payload: bytes, flags: int, number: int) -> None:
        """Frames that are rare, or should be."""
        if kind == SETTINGS:
            self._glitch("SETTINGS flood", 10)
            self._read_settings(payload, flags, number)
        elif kind == PING:
            if number:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "PING for a stream")
            if len(payload) != 8:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PING of a length that is none")
            self._glitch("PING flood")
            if not flags & ACK:
                self._control(frames.ping(payload, ack=True))
            elif payload == _DRAIN_PING and self._drain_step == 1:
                self._drain_on()
        elif kind == RST_STREAM:
            self._read_reset(payload, number)
        elif kind == PRIORITY:
            if not number:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY for the connection")
            if len(payload) != 5:
                raise StreamFault(Code.FRAME_SIZE_ERROR, "PRIORITY of a length that is none")
            if int.from_bytes(payload[:4], "big") & _NO_STREAM == number:
                raise StreamFault(Code.PROTOCOL_ERROR, "stream depends on itself")
            self._glitch("PRIORITY flood")
        elif kind == GOAWAY:
            if number:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY for a stream")
            if len(payload) < 8:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "frame too short")
            self._glitch("GOAWAY flood", 10)
            self._leaving = True
            if not self.streams:
                self._close(Code.NO_ERROR, "")
        elif kind == CONTINUATION:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        else:
            self._glitch("unknown frames")

    def _read_settings(self, payload: bytes, flags: int, number: int) -> None:
        if number:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS for a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS of a length that is none")
            return
        self.apply(payload)
        self._control(SETTINGS_ACK)  # before anything that is sent under the new settings
        if self.blocked:
            self._pump()

    def apply(self, payload: bytes) -> None:
        """Take over the client's settings."""
        change = self.peer_settings.read(payload)
        self.frame_bytes = min(self.peer_settings.frame_bytes, SEND_FRAME)
        if change:
            for exchange in tuple(self.streams.values()):
                exchange.window += change
                if exchange.window > MAX_WINDOW:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "window too large")

    def _read_reset(self, payload: bytes, number: int) -> None:
        if not number & 1 or number > self._last:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM for an idle stream")
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "RST_STREAM of a length that is none")
        exchange = self.streams.pop(number, None)
        if exchange is None:
            self._dropped.pop(number, None)
            self._glitch("RST_STREAM flood")
            return
        self._let_go(exchange)
        answered = exchange.status > 0
        exchange.gone(ClientGone("client reset the stream"))
        if answered:
            self._glitch("RST_STREAM flood", 5)
        else:
            self._count_reset("rapid reset")
        self._rest()

    # faults ---------------------------------------------------------------------------------------------------------
    def _glitch(self, why: str, cost: float = 1.0) -> None:
        earned = (self._answers - self._counted) * ANSWER_EARNS
        self._counted = self._answers
        earned += self.data_sent * DATA_EARNS
        self.data_sent = 0
        if not self._glitches.spend(cost, earned, self.now()):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, why)

    def _count_reset(self, why: str) -> None:
        earned, self._answers = self._answers, 0
        self._glitches.level -= (earned - self._counted) * ANSWER_EARNS
        self._counted = 0
        if not self._resets.spend(1.0, earned, self.now()):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, why)

    def _stream_fault(self, number: int, fault: StreamFault) -> None:
        """End one stream for what the client did to it."""
        exchange = self.streams.pop(number, None)
        if exchange is not None:
            self._let_go(exchange)
            exchange.gone(BadMessage(fault.reason))
        if number <= self._last:
            self._drop(number, exchange is not None and exchange.ended)
        self._control(frames.rst_stream(number, fault.code))
        self._count_reset(fault.reason if fault.code == Code.REFUSED_STREAM else "streams reset for faults")
        self._rest()

    def _drop(self, number: int, ended: bool) -> None:
        """Ignore from now on what the client may still send for a stream."""
        if ended:
            self._dropped.pop(number, None)
            return
        if number in self._dropped:
            self._glitch("frames for closed streams")
        else:
            self._ignore(number)

    def _ignore(self, number: int) -> None:
        self._dropped[number] = None
        if len(self._dropped) > DROPPED:
            del self._dropped[next(iter(self._dropped))]

    def _refuse(self, number: int, status: int, why: str, ended: bool) -> None:
        """Answer something that no handler gets to see."""
        self.owner.refused(status)
        self._glitch("refused requests", 2)
        body = why.encode() + b"\n"
        size = len(body)
        block = self.updated(response_block(status, size, _TEXT))
        fits = size <= min(self.window, self.peer_settings.window)
        self._control(header_frames(number, block, end=not fits))
        if fits:
            self.window -= size
            self.writelines(data_frames(number, body, end=True), size)
        if not ended:
            self._control(frames.rst_stream(number, Code.NO_ERROR))
            self._drop(number, False)

    def _close(self, code: Code, why: str) -> None:
        """Say GOAWAY and close; requests in progress end now."""
        if self.over:
            return
        self.write(frames.goaway(self._last, code, why.encode()))
        self.over = True
        if code != Code.NO_ERROR:
            self.owner.ended(why)
        self._forget_streams(ClientGone(why) if code != Code.NO_ERROR else None)
        self._parts = []
        self._since = 0.0
        if self._out is not None:
            self._flush()
        transport = self.transport
        if transport.is_closing():
            return
        if code == Code.NO_ERROR or not transport.can_write_eof():
            transport.close()
        else:
            transport.write_eof()

    def _forget_streams(self, error: ClientGone | None) -> None:
        streams = tuple(self.streams.values())
        self.streams.clear()
        self.blocked.clear()
        self._fresh.clear()
        for exchange in streams:
            exchange.gone(error)

    # exchanges ------------------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        """Give the requests that came to the handler."""
        fresh, self._fresh = self._fresh, []
        handler = self.owner.handler
        for exchange in fresh:
            if not exchange.done:
                handler(exchange)

    def adopt(self, head: RequestHead) -> None:
        """The request that came with `Upgrade: h2c` is stream 1, and complete."""
        self._last = 1
        try:
            self.apply(base64.urlsafe_b64decode(value_of(head.fields[b"http2-settings"])))
        except ConnectionFault as fault:
            self._close(fault.code, fault.reason)
        else:
            self._open(1, head, ended=True)
            self._begin()

    def complete(self, exchange: ServerExchange) -> None:
        """The answer has been written to its end."""
        number = exchange.number
        if self.streams.pop(number, None) is None:
            return
        self._answers += 1
        if not exchange.ended:
            self.write(frames.rst_stream(number, Code.NO_ERROR))
            self._ignore(number)
        if exchange.kept:
            self._let_go(exchange)
        if exchange.upgraded:
            exchange.gone()  # both directions have ended, and nobody else tells the upstream's connection to close
        else:
            exchange.finish()
        if not self.streams and (self._leaving or self._drain_step):
            self._rest()

    def reset(self, exchange: ServerExchange, code: Code) -> None:
        """The answer ends here, incomplete."""
        if self.streams.pop(exchange.number, None) is not None:
            self.write(frames.rst_stream(exchange.number, code))
            if not exchange.ended:
                self._ignore(exchange.number)
            self._let_go(exchange)
        exchange.finish()
        self._rest()

    def _let_go(self, exchange: ServerExchange) -> None:
        """A stream ends: what waited in it waits no longer."""
        if self.blocked.pop(exchange.number, None) is not None:
            self.wait(-exchange.pending_bytes)
        kept, exchange.kept = exchange.kept, 0
        if kept:
            self._give_back(kept)

    def _rest(self) -> None:
        """Close if nothing is in progress and nothing more will come."""
        if not self.streams and not self.over and (self._leaving or self._drain_step == 2):
            self._close(Code.NO_ERROR, "")

    # draining and time ----------------------------------------------------------------------------------------------
    def close_if_idle(self) -> None:
        """Drain: take the requests that are on their way, refuse later ones, close when all are answered."""
        if self._drain_step or self.over:
            return
        if self._greeting and not self.streams:
            self._close(Code.NO_ERROR, "")
            return
        self._drain_step = 1
        self._draining = self.now()
        self.write(frames.goaway(_NO_STREAM, Code.NO_ERROR) + frames.ping(_DRAIN_PING, ack=False))

    def _drain_on(self) -> None:
        self._drain_step = 2
        self._goaway = self._last
        self.write(frames.goaway(self._last, Code.NO_ERROR))
        self._rest()

    def close_if_tunnel(self) -> None:
        """End tunnels from our side."""
        for exchange in tuple(self.streams.values()):
            if exchange.upgraded:
                exchange.abort()

    @property
    def idle_since(self) -> float | None:
        """Loop time since which it was seen without a request, 0 if it was not looked at yet; None while it has one,
        or is about to be closed."""
        return None if self.streams or self.over else self._since

    def tick(self, now: float) -> bool:
        """Compare the connection's clocks with now; True if a request is in progress."""
        if self.over:
            if not self._since or self._moves(now):
                self._since = now
            elif now - self._since > (LINGER if not self._unsent[0] else self._http2.stall_time):
                self.transport.abort()
            return False
        limits = self._limits
        partial = bool(self._parts) or self._block is not None or self._greeting > 0
        if self._drain_step == 1 and now - self._draining > DRAIN_PAUSE:
            self._drain_on()
        if partial:
            if not self._since:
                self._since = now
            elif now - self._since > limits.head_time:
                self._close(Code.ENHANCE_YOUR_CALM, "frame not complete in time")
                return False
        if self._clogged and not self._moves(now) and now - self._unsent[1] > self._http2.stall_time:
            self.owner.ended("client does not read")
            self.transport.abort()
            return False
        streams = self.streams
        if streams:
            if not partial:
                self._since = 0.0
            stall_time = self._http2.stall_time
            for exchange in tuple(streams.values()):
                if not exchange.done:
                    exchange.watch(now, limits, stall_time)
            return True
        if not self._since:
            self._since = now
        elif now - self._since > limits.idle_time:
            self._close(Code.NO_ERROR, "")
        return False

    def _moves(self, now: float) -> bool:
        """Whether the client took something of what waits in its socket since the last look."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == self._unsent[0]:
            return False
        self._unsent = (unsent, now)
        return True
