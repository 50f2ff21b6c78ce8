"""The request path between the client and the app: what a request's headers mean to us, and its way onward.

A `Plan` is derived from a request head once; heads repeat, and then so does the plan. The layers below it only look
at it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from kncore.breaker import Breaker, QueueFull
from kncore.net.errors import ConnectFailed, UpstreamError
from kncore.net.exchange import TEXT, Clocks, Exchange, Handler, Upstream
from kncore.net.headers import HOP_BY_HOP, forwarded, forwarded_for
from kncore.net.overload import Overloaded, Party, Turns
from kncore.net.ticker import Ticker

__all__ = ["Layer", "Plan", "forward", "limit", "plan_of", "take_turns", "time_out"]

Layer = Callable[[Handler], Handler]
"""Wraps the rest of the path."""

TIMEOUT_TEXT: Final = b"request timeout"
OVERLOADED: Final = (*TEXT, b"Retry-After: 1")
KNOWN_BYTES: Final = 256
"""Longer values are not worth remembering: whoever sends them chose them."""

_NEVER_PASSED: Final = HOP_BY_HOP | {
    b"host",
    b"k-original-host",
    b"knative-serving-namespace",
    b"knative-serving-revision",
    b"x-forwarded-for",
}


_MEANT: Final = frozenset({
    b"forwarded",
    b"k-kubelet-probe",
    b"k-network-probe",
    b"k-original-host",
    b"k-proxy-request",
    b"user-agent",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
})  # fmt: skip
"""Fields that a plan looks at; a request with none of them is a plain one."""


class Plan:
    """What the headers of a request mean to a queue-proxy."""

    __slots__ = ("add", "authority", "health", "network", "proxied")

    health: bool
    """Somebody asks whether the app is ready: kubelet, activator or autoscaler."""
    network: bool
    """An ingress asks whether its routes lead here."""
    proxied: bool
    """It came through an activator, which counts it too."""
    authority: bytes
    """`Host` for the app: what the client asked for, before an activator replaced it."""
    add: Sequence[bytes]
    """Lines to add."""


def plan_of(exchange: Exchange) -> Plan:
    """The plan for the exchange's head, made at its first request."""
    head = exchange.head
    if head.plan is None:
        head.plan = _make_plan(exchange)
    plan: Plan = head.plan
    return plan


def _make_plan(exchange: Exchange) -> Plan:
    plan = Plan()
    fields = exchange.fields
    if _MEANT.isdisjoint(fields):
        plan.health = plan.network = plan.proxied = False
        plan.authority = exchange.host
        plan.add = (b"X-Forwarded-For: " + exchange.peer.encode(),)
        return plan
    value = exchange.value
    agent = value(b"user-agent")
    plan.health = agent.startswith((b"kube-probe/", b"Knative-Activator-Probe", b"Knative-Autoscaling-Probe")) or bool(
        value(b"k-kubelet-probe")
    )
    plan.network = value(b"k-network-probe") == b"probe"
    plan.proxied = value(b"k-proxy-request") == b"activator"
    plan.authority = value(b"k-original-host") or exchange.host
    clients = value(b"x-forwarded-for")
    if b"forwarded" in fields:
        plan.add = (forwarded_for(clients, exchange.peer.encode()),)
    else:
        proto, host = value(b"x-forwarded-proto"), value(b"x-forwarded-host")
        known = len(clients) + len(proto) + len(host) <= KNOWN_BYTES
        plan.add = (_known_lines if known else _lines)(clients, proto, host, exchange.peer)
    return plan


def _lines(clients: bytes, proto: bytes, host: bytes, peer: str) -> Sequence[bytes]:
    """The lines that say where a request came from. The `Forwarded` shim stands before our own `X-Forwarded-For`: it
    tells what came in.
    """
    told = forwarded(clients or None, proto or None, host or None)
    line = forwarded_for(clients, peer.encode())
    return (line, b"Forwarded: " + told) if told else (line,)


_known_lines: Final = lru_cache(maxsize=1024)(_lines)
"""The same, remembered: clients ask more than once, each time with another path or id (1.5 us less when they do)."""


def time_out(ticker: Ticker, *, total: float, first_byte: float, idle: float) -> Layer:
    """Bound every request; the clocks start here, so waiting for the app counts."""

    clocks = Clocks(total, first_byte, idle, TIMEOUT_TEXT)

    def layer(inner: Handler) -> Handler:
        def handle(exchange: Exchange) -> None:
            exchange.clocks = clocks
            if ticker.slow:
                ticker.wake()
            inner(exchange)

        return handle

    return layer


class _Late:
    """A request that waits for its turn for the processor."""

    __slots__ = ("_exchange", "_inner", "_party", "_turns")

    def __init__(self, turns: Turns, party: Party, exchange: Exchange, inner: Handler) -> None:
        self._turns = turns
        self._party = party
        self._exchange = exchange
        self._inner = inner

    def proceed(self) -> None:
        self._inner(self._exchange)

    def shed(self) -> None:
        self._exchange.error = Overloaded()
        self._exchange.respond(503, b"overloaded\n", OVERLOADED)

    def over(self, _: Exchange) -> None:
        self._turns.over(self, self._party)


def take_turns(turns: Turns) -> Layer:
    """Start only so many requests per round of the loop; when there are more than this process can serve, the newest
    go first and the oldest are refused.
    """
    party = Party()

    def layer(inner: Handler) -> Handler:
        def handle(exchange: Exchange) -> None:
            if turns.passes(party, exchange.started):
                inner(exchange)
                return
            late = _Late(turns, party, exchange, inner)
            exchange.on_done(late.over)
            if turns.admit(late, party, exchange.started):
                inner(exchange)

        return handle

    return layer


class _Turn:
    """A request waiting for a place in the app."""

    __slots__ = ("_breaker", "_exchange", "_held", "_inner")

    def __init__(self, breaker: Breaker, exchange: Exchange, inner: Handler) -> None:
        self._breaker = breaker
        self._exchange = exchange
        self._inner = inner
        self._held = False

    def admitted(self) -> None:
        self._held = True
        self._inner(self._exchange)

    def over(self, _: Exchange) -> None:
        """The exchange is done, whether it was admitted or gave up waiting."""
        if self._held:
            self._breaker.release()
        else:
            self._breaker.leave(self)


def limit(breaker: Breaker) -> Layer:
    """Let at most so many requests into the app; the next ones wait in order, and beyond that are refused."""

    def layer(inner: Handler) -> Handler:
        def release(_: Exchange) -> None:
            breaker.release()

        def handle(exchange: Exchange) -> None:
            if breaker.try_acquire():
                exchange.on_done(release)
                inner(exchange)
                return
            turn = _Turn(breaker, exchange, inner)
            try:
                breaker.enter(turn)
            except QueueFull as full:
                exchange.fail(full.status, str(full).encode() + b"\n", full)
            else:
                exchange.on_done(turn.over)

        return handle

    return layer


def forward(app: Upstream) -> Handler:
    """Send the request to the app: routing headers removed, the client's `Host` restored, its address appended."""

    def handle(exchange: Exchange) -> None:
        plan: Plan = exchange.head.plan
        exchange.forward(
            app,
            drop=_NEVER_PASSED,
            add=plan.add,
            authority=plan.authority,
            on_failure=_hand_back if plan.proxied else None,
        )

    return handle


def _hand_back(exchange: Exchange, failure: UpstreamError) -> bool:
    """The app takes no connections: close the activator's (in HTTP/2 refuse the stream), as if the pod were gone.

    It tries another pod then, and sends nothing here until the app answers a probe. A 502 would be an answer like any
    other; and a pod that gives it at once looks the least loaded, so it would draw ever more requests.
    """
    if not isinstance(failure, ConnectFailed) or exchange.seen:
        return False  # one that an app may have died of must not go round the others
    exchange.refuse(failure)
    return True
