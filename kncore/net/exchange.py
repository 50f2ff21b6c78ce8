"""One request and its answer: the seam between codecs, upstreams and the proxies' layers.

    server codec (http1, http2)  --->  Exchange  --->  upstream codec (http1, http2)
        reads the request,               |                writes the request,
        writes the answer                |                reads the answer
                                   layers of app.py
                                   (route, wait, time out, count)

A server codec makes an `Exchange` when a request head is complete and calls the proxy's handler with it,
synchronously, from inside `data_received`. The handler must end in one of three ways, now or later: `respond` (answer
it ourselves), `forward` (let an upstream answer) or `abort`. No task, future or timer belongs to a request: what has
to wait keeps the exchange in its own queue and calls `forward` when it is its turn. Example, a proxy with one limit,
one route and an access log:

    def handler(exchange: Exchange) -> None:
        exchange.on_done(log)                                   # runs exactly once, however it ends
        exchange.clocks = CLOCKS                                # Clocks(total=300.0, ...): then 504, or a cut body
        if exchange.value(b"user-agent").startswith(b"kube-probe/"):
            exchange.respond(200, b"ok")
        elif breaker.try_acquire():
            exchange.on_done(lambda _: breaker.release())
            exchange.forward(upstream, drop=DROP, add=(b"X-Via: torpor",), on_failure=another_pod)
        else:
            exchange.respond(503, b"pending request queue full")

    def another_pod(exchange: Exchange, failure: UpstreamError) -> bool:
        if not failure.replayable or (pod := pick()) is None:
            return False                                        # the client gets 502 and the failure's text
        exchange.forward(pod, drop=DROP, on_failure=another_pod)
        return True

    def log(exchange: Exchange) -> None:
        print(exchange.method, exchange.target, exchange.status, exchange.bytes_out, exchange.error)

What is bounded: the request body is held back (reading paused) beyond `HOLD_LIMIT` bytes while nobody takes it;
towards an upstream and towards the client it flows with back-pressure, so an exchange never holds more than that plus
one socket read and one socket buffer each way. What dies when: client gone -> the upstream's stream is cancelled and
the hooks run with `ClientGone`; upstream gone before a response head -> `on_failure`, else 502; after it -> the
client's body is cut visibly (connection closed, or stream reset), never ended as if whole.

The two ends need not speak the same version. What crosses here is neutral: heads as lines without framing, bodies as
bytes and an end, trailers as lines. Each codec writes its own framing, its own `Connection`, `Transfer-Encoding` and
pseudo-headers. An offer to upgrade only exists between two HTTP/1 ends.

A gRPC call (`content-type: application/grpc`) is refused and broken off in gRPC's own way (`kncore.net.grpc`):
`respond` and `fail` make trailers-only answers of what would have been an error status, and a call cut in the middle
ends with `grpc-status` where the client's codec can still send trailers. `own_status` keeps the number meant.

Trust: everything reachable from here is hardened against both sides; fields hold what the codec validated, without
    CR, LF or NUL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from kncore.net import grpc
from kncore.net.errors import ClientGone, Overrun, UpstreamError
from kncore.net.headers import HOP_BY_HOP, value_of
from kncore.net.heads import REASONS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from ssl import SSLObject

    from kncore.errors import KnError
    from kncore.net.heads import RequestHead, ResponseHead

__all__ = [
    "HOLD_LIMIT",
    "IDEMPOTENT",
    "NEVER",
    "REPEATS",
    "TEXT",
    "Carrier",
    "Clocks",
    "Exchange",
    "Handler",
    "Upstream",
]

HOLD_LIMIT: Final = 64 * 1024
"""Bytes of request body kept while no upstream has it, and kept for sending it again."""

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Doing these twice is doing them once (RFC 9110 §9.2.2)."""

REPEATS: Final = 3
"""How often an exchange is silently given to the same upstream again, whose connection turned out to be closing."""

NEVER: Final = HOP_BY_HOP | {b"host"}
"""What `forward` does not pass on: `Host` is written anew."""

TEXT: Final = (b"Content-Type: text/plain; charset=utf-8", b"X-Content-Type-Options: nosniff")


class Clocks(NamedTuple):
    """Bounds of an exchange in seconds, 0 is no bound. Kept late by at most two ticks."""

    total: float = 0.0
    """From its start to its end, also of an upgraded one."""
    first_byte: float = 0.0
    """From its start until the head of the answer is sent."""
    idle: float = 0.0
    """Without a byte sent to the client; through a tunnel, in either direction."""
    text: bytes = b""
    """Body of the 504, or the end of a body that was already being sent."""


UNBOUNDED: Final = Clocks()


class Carrier(Protocol):
    """An upstream's side of one exchange, as the exchange uses it."""

    def send_body(self, data: bytes, *, end: bool, trailers: Sequence[bytes] = ()) -> None:
        """Next part of the request body."""

    def send_raw(self, data: bytes) -> None:
        """Bytes of the tunnel, after the upstream switched protocols."""

    def end_raw(self) -> None:
        """The client will send nothing more through the tunnel."""

    def pause(self) -> None:
        """The client does not keep up: read no more of the response for now."""

    def resume(self) -> None:
        """Read on."""

    def cancel(self) -> None:
        """Nobody waits for the answer any more; the exchange is not called again."""


class Upstream(Protocol):
    """Something that can answer an exchange: an address with its connections (`kncore.net.pool`)."""

    def submit(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """Take the exchange to a connection, now or as soon as one is up; `fresh` refuses one that served before."""

    def withdraw(self, exchange: Exchange) -> None:
        """Forget an exchange that still waits for a connection."""


class Exchange:
    """One request and its answer; see the module for its life."""

    # facts of the request ---------------------------------------------------------------------------------------------
    head: RequestHead
    """What the codec understood; the four that everybody asks for are repeated here."""
    method: bytes
    target: bytes
    host: bytes
    fields: Mapping[bytes, bytes]
    scheme: bytes = b"http"
    protocol: str = "HTTP/1.1"
    """What the client speaks; of HTTP/1 the head knows whether it is the old version."""
    started: float
    """Loop time at which the head was complete."""
    admitted: float = 0.0
    """Loop time at which it had its turn, 0 before; noted where somebody wants to know how long it waited."""

    # progress ------------------------------------------------------------------------------------------------------
    status: int = 0
    """Status of the answer, 0 until its head is sent."""
    bytes_in: int = 0
    """Bytes of request body received."""
    bytes_out: int = 0
    """Bytes of response body sent (and of the tunnel, once upgraded)."""
    body_done: bool = False
    """The request body has been received to its end."""
    upgraded: bool = False
    """The upstream switched protocols: both connections are one byte tunnel."""
    done: bool = False
    clocks: Clocks = UNBOUNDED
    """How long it may take. One value for many exchanges: what none of them pays for is a clock of its own."""
    error: KnError | None = None
    """Why it did not end well: the client left, the upstream failed, time ran out."""
    upstream: Upstream | None = None
    """Where it was last forwarded to."""
    own_status: int = 0
    """The error status that we answered ourselves, also where a gRPC call got it as 200 with a `grpc-status`."""
    refused: bool = False
    """For the server codec, while it cuts: nothing was done with the request, its sender may send it elsewhere."""
    seen: bool = False
    """An attempt that failed had sent some of the request: an app may have acted on it, or died of it."""

    drop: Collection[bytes] = NEVER
    """For the upstream codec: fields not to pass on, besides those that the client's `Connection` names."""
    add: Sequence[bytes] = ()
    """For the upstream codec: lines to add."""
    authority: bytes
    """For the upstream codec: its `Host`."""

    _carrier: Carrier | None = None
    _hooks: tuple[Callable[[Exchange], None], ...] = ()
    _held: list[bytes] | None = None
    _held_bytes: int = 0
    _held_lost: bool = False
    _keeps: bool = False
    _repeats: int = 0
    _body_paused: bool = False
    _trailers: Sequence[bytes] = ()
    _on_failure: Callable[[Exchange, UpstreamError], bool] | None = None
    _on_answer: Callable[[Exchange, int, list[bytes]], None] | None = None
    _on_carry: Callable[[Exchange], None] | None = None
    _moved: int = 0
    _moved_at: float = 0.0

    def __init__(self, head: RequestHead, started: float) -> None:
        self.head = head
        self.method = head.method
        self.target = head.target
        self.host = head.host
        self.fields = head.fields
        self.started = started

    @property
    def peer(self) -> str:
        """The client's address without port."""
        raise NotImplementedError

    @property
    def peer_port(self) -> int:
        """The client's port."""
        raise NotImplementedError

    @property
    def tls(self) -> SSLObject | None:
        """The TLS session that the client's connection is, None in clear."""
        return None

    # for the layers -------------------------------------------------------------------------------------------------
    def value(self, name: bytes) -> bytes:
        """The value of a header by its lower-case name, empty if absent."""
        line = self.fields.get(name)
        return b"" if line is None else value_of(line)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """(lower-case name, value) of every line, in order."""
        return [
            (name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in self.head.lines)
        ]

    def on_done(self, hook: Callable[[Exchange], None]) -> None:
        """Call the hook once when the exchange is over, however it ended; the last one added runs first."""
        self._hooks += (hook,)

    def on_answer(self, hook: Callable[[Exchange, int, list[bytes]], None]) -> None:
        """Show the hook an upstream's status and header lines before they are sent; it may change the list."""
        self._on_answer = hook

    def on_carry(self, hook: Callable[[Exchange], None]) -> None:
        """Tell the hook whenever an upstream connection takes the exchange, to know how long that took."""
        self._on_carry = hook

    def respond(self, status: int, body: bytes = b"", lines: Sequence[bytes] = TEXT) -> None:
        """Answer it ourselves; `lines` are header lines, framing is added."""
        if self.status or self.done:
            return
        self._detach()
        if status >= 400:
            self.own_status = status
            if grpc.is_call(self.fields):
                self._send_head(200, b"OK", grpc.refusal(status, body, lines), -1, b"", end=True)
                return
        self._send_head(status, REASONS.get(status, b""), lines, len(body), body, end=True)

    def fail(self, status: int, text: bytes, error: KnError | None = None) -> None:
        """Answer with an error, or cut the body if an answer had begun."""
        if self.done:
            return
        self.error = error
        if self.status:
            self._detach()
            if self.trailing and grpc.is_call(self.fields):
                self.own_status = status
                self._send_end(grpc.trailers(status, text))
            else:
                self._cut(text if isinstance(error, Overrun) else b"")
        else:
            self.respond(status, text)

    def abort(self, error: KnError | None = None) -> None:
        """End it without an answer: the connection (or stream) is closed."""
        if not self.done:
            self.error = error
            self._detach()
            self._cut(b"")

    def refuse(self, error: KnError | None = None) -> None:
        """End it without an answer, and say (where the protocol can) that nothing was done with it."""
        self.refused = True
        self.abort(error)

    def forward(
        self,
        upstream: Upstream,
        *,
        drop: Collection[bytes] = NEVER,
        add: Sequence[bytes] = (),
        authority: bytes | None = None,
        on_failure: Callable[[Exchange, UpstreamError], bool] | None = None,
    ) -> None:
        """Let an upstream answer.

        Args:
            drop: lower-case names not to pass on; contains `HOP_BY_HOP` and `host`. What `Connection` names goes too.
            add: lines to send in addition.
            authority: `Host` for the upstream; None keeps the client's.
            on_failure: asked when an attempt failed before any byte of the answer; True means that it took the
                exchange over (it called `forward`, or will), False that the client gets 502. Not asked when a
                connection that had served before turned out closed and the request can be repeated: that is done
                silently, once.
        """
        if self.done:
            return
        self.drop = drop
        self.add = add
        self.authority = self.host if authority is None else authority
        self._on_failure = on_failure
        self.upstream = upstream
        upstream.submit(self)

    # for server codecs ----------------------------------------------------------------------------------------------
    def body(self, data: bytes, *, end: bool, trailers: Sequence[bytes] = ()) -> None:
        """The codec received body bytes."""
        self.bytes_in += len(data)
        if end:
            self.body_done = True
            self._trailers = trailers
        carrier = self._carrier
        if carrier is not None:
            if not self._held_lost:
                self._keep(data)
            carrier.send_body(data, end=end, trailers=trailers)
        elif data:
            self._keep(data)
            if self._held_bytes > HOLD_LIMIT and not (end or self._body_paused):
                self._body_paused = True
                self._pause_body()

    def gone(self, error: KnError | None = None) -> None:
        """The client left, or sent what cannot be gone on with (`error`)."""
        if not self.done:
            if not self.upgraded:  # a tunnel has no other end
                self.error = error or ClientGone("client closed the connection")
            self._detach()
            self.finish()

    def drained(self) -> None:
        """The client takes bytes again."""
        if self._carrier is not None:
            self._carrier.resume()

    def clogged(self) -> None:
        """The client does not keep up."""
        if self._carrier is not None:
            self._carrier.pause()

    def tunnel_in(self, data: bytes) -> None:
        """Bytes of the tunnel from the client."""
        self.bytes_in += len(data)
        if self._carrier is not None:
            self._carrier.send_raw(data)

    def tunnel_end(self) -> None:
        """The client will send nothing more through the tunnel."""
        if self._carrier is not None:
            self._carrier.end_raw()

    def tick(self, now: float) -> None:
        """Compare the clocks with now."""
        total, first_byte, idle, _ = self.clocks
        age = now - self.started
        if total and age >= total:
            self._overrun("the request took longer than its timeout")
        elif first_byte and age >= first_byte and not self.status:
            self._overrun("no response started in time")
        elif idle and self._still(now) >= idle:
            self._overrun("no byte was sent in time")

    def _still(self, now: float) -> float:
        """For how long nothing has been sent. Seen by comparing with the tick before, so that sending costs nothing."""
        moved = self.status + self.bytes_out
        if self.upgraded:
            moved += self.bytes_in
        if moved != self._moved:
            self._moved = moved
            self._moved_at = now
        return now - (self._moved_at or self.started)

    def finish(self) -> None:
        """The codec has sent the whole answer, or there will be none."""
        if self.done:
            return
        self.done = True
        hooks, self._hooks = self._hooks, ()
        bug: Exception | None = None
        for hook in reversed(hooks):
            try:
                hook(self)
            except Exception as exc:  # others give back places and counts: a bug in one must not keep those for ever
                bug = bug or exc
        # Hooks are methods of objects that know us. Left in place, each request would be a cycle for the collector to
        # find, a hundred thousand requests later and in cold memory (in an activator: 20 MB).
        self._on_failure = self._on_answer = self._on_carry = None
        if bug is not None:
            raise bug

    # for upstream codecs --------------------------------------------------------------------------------------------
    def carry(self, carrier: Carrier, *, keep: bool = False) -> list[bytes]:
        """An upstream connection takes the exchange; returns the body received so far.

        Args:
            keep: this upstream can say that it did not act on a request, so keep the body (up to `HOLD_LIMIT`) of any
                method until `let_go`.
        """
        self._carrier = carrier
        if self._on_carry is not None:
            self._on_carry(self)
        if keep:
            self._keeps = True
        if self._body_paused:
            self.release_body()
        held = self._held
        if held is None:
            return []
        if self._held_lost or not (keep or self.method in IDEMPOTENT) or self._held_bytes > HOLD_LIMIT:
            self._held_lost = True  # written from here on: not to be repeated, so not to be kept
            self._held = None
            self._held_bytes = 0
        return held

    @property
    def keeping(self) -> bool:
        """Some body is kept, for sending it again."""
        return self._held is not None

    def let_go(self) -> None:
        """The upstream acts on the request: it will not be repeated, so its body need not be kept."""
        self._held_lost = True
        self._held = None

    @property
    def trailers(self) -> Sequence[bytes]:
        """Trailer lines of the request, once `body_done`."""
        return self._trailers

    def hold_body(self) -> None:
        """The upstream does not keep up: read no more from the client for now."""
        if not self._body_paused and (not self.body_done or self.upgraded):
            self._body_paused = True
            self._pause_body()

    @property
    def body_held(self) -> bool:
        """No more of the request body is to be read for now."""
        return self._body_paused

    def release_body(self) -> None:
        """The upstream takes bytes again."""
        if self._body_paused:
            self._body_paused = False
            self._resume_body()

    def informational(self, head: ResponseHead) -> None:
        """The upstream sent a 1xx other than 101."""
        self._send_informational(head.status, head.reason, head.lines)

    def answer(self, head: ResponseHead, body: bytes, *, end: bool) -> None:
        """The upstream's response head, with what came of the body in the same read; `end`: that is all of it."""
        lines = head.lines
        if self._on_answer is not None:
            lines = list(lines)
            self._on_answer(self, head.status, lines)
        if end:
            self._carrier = None
        self._send_head(head.status, head.reason, lines, head.length, body, end=end)

    def answer_body(self, data: bytes) -> None:
        """More of the response body."""
        self._send_body(data)

    def answer_end(self, trailers: Sequence[bytes] = ()) -> None:
        """The response is complete."""
        self._carrier = None
        self._send_end(trailers)

    def send_raw(self, data: bytes) -> None:
        """Bytes of the tunnel for the client."""
        raise NotImplementedError

    def end_raw(self) -> None:
        """The upstream will send nothing more through the tunnel."""
        raise NotImplementedError

    def switch(self, head: ResponseHead, data: bytes) -> None:
        """The upstream answered 101: from now on the connections are a tunnel; `data` are its first bytes."""
        self.upgraded = True
        upgrade = head.upgrade or b"Upgrade: " + self.head.upgrade
        self._send_switch(head.reason, [*head.lines, b"Connection: Upgrade", upgrade], data)

    def tunnel_closed(self) -> None:
        """The upstream closed the tunnel."""
        self._carrier = None
        if not self.done:
            self._cut(b"")

    def upstream_failed(self, failure: UpstreamError) -> None:
        """The attempt ended without a complete response head."""
        self._carrier = None
        if self.done:
            return
        self.seen = self.seen or failure.written
        failure.replayable = not self._held_lost and (
            not failure.written or (not failure.answered and self.method in IDEMPOTENT)
        )
        if failure.reused and failure.replayable and self.upstream is not None and self._repeats < REPEATS:
            self._repeats += 1
            self.upstream.submit(self, fresh=True)
        elif self._on_failure is None or not self._on_failure(self, failure):
            self.fail(failure.status, str(failure).encode() + b"\n", failure)

    def upstream_cut(self, error: KnError) -> None:
        """The upstream went away in the middle of the response."""
        self._carrier = None
        if not self.done:
            self.error = error
            if self.trailing and grpc.is_call(self.fields):
                self.own_status = UpstreamError.status
                self._send_end(grpc.trailers(UpstreamError.status, str(error).encode()))
            else:
                self._cut(b"")

    # inside ---------------------------------------------------------------------------------------------------------
    def _keep(self, data: bytes) -> None:
        self._held_bytes += len(data)
        if self._carrier is not None and (
            self._held_bytes > HOLD_LIMIT or not (self._keeps or self.method in IDEMPOTENT)
        ):
            self._held_lost = True
            self._held = None
        elif self._held is None:
            self._held = [data]
        else:
            self._held.append(data)

    def _detach(self) -> None:
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.cancel()
        elif self.upstream is not None:
            self.upstream.withdraw(self)

    def _overrun(self, why: str) -> None:
        text = self.clocks.text
        self.clocks = UNBOUNDED
        self.fail(Overrun.status, text, Overrun(why))

    # what a server codec provides -----------------------------------------------------------------------------------
    @property
    def trailing(self) -> bool:
        """An answer that has begun can still end in trailers."""
        return False

    def _send_head(
        self, status: int, reason: bytes, lines: Sequence[bytes], length: int, body: bytes, *, end: bool
    ) -> None:
        """Send the final head and the beginning of the body; ends in `finish` if `end`."""
        raise NotImplementedError

    def _send_body(self, data: bytes) -> None:
        raise NotImplementedError

    def _send_end(self, trailers: Sequence[bytes]) -> None:
        raise NotImplementedError

    def _send_informational(self, status: int, reason: bytes, lines: Sequence[bytes]) -> None:
        raise NotImplementedError

    def _send_switch(self, reason: bytes, lines: Sequence[bytes], data: bytes) -> None:
        raise NotImplementedError

    def _cut(self, text: bytes) -> None:
        """End a begun answer so that the client sees it is not whole; `text` may still be delivered."""
        raise NotImplementedError

    def _pause_body(self) -> None:
        raise NotImplementedError

    def _resume_body(self) -> None:
        raise NotImplementedError


Handler = Callable[[Exchange], None]
"""What a server codec calls with every request."""
