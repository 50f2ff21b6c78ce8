"""HTTP/2 on the wire: the client's side of a connection, to an upstream; many exchanges share one.

The counterpart of `kncore.net.http2.server`, on the same frames and headers. A stream here is a `Carrier` of one
exchange and little more than its two windows; it has no state machine, because what a peer may send next follows from
what the exchange still waits for.

Out: what streams write is gathered and goes to the transport once per turn of the event loop, so sixteen requests that
came in one read leave in one write. A head that was sent before is sent as the bytes it had (`RequestHead.sent`).

In: a header block that repeats against an unchanged table is the head it was. An answer's head is passed on together
with the DATA behind it, so a small answer to an HTTP/1 client is one write. The length that an answer announced is
held against what comes: more or less is never passed on as whole.

Flow control, from the app to the client: every stream may send `STREAM_WINDOW` bytes ahead and gets new credit when
the client has taken what it had; the connection's window is always given back at once, so that one slow client holds
up nobody else. From the client to the app: what the app's windows do not allow waits in its stream, and the client is
not read from meanwhile; streams that wait for the connection's window take turns.

What may be sent again (`UpstreamError`): a stream that the upstream refused, or that lies above the last one named in
its GOAWAY, or whose bytes had not left yet when the connection broke. The upstream promised that it did not act on
these, whatever their method.

What is bounded: streams, by what the upstream allows and by `MAX_STREAMS`; per stream `STREAM_WINDOW` towards the
client, one read of the client towards the app; header blocks (64 KiB); answers to PING and SETTINGS while the upstream
does not read (`CONTROL_LIMIT`). What dies when: GOAWAY ends the taking of streams, and the connection after its last
one; a fault of the upstream ends the connection and every exchange on it, visibly.

Trust: hardened; user code is on the other end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

from kncore.net.errors import UpstreamClosed, UpstreamError, UpstreamGarbage
from kncore.net.headers import options, value_of
from kncore.net.http2.compression import Decoder, TooLarge, encode
from kncore.net.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_BYTES,
    HEADERS,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY_FLAG,
    PUSH_PROMISE,
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
    goaway,
    header_frames,
    ping,
    read_header,
    rst_stream,
    settings,
    unpadded,
    window_update,
)
from kncore.net.http2.headers import TIMEOUT, read_response, read_trailers, request_block, trailer_block

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kncore.net.exchange import Exchange
    from kncore.net.heads import ResponseHead
    from kncore.net.http2.compression import Field

__all__ = ["ClientConnection", "Home"]

T = TypeVar("T")

STREAM_WINDOW: Final = 256 * 1024
"""Bytes of an answer that may be on their way to a client that does not take them."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
"""Given back as it is used, so it only bounds what one read can bring."""
MAX_STREAMS: Final = 250
"""Streams on one connection, however many the upstream would take; more make no connection faster."""
FIRST_STREAMS: Final = 1
"""Streams until the upstream has said how many it takes: not all say REFUSED_STREAM to those beyond (gRPC's own server
says ENHANCE_YOUR_CALM), and it says so within a round trip."""
INTERIM_LIMIT: Final = 32
"""1xx answers to one request."""
BLOCK_LIMIT: Final = 64 * 1024
"""Bytes of a header block in CONTINUATION frames."""
CONTROL_LIMIT: Final = 1000
"""Answers to PING and SETTINGS that wait for an upstream which does not read; Envoy's number."""
TURN: Final = 64 * 1024
"""Bytes a stream sends before the next one that waits has its turn."""
KEPT: Final = 256
"""Header blocks remembered."""
WRITE_APART: Final = 64 * 1024
"""From this size on, what is written in one go is not worth joining."""

_HELLO: Final = b"%b%b%b" % (
    PREFACE,
    settings(
        (
            (Setting.ENABLE_PUSH, 0),
            (Setting.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (Setting.MAX_HEADER_LIST_SIZE, BLOCK_LIMIT),
        )
    ),
    window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW),
)
_LAST_STREAM: Final = 2**31 - 1
_STREAM_MASK: Final = 2**31 - 1
_PING: Final = b"torpor\0\0"


class Home(Protocol):
    """The pool entry a connection belongs to."""

    def released(self, connection: ClientConnection) -> None:
        """One of its exchanges is over."""

    def roomy(self, connection: ClientConnection) -> None:
        """It can carry more exchanges than before."""

    def closing(self, connection: ClientConnection) -> None:
        """It takes no further exchange; told once."""

    def lost(self, connection: ClientConnection) -> None:
        """It is closed, or about to be; told once, after `closing` and after the last `released`."""


class _Stream:
    """One exchange on a connection, as its `Carrier`."""

    __slots__ = (
        "answered",
        "connection",
        "ending",
        "exchange",
        "fresh",
        "id",
        "interims",
        "left",
        "paused",
        "pending",
        "queued",
        "sent",
        "taken",
        "trailers",
        "window",
    )

    def __init__(self, connection: ClientConnection, id_: int, exchange: Exchange, fresh: bool) -> None:
        self.connection = connection
        self.id = id_
        self.exchange = exchange
        self.fresh = fresh
        """It is not to be repeated silently: it is a repetition itself."""
        self.window = connection.peer.window
        """Bytes we may send."""
        self.sent = False
        """The request has gone out to its end."""
        self.answered = False
        """The final head has come."""
        self.left = -1
        """Bytes of the answer to come, if it said how many."""
        self.taken = 0
        """Bytes of the answer for which no credit was given yet."""
        self.paused = False
        self.pending: deque[bytes] | None = None
        """What the windows do not allow yet; None if nothing ever waited."""
        self.queued = False
        self.ending = False
        """Nothing comes behind what is pending, except `trailers`."""
        self.trailers: Sequence[bytes] = ()
        self.interims = 0

    def send_body(self, data: bytes, *, end: bool, trailers: Sequence[bytes] = ()) -> None:
        connection = self.connection
        size = len(data)
        if self.pending or size > self.window or size > connection.window or connection.clogged or trailers:
            connection.send_later(self, data, end, trailers)
            return
        self.window -= size
        connection.window -= size
        if end:
            self.sent = True
        connection.write(data_frames(self.id, data, end=end, frame_bytes=connection.peer.frame_bytes))

    def send_raw(self, data: bytes) -> None:
        raise AssertionError("no tunnels here")

    def end_raw(self) -> None:
        raise AssertionError("no tunnels here")

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        if self.taken >= STREAM_WINDOW // 2:
            self.connection.credit(self)

    def cancel(self) -> None:
        self.connection.cancel(self)


class ClientConnection(asyncio.Protocol):
    """A connection to an upstream that speaks HTTP/2.

    Args:
        scheme: `http` or `https`, as it is told to the upstream.
    """

    transport: asyncio.Transport

    def __init__(self, home: Home, scheme: bytes = b"http") -> None:
        self.home = home
        self.peer = PeerSettings()
        self.window = DEFAULT_WINDOW
        """Bytes we may send on all streams together."""
        self.clogged = False
        """The upstream does not read."""
        self.limit = FIRST_STREAMS
        """Streams at once; 0 from when it takes no more."""
        self.streams: dict[int, _Stream] = {}
        self.agreed = True
        """The upstream did not choose another protocol by ALPN."""
        self.greeted = False
        """The upstream has said what it takes."""
        self.failure = ""
        """Why it was given up, if that was the upstream's fault."""
        self.idle_since = 0.0
        """For the pool: loop time of the first visit that found it without a stream."""
        self._scheme = scheme
        self._next = 1
        self._flushed = 0
        self._decoder = Decoder(list_bytes=BLOCK_LIMIT)
        self._heads: dict[bytes, ResponseHead] = {}
        self._trailers: dict[bytes, list[bytes]] = {}
        self._partial = b""
        self._block: bytearray | None = None
        self._block_of = (0, 0)
        self._taken = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flush_due = False
        self._control = 0
        self._waiting: deque[_Stream] = deque()
        self._told = False
        self._gone = False
        self._heard = 0.0
        self._pinged = 0.0
        self._news = True

    @property
    def room(self) -> int:
        """Further exchanges it can carry."""
        return self.limit - len(self.streams)

    # the request out ------------------------------------------------------------------------------------------------
    def start(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """Send the request: head and what there is of the body."""
        number = self._next
        self._next = number + 2
        stream = _Stream(self, number, exchange, fresh)
        self.streams[number] = stream
        held = exchange.carry(stream, keep=True)
        done = exchange.body_done
        block = self._request_block(exchange)
        if self.peer.table_update:
            block = self._shrink_table(block)
        frame_bytes = self.peer.frame_bytes
        if done and not held and not exchange.trailers:
            stream.sent = True
            self._write(header_frames(number, block, end=True, frame_bytes=frame_bytes))
        else:
            self._write(header_frames(number, block, end=False, frame_bytes=frame_bytes))
            if done or held:
                stream.send_body(b"".join(held), end=done, trailers=exchange.trailers if done else ())
        if number >= _LAST_STREAM - 2:  # numbers are used up
            self._close_slowly()

    def _request_block(self, exchange: Exchange) -> bytes:
        """The header block: the one of before, if what it depends on is the same.

        A call's timeout is another one every time, so it is not part of that but follows it.
        """
        head = exchange.head
        sent = head.sent
        add, authority, drop = exchange.add, exchange.authority, exchange.drop
        timeout = None if head.repeated or head.named or TIMEOUT in drop else head.fields.get(TIMEOUT)
        block: bytes
        if sent is not None and sent[1] == add and sent[2] == authority and sent[3] is drop and sent[4] is self._scheme:
            block = sent[0]
        else:
            lines = [line for line in head.passing(drop) if line is not timeout]
            lines += add
            wish = head.fields.get(b"te")
            if wish is not None and b"trailers" in options(value_of(wish)):
                lines.append(b"te: trailers")
            # a client of HTTP/1.0 need not name a host; servers of HTTP/2 refuse requests without one
            block = request_block(head.method, self._scheme, authority or b"localhost", head.target, lines)
            head.sent = block, add, authority, drop, self._scheme
        return block if timeout is None else block + encode((timeout,))

    def _shrink_table(self, block: bytes) -> bytes:
        update, self.peer.table_update = self.peer.table_update, b""
        return update + block

    def send_later(self, stream: _Stream, data: bytes, end: bool, trailers: Sequence[bytes]) -> None:
        """Send what the windows allow now, and the rest when they do."""
        if stream.pending is None:
            stream.pending = deque()
        if data:
            stream.pending.append(data)
        stream.ending = end
        stream.trailers = trailers
        if not stream.pending:
            self._send_pending(stream)
            return
        self._queue(stream)
        if stream.pending:
            stream.exchange.hold_body()

    def _queue(self, stream: _Stream) -> None:
        """A stream has something pending: it has its turn when those before it had theirs."""
        if not stream.queued:
            stream.queued = True
            self._waiting.append(stream)
            self._send_waiting()

    def _send_pending(self, stream: _Stream) -> None:
        """Send at most a turn's worth of what a stream has pending."""
        pending = stream.pending
        assert pending is not None
        room = 0 if self.clogged else min(stream.window, self.window, TURN)
        while pending and room > 0:
            data = pending.popleft()
            if len(data) > room:
                pending.appendleft(data[room:])
                data = data[:room]
            size = len(data)
            room -= size
            stream.window -= size
            self.window -= size
            end = stream.ending and not pending and not stream.trailers
            stream.sent = end
            self.write(data_frames(stream.id, data, end=end, frame_bytes=self.peer.frame_bytes))
        if pending:
            if stream.window > 0:  # its turn comes; otherwise the upstream's WINDOW_UPDATE brings it back
                stream.queued = True
                self._waiting.append(stream)
        elif stream.ending and not stream.sent:
            stream.sent = True
            if stream.trailers:
                block = trailer_block(stream.trailers)
                if self.peer.table_update:
                    block = self._shrink_table(block)
                self._write(header_frames(stream.id, block, end=True, frame_bytes=self.peer.frame_bytes))
            else:
                self.write(data_frames(stream.id, b"", end=True))
        elif not stream.ending:
            stream.exchange.release_body()

    def _send_waiting(self) -> None:
        """The windows or the transport allow more: give those that wait their turns."""
        waiting = self._waiting
        while waiting and self.window > 0 and not self.clogged:
            stream = waiting.popleft()
            stream.queued = False
            if stream.id in self.streams:
                self._send_pending(stream)

    def credit(self, stream: _Stream) -> None:
        """Let the upstream send more on a stream."""
        if stream.id in self.streams:
            self._write(window_update(stream.id, stream.taken))
            stream.taken = 0

    def cancel(self, stream: _Stream) -> None:
        """Nobody waits for the answer."""
        if self.streams.pop(stream.id, None) is not None:
            self._write(rst_stream(stream.id, Code.CANCEL))
            self._after_stream()

    # writing --------------------------------------------------------------------------------------------------------
    def write(self, parts: list[bytes]) -> None:
        """Send frames with what else is to be sent in this turn of the loop."""
        self._out += parts
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _write(self, frame: bytes) -> None:
        self._out.append(frame)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        out, self._out = self._out, []
        if out and not self.transport.is_closing():
            self._flushed = self._next
            if len(out) == 1:
                self.transport.write(out[0])
            elif sum(map(len, out)) < WRITE_APART:
                self.transport.write(b"".join(out))
            else:
                self.transport.writelines(out)
            if not self.clogged:
                self._control = 0

    def _write_control(self, frame: bytes) -> None:
        """An answer that the upstream can ask for as often as it likes."""
        self._control += 1
        if self._control > CONTROL_LIMIT:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many control frames")
        self._write(frame)

    # transport ------------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        session = transport.get_extra_info("ssl_object")
        self.agreed = session is None or session.selected_alpn_protocol() == "h2"
        if self.agreed:
            self.transport.write(_HELLO)

    def pause_writing(self) -> None:
        self.clogged = True

    def resume_writing(self) -> None:
        self.clogged = False
        self._control = 0
        self._send_waiting()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_taking()
        why = f"upstream closed the connection: {exc or 'EOF'}"
        for stream in self._end_all():
            if stream.answered:
                self._cut(stream, "upstream closed the connection in the middle of a body")
            else:
                self._failed(
                    stream,
                    UpstreamClosed(
                        why,
                        written=stream.id < self._flushed,
                        reused=(stream.id > 1 or stream.id >= self._flushed) and not stream.fresh,
                        answered=stream.interims > 0,
                    ),
                )
        self._be_lost()

    # time -----------------------------------------------------------------------------------------------------------
    def visit(self, now: float, every: float) -> None:
        """Ask a silent upstream with streams whether it is there, and give it up if it is not.

        Args:
            every: seconds of silence before it is asked, and then to answer; 0 never asks.
        """
        if self._news or not self.streams:
            self._news = False
            self._heard = now
            self._pinged = 0.0
        elif every and now - self._heard > every:
            if not self._pinged:
                self._pinged = now
                self._write(ping(_PING, ack=False))
            elif now - self._pinged > every:
                self.connection_lost(TimeoutError("no answer to a ping"))  # its machine is gone, or cut off
                self.transport.abort()

    def discard(self) -> None:
        """Close it in order; it has no streams, and the pool has already struck it off."""
        self._told = self._gone = True
        self.limit = 0
        if not self.transport.is_closing():
            self.transport.write(goaway(0, Code.NO_ERROR))
            self._shut()

    def retire(self) -> None:
        """Take no more exchanges, and close after the last one."""
        self._close_slowly()

    # ends -----------------------------------------------------------------------------------------------------------
    def _stop_taking(self) -> None:
        self.limit = 0
        if not self._told:
            self._told = True
            self.home.closing(self)

    def _close_slowly(self) -> None:
        """No further streams; close when the last one is over."""
        self._stop_taking()
        if not self.streams and not self._gone:
            self._write(goaway(0, Code.NO_ERROR))
            self._flush()
            self._be_lost()
            self._shut()

    def _shut(self) -> None:
        """Close, without waiting for an upstream that does not read."""
        if self.clogged:
            self.transport.abort()
        else:
            self.transport.close()

    def _be_lost(self) -> None:
        if not self._gone:
            self._gone = True
            self.home.lost(self)

    def _after_stream(self) -> None:
        """A stream has been taken out of `streams`."""
        self.home.released(self)
        if self._told and not self.streams:
            self._close_slowly()

    def _end_all(self) -> list[_Stream]:
        """Take all streams out; for those that tell their exchanges next."""
        ended = list(self.streams.values())
        self.streams.clear()
        for _ in ended:
            self.home.released(self)
        return ended

    def _failed(self, stream: _Stream, failure: UpstreamError) -> None:
        stream.exchange.upstream_failed(failure)

    def _cut(self, stream: _Stream, why: str) -> None:
        stream.exchange.upstream_cut(UpstreamClosed(why, written=True, answered=True))

    def _fault(self, fault: ConnectionFault) -> None:
        """The upstream cannot be understood: end the connection, and everything on it."""
        self._stop_taking()
        if not self.transport.is_closing():
            self._write(goaway(0, fault.code, fault.reason.encode()))
            self._flush()
            self._shut()
        self.failure = failure = f"upstream broke the HTTP/2 protocol: {fault.reason}"
        for stream in self._end_all():
            self._garbage(stream, failure)
        self._be_lost()

    def _garbage(self, stream: _Stream, why: str) -> None:
        failure = UpstreamGarbage(why, written=True, answered=True)
        if stream.answered:
            stream.exchange.upstream_cut(failure)
        else:
            stream.exchange.upstream_failed(failure)

    def _stream_fault(self, stream: _Stream, code: Code, why: str) -> None:
        """The answer on one stream cannot be understood."""
        if self.streams.pop(stream.id, None) is not None:
            self._write(rst_stream(stream.id, code))
            self._after_stream()
            self._garbage(stream, f"malformed response: {why}")

    # the answers in -------------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        self._news = True
        if self._partial:
            data = self._partial + data
            self._partial = b""
        try:
            if not self.greeted and not self._greet(data):
                return
            rest = self._read_frames(data)
        except ConnectionFault as fault:
            self._fault(fault)
            return
        if rest < len(data):
            self._partial = data[rest:]

    def _greet(self, data: bytes) -> bool:
        """Judge the first bytes: is this HTTP/2?"""
        if len(data) < HEADER_BYTES:
            self._partial = data
            return False
        _, _, kind, flags, _ = read_header(data, 0)
        if kind != SETTINGS or flags & ACK:
            spoken = data.startswith(b"HTTP/1.")
            why = "it speaks HTTP/1, though its port is named h2c" if spoken else "no SETTINGS at the start"
            raise ConnectionFault(Code.PROTOCOL_ERROR, why)
        return True

    def _read_frames(self, data: bytes) -> int:
        """Act on all whole frames; returns where the first incomplete one begins."""
        pos = 0
        size = len(data)
        streams = self.streams
        while size - pos >= HEADER_BYTES:
            high, low, kind, flags, number = read_header(data, pos)
            length = high << 8 | low
            start = pos + HEADER_BYTES
            end = start + length
            if end > size:
                if length > DEFAULT_FRAME_BYTES:
                    raise ConnectionFault(Code.FRAME_SIZE_ERROR, "frame too large")
                return pos
            number &= _STREAM_MASK
            pos = end
            if self._block is not None and kind != CONTINUATION:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "frame inside a header block")
            if kind == DATA:
                self._take(length)
                stream = streams.get(number)
                if stream is None:
                    self._judge_number(number)
                    continue
                if flags & PADDED:
                    start, end = unpadded(data, start, end, flags)
                self._read_data(stream, data[start:end], length, flags)
            elif kind == HEADERS:
                if flags & (PADDED | PRIORITY_FLAG):
                    start, end = unpadded(data, start, end, flags)
                    if flags & PRIORITY_FLAG:
                        start += 5
                        if start > end:
                            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "frame too short")
                if not flags & END_HEADERS:
                    self._block = bytearray(data[start:end])
                    self._block_of = number, flags
                    continue
                stream = streams.get(number)
                if stream is not None and not stream.answered and not flags & END_STREAM and size - pos >= HEADER_BYTES:
                    pos = self._read_first(stream, data, start, end, pos)
                else:
                    self._read_block(number, data[start:end], flags)
            else:
                self._read_other(kind, flags, number, data[start:end])
        return pos

    def _take(self, length: int) -> None:
        """Give the connection's window back, now and then."""
        self._taken = taken = self._taken + length
        if taken > CONNECTION_WINDOW // 2:
            self._taken = 0
            self._write(window_update(0, taken))

    def _judge_number(self, number: int) -> None:
        """A stream that is over may still send what was on its way; one that never was may not."""
        if not number & 1 or number >= self._next:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "frame on a stream that never was")

    def _read_first(self, stream: _Stream, data: bytes, start: int, end: int, pos: int) -> int:
        """A final head with what is behind it in the same read; returns the position behind what was used."""
        head = self._head(stream, data[start:end])
        if head is None:
            return pos
        if head.status < 200:
            self._interim(stream, head)
            return pos
        high, low, kind, flags, number = read_header(data, pos)
        length = high << 8 | low
        end = pos + HEADER_BYTES + length
        if kind != DATA or number != stream.id or flags & PADDED or end > len(data):
            self._answer(stream, head, b"", ended=False)
            return pos
        self._take(length)
        stream.taken = length
        self._answer(stream, head, data[pos + HEADER_BYTES : end], ended=bool(flags & END_STREAM))
        return end

    def _read_block(self, number: int, block: bytes, flags: int) -> None:
        """A whole header block: a head, or trailers."""
        stream = self.streams.get(number)
        if stream is None:
            self._judge_number(number)
            if block not in self._heads and block not in self._trailers:
                self._skip(block)
        elif not stream.answered:
            head = self._head(stream, block)
            if head is None:
                pass
            elif head.status >= 200:
                self._answer(stream, head, b"", ended=bool(flags & END_STREAM))
            elif flags & END_STREAM:
                self._stream_fault(stream, Code.PROTOCOL_ERROR, "no answer behind an interim one")
            else:
                self._interim(stream, head)
        else:
            lines = self._trailer_lines(stream, block)
            if lines is None:
                pass
            elif not flags & END_STREAM:
                self._stream_fault(stream, Code.PROTOCOL_ERROR, "trailers in the middle")
            else:
                self._complete(stream, lines)

    def _skip(self, block: bytes) -> None:
        """Keep the table in step with a block that nobody waits for."""
        before = self._decoder.generation
        with suppress(TooLarge):
            self._decoder.decode(block)
        self._unless_changed(before)

    def _unless_changed(self, before: int) -> bool:
        """Whether a block that was just decoded may be remembered; forgets all if it changed the table."""
        if self._decoder.generation != before:
            self._heads.clear()
            self._trailers.clear()
            return False
        if len(self._heads) >= KEPT or len(self._trailers) >= KEPT:
            self._heads.clear()
            self._trailers.clear()
        return True

    def _head(self, stream: _Stream, block: bytes) -> ResponseHead | None:
        """The head in a block; None if that was the end of the stream."""
        head = self._heads.get(block)
        return self._read(stream, block, self._heads, read_response, "header fields") if head is None else head

    def _trailer_lines(self, stream: _Stream, block: bytes) -> list[bytes] | None:
        """The trailers in a block; None if that was the end of the stream."""
        lines = self._trailers.get(block)
        return self._read(stream, block, self._trailers, read_trailers, "trailers") if lines is None else lines

    def _read(
        self, stream: _Stream, block: bytes, known: dict[bytes, T], read: Callable[[list[Field]], T], what: str
    ) -> T | None:
        """Decode a block that is not known, and remember it if that may be."""
        before = self._decoder.generation
        try:
            found = read(self._decoder.decode(block))
        except TooLarge:
            self._unless_changed(before)
            self._stream_fault(stream, Code.CANCEL, f"{what} too large")
            return None
        except StreamFault as fault:
            self._unless_changed(before)
            self._stream_fault(stream, fault.code, fault.reason)
            return None
        if self._unless_changed(before):
            known[block] = found
        return found

    def _interim(self, stream: _Stream, head: ResponseHead) -> None:
        stream.interims += 1
        if stream.interims > INTERIM_LIMIT:
            self._stream_fault(stream, Code.ENHANCE_YOUR_CALM, "too many interim responses")
        else:
            stream.exchange.informational(head)

    def _answer(self, stream: _Stream, head: ResponseHead, body: bytes, *, ended: bool) -> None:
        """A final head with the beginning of the body; `ended`: that is all of it."""
        exchange = stream.exchange
        status = head.status
        if status == 204 or status == 304 or exchange.method == b"HEAD":
            if body:
                self._stream_fault(stream, Code.PROTOCOL_ERROR, "a body where none can be")
                return
            stream.left = 0
        elif head.length >= 0:
            stream.left = left = head.length - len(body)
            if left < 0 or (ended and left):
                self._stream_fault(stream, Code.PROTOCOL_ERROR, "a body of another length than its content-length")
                return
        stream.answered = True
        if ended:
            self._end(stream)
        elif exchange.keeping:
            exchange.let_go()
        exchange.answer(head, body, end=ended)

    def _read_data(self, stream: _Stream, body: bytes, length: int, flags: int) -> None:
        """More of a body."""
        if not stream.answered:
            self._stream_fault(stream, Code.PROTOCOL_ERROR, "a body without a head")
            return
        if stream.left >= 0:
            stream.left -= len(body)
            if stream.left < 0 or (stream.left and flags & END_STREAM):
                self._stream_fault(stream, Code.PROTOCOL_ERROR, "a body of another length than its content-length")
                return
        if flags & END_STREAM:
            if body:
                stream.exchange.answer_body(body)
                if stream.id not in self.streams:
                    return
            self._end(stream)
            stream.exchange.answer_end()
            return
        stream.taken = taken = stream.taken + length
        if body:
            stream.exchange.answer_body(body)
        if taken >= STREAM_WINDOW // 2:
            if taken > STREAM_WINDOW:
                self._stream_fault(stream, Code.FLOW_CONTROL_ERROR, "more than its window allows")
            elif not stream.paused:
                self.credit(stream)

    def _complete(self, stream: _Stream, trailers: list[bytes]) -> None:
        """Trailers ended the answer."""
        if stream.left > 0:
            self._stream_fault(stream, Code.PROTOCOL_ERROR, "a body of another length than its content-length")
            return
        self._end(stream)
        stream.exchange.answer_end(trailers)

    def _end(self, stream: _Stream) -> None:
        """The answer is complete; if the request is not, the upstream needs no more of it."""
        del self.streams[stream.id]
        if not stream.sent:
            self._write(rst_stream(stream.id, Code.NO_ERROR))
        self._after_stream()

    # other frames in ------------------------------------------------------------------------------------------------
    def _read_other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Frames that are rare."""
        size = len(payload)
        if kind == WINDOW_UPDATE:
            if size != 4:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a length that is none")
            self._widen(number, int.from_bytes(payload, "big") & _STREAM_MASK)
        elif kind == CONTINUATION:
            self._continue_block(flags, number, payload)
        elif kind == SETTINGS:
            self._read_settings(flags, number, payload)
        elif kind == PING:
            if size != 8 or number:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR if not number else Code.PROTOCOL_ERROR, "malformed PING")
            if not flags & ACK:
                self._write_control(ping(payload, ack=True))
        elif kind == RST_STREAM:
            if size != 4:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "RST_STREAM of a length that is none")
            self._reset(number, int.from_bytes(payload, "big"))
        elif kind == GOAWAY:
            if size < 8 or number:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR if not number else Code.PROTOCOL_ERROR, "malformed GOAWAY")
            self._go_away(int.from_bytes(payload[:4], "big") & _STREAM_MASK, int.from_bytes(payload[4:8], "big"))
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PUSH_PROMISE though it was declined")
        elif kind < 10:  # PRIORITY says nothing to us, and what is unknown must be ignored (RFC 9113 §5.5)
            return

    def _widen(self, number: int, more: int) -> None:
        if number == 0:
            if not more:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            self.window += more
            if self.window > MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "window too large")
            self._send_waiting()
            return
        stream = self.streams.get(number)
        if stream is None:
            self._judge_number(number)
            return
        stream.window += more
        if not more or stream.window > MAX_WINDOW:
            code = Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR
            self._stream_fault(stream, code, "malformed WINDOW_UPDATE")
        elif stream.pending:
            self._queue(stream)

    def _continue_block(self, flags: int, number: int, payload: bytes) -> None:
        block = self._block
        if block is None or number != self._block_of[0]:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        if not payload and not flags & END_HEADERS:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "empty CONTINUATION")
        block += payload
        if len(block) > BLOCK_LIMIT:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "header block too large")
        if flags & END_HEADERS:
            self._block = None
            self._read_block(number, bytes(block), self._block_of[1])

    def _read_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS acknowledged with a payload")
            return
        wider = self.peer.read(payload)
        self._write_control(SETTINGS_ACK)
        if wider:
            for stream in list(self.streams.values()):
                stream.window += wider
                if stream.window > MAX_WINDOW:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "window too large")
                if wider > 0 and stream.pending:
                    self._queue(stream)
        self.greeted = True
        if not self._told:
            streams = self.peer.streams
            self.limit = MAX_STREAMS if streams < 0 else min(streams, MAX_STREAMS)
            self.home.roomy(self)

    def _reset(self, number: int, code: int) -> None:
        stream = self.streams.pop(number, None)
        if stream is None:
            self._judge_number(number)
            return
        self._after_stream()
        why = f"upstream reset the stream: {_name(code)}"
        if stream.answered:
            self._cut(stream, why)
        elif code == Code.REFUSED_STREAM:
            self._failed(stream, UpstreamClosed(why, written=False, reused=not stream.fresh))
        else:
            self._failed(stream, UpstreamClosed(why, written=True, answered=True))

    def _go_away(self, last: int, code: int) -> None:
        """The upstream takes no further streams, and looks at none above `last`."""
        self._stop_taking()
        beyond = [number for number in self.streams if number > last]
        why = f"upstream is going away: {_name(code)}"
        for stream in [self.streams.pop(number) for number in beyond]:
            self.home.released(self)
            self._failed(stream, UpstreamClosed(why, written=False, reused=True))
        if not self.streams:
            self._close_slowly()


def _name(code: int) -> str:
    return Code(code).name if code in _CODES else f"error {code}"


_CODES: Final = frozenset(Code)
