"""TLS under a connection: between a socket's transport and a codec, which sees a transport like any other.

    client bytes -> ServerStream -> codec (kncore.net.http1, http2)         one Door per listening socket
    upstream's   <- ClientStream <- codec (http1_upstream, ...)             one dial each

A stream is both the protocol of the socket below and the transport of the codec above. OpenSSL works on memory only
(`ssl.SSLObject`), one call per read and per write, no task and no future.

**Handshakes.** A socket costs nearly nothing until its first TLS record is complete: only then OpenSSL gets to know
about it. From there on its handshake is work, a millisecond of it with an RSA key, so the door gives handshakes at
most `SLICE` seconds between two turns of the event loop: a flood of them slows down other handshakes, not requests on
connections that exist. Those that are not done after `Limits.time` are cut. There are at most `Limits.pending`; one
more cuts the oldest, which is the one most likely to be nobody's. Codecs are made, and count as connections of their
listener, when the handshake is done and the protocol is agreed upon (ALPN).

**Ends.** `close` sends what is written, says so (close_notify) and closes without waiting for the other side to
agree, as every web server does. `write_eof` ends one direction only; TLS 1.3 allows for that. A peer whose connection
ends without close_notify may have been cut off by somebody else: the codec hears of it as an error, so that a body
that lasts until the end of the connection is not taken for whole.

What is bounded: handshakes in number and time; bytes held before a handshake (`FIRST_BYTES`); OpenSSL's buffers, for
nothing larger than `PIECE` is put into them at once, and both ways they are emptied in the same call; what a peer may
make us do for nothing (`BARREN`), and the unasked answers for one that reads none (`UNREAD`).

Trust: hardened; both peers may be anybody. What OpenSSL refuses ends the connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kncore.net.ticker import Ticker

__all__ = ["ClientStream", "Door", "DoorStatistics", "HandshakeLimits", "ServerStream"]

P = TypeVar("P", bound=asyncio.BaseProtocol)
log = logging.getLogger(__name__)

SLICE: Final = 0.002
"""Seconds of handshakes between two turns of the loop."""
RECORD: Final = 16 * 1024
"""The most that one TLS record carries."""
PIECE: Final = 32 * 1024
"""Bytes given to OpenSSL at once: its buffers grow to what they held and never shrink."""
FIRST_BYTES: Final = 32 * 1024
"""Of a client before its handshake is done: a ClientHello is 500 bytes, one record at most."""
UNREAD: Final = 256 * 1024
"""Bytes of protocol messages that may wait for a peer which makes us send them and reads none."""
BARREN: Final = 64 * 1024
"""Bytes from a peer without any for the codec among them: a record has 16 KiB, so this is key updates or empty ones."""
HANDSHAKE_RECORD: Final = 22
_HTTP: Final = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"DELE", b"PATC", b"PRI ", b"CONN", b"TRAC")
PLAIN: Final = b"this port speaks TLS: use https://\n"
_PLAIN_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%b" % (len(PLAIN), PLAIN)
)

_WAITING, _SHAKING, _OPEN, _ENDED = range(4)


class PeerRefused(ssl.SSLError):
    """The handshake succeeded, but not with whom we want."""

    def __init__(self, why: str) -> None:
        super().__init__(0, why)
        self.reason = why


class Truncated(ConnectionError):
    """The connection ended without the peer saying that it does."""


class _Stream(asyncio.Protocol, asyncio.Transport):
    """What both sides share: everything after the handshake."""

    _raw: asyncio.Transport
    _ssl: ssl.SSLObject
    _inner: asyncio.Protocol | None

    def __init__(self) -> None:
        self._state = _WAITING
        self._inner = None
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._heard_end = False  # the peer sends no more
        self._said_end = False  # we send no more
        self._keep = False  # the codec wants to go on after the peer's end
        self._failure: Exception | None = None
        self._barren = 0

    # from the socket ------------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        if self._state == _OPEN:
            if len(data) <= PIECE:
                self._take(data)
            else:
                for start in range(0, len(data), PIECE):
                    self._take(data[start : start + PIECE])
        elif self._state != _ENDED:
            self._shake_with(data)

    def _take(self, data: bytes) -> None:
        """Decrypt, and hand over what comes of it in one piece."""
        if self._state != _OPEN or self._heard_end:
            return
        incoming, read = self._in, self._ssl.read
        plain: bytes = b""
        more: list[bytes] | None = None
        ended = False
        incoming.write(data)
        try:
            while incoming.pending:
                got = read(RECORD)
                if not got:
                    ended = True  # close_notify
                    break
                if not plain:
                    plain = got
                elif more is None:
                    more = [plain, got]
                else:
                    more.append(got)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLZeroReturnError:
            ended = True  # close_notify, after ours
        except ssl.SSLError as exc:
            self._broken(exc)
            return
        if self._out.pending:  # key updates and alerts, nothing that the codec asked for
            self._flush()
            if self._raw.get_write_buffer_size() > UNREAD:
                self.abort()
                return
        if plain:
            self._barren = 0
            assert self._inner is not None
            self._inner.data_received(plain if more is None else b"".join(more))
        else:
            self._barren += len(data)
            if self._barren > BARREN:
                self.abort()
        if ended and self._state == _OPEN:
            self._end_heard()

    def _end_heard(self) -> bool:
        """The peer has ended its direction; True if ours goes on."""
        if not self._heard_end:
            self._heard_end = True
            assert self._inner is not None
            self._keep = bool(self._inner.eof_received())
            if not self._keep:
                self.close()
        return self._keep

    def eof_received(self) -> bool:
        if self._state != _OPEN:
            return False
        if not self._heard_end:
            self._failure = Truncated("the connection ended without close_notify")
        return self._end_heard()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _ENDED
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connection_lost(exc or self._failure)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    # the handshake --------------------------------------------------------------------------------------------------
    def _shake_with(self, data: bytes) -> None:
        raise NotImplementedError

    def _flush(self) -> None:
        if self._out.pending:
            if self._raw.is_closing():
                self._out.read()
            else:
                self._raw.write(self._out.read())

    def _broken(self, exc: Exception) -> None:
        """OpenSSL gave up: send its alert, and end."""
        self._failure = exc
        self._flush()
        self._state = _ENDED
        self._raw.close()

    # for the codec --------------------------------------------------------------------------------------------------
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._state != _OPEN or self._said_end or self._raw.is_closing():
            return
        size = len(data)
        try:
            if 0 < size <= PIECE:
                self._ssl.write(data)
                self._raw.write(self._out.read())
            elif size:
                view = memoryview(data)
                for start in range(0, size, PIECE):
                    self._ssl.write(view[start : start + PIECE])
                    self._raw.write(self._out.read())
        except ssl.SSLError as exc:
            self._broken(exc)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        # A record costs more than copying: a chunk's few bytes of framing must not be records of their own.
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if self._state == _OPEN:
            self._say_end()
        self._state = _ENDED
        self._raw.close()

    def abort(self) -> None:
        self._state = _ENDED
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._state == _ENDED or self._raw.is_closing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._state == _OPEN and not self._said_end and not self._raw.is_closing():
            self._say_end()
            if self._raw.can_write_eof():
                self._raw.write_eof()

    def _say_end(self) -> None:
        if self._said_end:
            return
        self._said_end = True
        with suppress(ssl.SSLError, ValueError):
            # raises always: it wants to wait for the peer's, which we do not
            self._ssl.unwrap()
        self._flush()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._raw.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._ssl if name == "ssl_object" else self._raw.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._inner is not None
        return self._inner

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = cast("asyncio.Protocol", protocol)


# -- clients of ours ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HandshakeLimits:
    """What clients may do on one listener before they are connections."""

    time: float = 10.0
    """For a whole handshake, seconds, as seen by a ticker: up to a second late."""
    pending: int = 1024
    """Sockets without a complete handshake; one more, and the oldest is cut."""


@dataclass(frozen=True, kw_only=True)
class DoorStatistics:
    """A door at one moment; all but `pending` count since the start."""

    pending: int
    completed: int
    failed: int
    """Refused by OpenSSL or by the client: versions, ciphers, unknown names, garbage."""
    timed_out: int
    pushed_out: int
    """Cut to make room."""
    plain: int
    """Spoke HTTP without TLS, and were told."""


class Door:
    """Takes a listener's sockets through their handshakes.

    Args:
        context: what the next handshake is made with; asked for each, so a new certificate is a new context.
        make: the codec for a protocol that was agreed upon; None if the client did not care.
    """

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        make: Callable[[str | None], asyncio.Protocol],
        *,
        ticker: Ticker,
        limits: HandshakeLimits | None = None,
    ) -> None:
        self._context = context
        self._make = make
        self._limits = limits or HandshakeLimits()
        self._ticker = ticker
        self._pending: dict[ServerStream, float] = {}
        """Without a complete handshake, oldest first, with the loop time they came."""
        self._ready: deque[ServerStream] = deque()
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._completed = self._failed = self._timed_out = self._pushed_out = self._plain = 0

    def protocol(self) -> ServerStream:
        """For `loop.create_server`."""
        return ServerStream(self)

    def open(self) -> None:
        """Keep time from now on; must be called inside the running loop."""
        self._loop = asyncio.get_running_loop()
        self._ticker.add(self.visit)

    def close(self) -> None:
        """Cut whoever is not done."""
        self._ticker.discard(self.visit)
        for stream in tuple(self._pending):
            stream.abort()

    def visit(self, now: float) -> bool:
        """Cut those that take too long; for the ticker."""
        due = now - self._limits.time
        for stream, since in tuple(self._pending.items()):
            if since > due:
                break
            self._timed_out += 1
            stream.abort()
            self._pending.pop(stream, None)
        return False

    def statistics(self) -> DoorStatistics:
        """Handshakes now and what became of those before."""
        return DoorStatistics(
            pending=len(self._pending),
            completed=self._completed,
            failed=self._failed,
            timed_out=self._timed_out,
            pushed_out=self._pushed_out,
            plain=self._plain,
        )

    # for streams ----------------------------------------------------------------------------------------------------
    def arrived(self, stream: ServerStream) -> None:
        assert self._loop is not None
        if len(self._pending) >= self._limits.pending:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            self._pushed_out += 1
            oldest.abort()
        self._pending[stream] = self._loop.time()

    def queue(self, stream: ServerStream) -> None:
        """Its next step is to be done when it is its turn."""
        self._ready.append(stream)
        if not self._scheduled:
            assert self._loop is not None
            self._scheduled = True
            self._loop.call_soon(self._work)

    def begin(self) -> ssl.SSLContext:
        return self._context()

    def done(self, stream: ServerStream, alpn: str | None) -> asyncio.Protocol:
        self._pending.pop(stream, None)
        self._completed += 1
        return self._make(alpn)

    def failed(self, stream: ServerStream, exc: Exception) -> None:
        self._pending.pop(stream, None)
        self._failed += 1
        log.debug("TLS handshake failed", extra={"error": str(exc), "peer": stream.get_extra_info("peername")})

    def was_plain(self, stream: ServerStream) -> None:
        self._pending.pop(stream, None)
        self._plain += 1

    def gone(self, stream: ServerStream) -> None:
        self._pending.pop(stream, None)

    def _work(self) -> None:
        """Handshakes for a while; the rest after others had their turn."""
        assert self._loop is not None
        ready, clock = self._ready, perf_counter
        until = clock() + SLICE
        try:
            while ready:
                ready.popleft().step()
                if clock() >= until:
                    break
        finally:  # one that fails must not keep all others at the door
            self._scheduled = bool(ready)
            if ready:
                self._loop.call_soon(self._work)


class ServerStream(_Stream):
    """A client's connection."""

    def __init__(self, door: Door) -> None:
        super().__init__()
        self._door = door
        self._first = b""
        self._queued = False
        self._held = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        self._door.arrived(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.gone(self)
        super().connection_lost(exc)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object" and self._state < _SHAKING:
            return default
        return super().get_extra_info(name, default)

    def _shake_with(self, data: bytes) -> None:
        first = self._first = self._first + data if self._first else data
        if self._state == _WAITING:
            if first[0] != HANDSHAKE_RECORD:
                self._no_tls(first)
                return
            if len(first) < 5 or len(first) < 5 + int.from_bytes(first[3:5], "big"):
                if len(first) > FIRST_BYTES:
                    self.abort()
                return  # nothing to do before the record is whole
        if not self._queued:
            self._queued = True
            self._door.queue(self)
        elif len(first) > FIRST_BYTES and not self._held:
            self._held = True
            self._raw.pause_reading()

    def _no_tls(self, first: bytes) -> None:
        self._door.was_plain(self)
        self._state = _ENDED
        if first[:4] in _HTTP:
            self._raw.write(_PLAIN_ANSWER)
        self._raw.close()

    def step(self) -> None:
        """One step of the handshake, when the door says so."""
        self._queued = False
        if self._state == _ENDED or self._raw.is_closing():
            return
        data, self._first = self._first, b""
        if self._held:
            self._held = False
            self._raw.resume_reading()
        try:
            if self._state == _WAITING:
                self._ssl = self._door.begin().wrap_bio(self._in, self._out, server_side=True)
                self._state = _SHAKING
            self._in.write(data)
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (ssl.SSLError, OSError, ValueError) as exc:
            self._door.failed(self, exc)
            self._broken(exc)
            return
        self._flush()
        self._state = _OPEN
        self._inner = self._door.done(self, self._ssl.selected_alpn_protocol())
        self._inner.connection_made(self)
        if self._in.pending:
            self._take(b"")


# -- upstreams of ours -------------------------------------------------------------------------------------------------


class ClientStream(_Stream, Generic[P]):
    """A connection to an upstream; `ready` tells when, or why not.

    Args:
        make: the codec, called when the handshake is done.
        server_name: what the server is asked for, and what its certificate is checked for if the context does that.
        check: looks at the finished handshake in addition; the reason to refuse the server, or None.
    """

    def __init__(
        self,
        make: Callable[[], P],
        context: ssl.SSLContext,
        server_name: str,
        check: Callable[[ssl.SSLObject], str | None] | None = None,
    ) -> None:
        super().__init__()
        self.ready: asyncio.Future[P] = asyncio.get_running_loop().create_future()
        """The codec, connected; an `OSError` (of which `ssl.SSLError` is one) if there was no handshake."""
        self._make = make
        self._check = check
        self._ssl = context.wrap_bio(self._in, self._out, server_hostname=server_name)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        self._state = _SHAKING
        self._shake_with(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._refuse(
            exc or ConnectionResetError(errno.ECONNRESET, "the connection was closed during the TLS handshake")
        )
        super().connection_lost(exc)

    def _shake_with(self, data: bytes) -> None:
        if data:
            self._in.write(data)
        try:
            self._ssl.do_handshake()
            why = self._check(self._ssl) if self._check is not None else None
            if why is not None:
                raise PeerRefused(why)
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (OSError, ValueError) as exc:
            self._refuse(exc)
            self._broken(exc)
            return
        self._flush()
        if self.ready.done():  # whoever dialled has given up
            self.abort()
            return
        self._state = _OPEN
        inner = self._make()
        self._inner = cast("asyncio.Protocol", inner)
        self._inner.connection_made(self)
        self.ready.set_result(inner)
        if self._in.pending:
            self._take(b"")

    def _refuse(self, exc: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc)
            self.ready.exception()  # looked at: who dialled may have given up already
