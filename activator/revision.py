"""One revision as the proxy knows it, and one request on its way through.

A `Revision` exists from the moment its object appears, so that requests can wait for pods that do not exist yet; a
`Passage` is a request between its arrival and its end. Together they are the whole per-request path after routing:

    Passage.start -> throttler -> go(pod) -> its turn -> proceed -> upstream -> done
                        |                                              | pod refused, or closed before any byte
                        +<-------------------- again ------------------+   of an answer, and the request can be
                                                                           repeated: another pod (DESIGN.md §4)

A turn for the processor comes at once except in a rush, when each tenant gets its share (`kncore.net.overload`).

A pod that failed a request is not used until it answers a probe again. So a request tries each of them at most once
before that, and a pod that dies under load costs its requests a detour, not an error.
"""

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from activator.backends import Backends
from activator.balance import Pod
from activator.reporter import Reporter
from activator.tenants import Crowded, Tenants
from activator.throttler import Throttler
from activator.wakes import Wake, Wakes
from kncore.breaker import QueueFull
from kncore.net.errors import UpstreamError
from kncore.net.exchange import HOLD_LIMIT, TEXT, Clocks, Exchange, Upstream
from kncore.net.overload import Overloaded
from kncore.net.ticker import Ticker

__all__ = ["MAX_ATTEMPTS", "Addresses", "Key", "Passage", "Revision", "Settings", "not_found"]

Key = tuple[str, str]

MAX_ATTEMPTS: Final = 5
"""Pods tried for one request; a broken revision must not be hammered by every request it gets."""
TIMEOUT_TEXT: Final = b"activator request timeout"
RETRY: Final = (1, 60)
"""Least and most seconds of a `Retry-After`; a client that waits a minute will ask a person, not us."""
HELD: Final = 2 * HOLD_LIMIT
"""What a waiting request with a large body holds at most: the limit, and the read that passed it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a Revision object says that the proxy needs. Seconds, 0 is no bound."""

    container_concurrency: int = 0
    timeout: float = 300.0
    response_start_timeout: float = 0.0
    idle_timeout: float = 0.0
    probe_early: bool = True
    """Pods may be used as soon as they answer us, before Kubernetes calls them ready."""
    http2: bool = False
    """Its port is named `h2c`: pods are spoken to in HTTP/2. Does not change in the life of a revision."""
    service: str = ""
    configuration: str = ""
    """Whose revision it is, for logs and metrics."""

    @cached_property
    def clocks(self) -> Clocks:
        """The three times as an exchange keeps them."""
        return Clocks(self.timeout, self.response_start_timeout, self.idle_timeout, TIMEOUT_TEXT)


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """How a revision gets connections to `ip:port` (in HTTP/2: True) and gives them up."""

    take: Callable[[str, bool], Upstream]
    drop: Callable[[str, bool], None]
    """As often as it was taken."""


class Revision:
    """The pods, the queue and the clocks of one revision; listens to its backends."""

    def __init__(
        self,
        key: Key,
        settings: Settings,
        *,
        self_ip: str,
        addresses: Addresses,
        backends: Backends,
        reporter: Reporter,
        wakes: Wakes,
        tenants: Tenants | None = None,
        ticker: Ticker | None = None,
    ) -> None:
        self.key = key
        self.settings = settings
        self.tenants = tenants or Tenants()
        self.tenant = self.tenants.enter(key[0])
        self.turns = self.tenants.turns
        self.party = self.tenant.party
        self.throttler = Throttler(settings.container_concurrency, self_ip, tenant=self.tenant)
        self.reporter = reporter
        self.through: bytes | None = None
        """`Host` under which a mesh passes requests on to single pods."""
        if backends.mesh.addressable:
            self.through = f"{key[1]}-private.{key[0]}".encode()
        self.closed = False
        """The Revision object is gone; what is in flight ends undisturbed."""
        self._addresses = addresses
        self._http2 = settings.http2
        self._backends = backends
        self._ticker = ticker
        self._wakes = wakes

    def change(self, settings: Settings) -> None:
        """The object says something else now. Requests that are here keep their clocks and their turn."""
        limit = settings.container_concurrency
        if limit != self.settings.container_concurrency:
            self.throttler.limit(limit)
        self.settings = settings

    def close(self) -> None:
        """The object is gone: nothing will ever answer those who wait."""
        self.closed = True
        self.tenant.throttlers.discard(self.throttler)
        self.tenants.leave(self.tenant)
        self._drop(self.throttler.update((), self._pod))
        for waiter in self.throttler.waiters():
            assert isinstance(waiter, Passage)
            waiter.exchange.respond(404, not_found(self.key), TEXT)

    # for the backends ------------------------------------------------------------------------------------------------

    def healthy(self, addresses: Collection[str]) -> None:
        """These pods answer; whoever waits goes."""
        wake = self._wakes.current(self.key)
        if wake is not None and wake.probed is None and addresses:
            wake.probed = time.time()
            wake.waited = self.throttler.waiting
        self._drop(self.throttler.update(addresses, self._pod))

    def use_cluster_ip(self, address: str, backends: int) -> None:
        """Pods cannot be told apart; their Service answers."""
        self._drop(self.throttler.use_cluster_ip(address, backends, self._pod))

    def appeared(self, address: str) -> None:
        """A pod exists, though it need not answer yet."""
        wake = self._wakes.current(self.key)
        if wake is not None and wake.endpoint is None:
            wake.endpoint = time.time()

    @property
    def waiting(self) -> int:
        return self.throttler.waiting

    def _pod(self, address: str) -> Pod:
        return Pod(address, self._addresses.take(address, self._http2))

    def _drop(self, gone: Sequence[Pod]) -> None:
        for pod in gone:
            self._addresses.drop(pod.address, self._http2)

    # for passages ----------------------------------------------------------------------------------------------------

    def wake_up(self) -> Wake | None:
        """Somebody is here and no pod is: the wake-up that this begins, None if one is under way."""
        return self._wakes.begin(self.key, time.time())

    def waking(self) -> Wake | None:
        """The wake-up that is under way."""
        return self._wakes.current(self.key)

    def awake(self, wake: Wake) -> None:
        """The wake-up is over."""
        self._wakes.end(wake)

    def hurry(self) -> None:
        """Somebody waits: pods are asked often, and the clocks of who waits are looked at often."""
        self._backends.hurry(self.key)
        if self._ticker is not None and self._ticker.slow:
            self._ticker.wake()

    def come_again(self) -> bytes:
        """The `Retry-After` line for a request that is refused: when a place will be free, or a pod be there, as far
        as anybody can say. Not the same for all, or all would be back in the same second.
        """
        wait = self.throttler.expected_wait()
        if wait is None:
            wait = self._wakes.expected(self.key, time.time())
        least, most = RETRY
        return b"Retry-After: %d" % min(most, max(least, round(wait * (1 + random.random() / 2))))

    def failed(self, pod: Pod) -> None:
        """A pod did not take a connection, or left one without an answer."""
        self._backends.failed(self.key, pod.address)


class Passage:
    """One request to a revision.

    Args:
        drop: lower-case header names not to pass on.
        add: header lines to pass on in addition.
        authority: `Host` for the pod; None keeps the client's.
    """

    __slots__ = (
        "_add",
        "_attempts",
        "_authority",
        "_counted",
        "_drop",
        "_pod",
        "_waited",
        "_wake",
        "exchange",
        "revision",
    )

    def __init__(
        self,
        exchange: Exchange,
        revision: Revision,
        drop: Collection[bytes],
        add: Sequence[bytes],
        authority: bytes | None,
    ) -> None:
        self.exchange = exchange
        self.revision = revision
        self._drop = drop
        self._add = add
        self._authority = authority
        self._attempts = 0
        self._pod: Pod | None = None
        self._wake: Wake | None = None
        self._waited = False

    def start(self) -> None:
        """Send the request to a pod now, or let it wait for one."""
        revision, exchange = self.revision, self.exchange
        settings = revision.settings
        if revision.throttler.capacity:
            self._counted = revision.reporter.arrive(revision.key)
        else:
            # Noted before anybody is told, so that the times of those who hear of it come after ours.
            wake = revision.wake_up()
            self._counted = revision.reporter.arrive(revision.key)
            self._waking(wake)
        exchange.on_done(self._done)
        exchange.clocks = settings.clocks
        length = exchange.head.length
        try:
            if revision.tenants.share:
                revision.tenant.judge()
            if not revision.throttler.enter(self, length if 0 <= length < HELD else HELD, settings.timeout):
                self._waited = True
                revision.hurry()
        except (QueueFull, Crowded) as full:
            exchange.error = full
            exchange.respond(503, f"{full}\n".encode(), (*TEXT, revision.come_again()))

    def go(self, pod: Pod) -> None:
        """The throttler took a place in this pod for us."""
        self._pod = pod
        revision = self.revision
        turns = revision.turns
        if turns is None or turns.admit(self, revision.party, turns.now() if self._waited else self.exchange.started):
            self.proceed()

    def proceed(self) -> None:
        """It is our turn."""
        pod = self._pod
        assert pod is not None
        self._attempts += 1
        if self._wake is not None:
            self._wake.pod = pod.address
        if self.revision.through is not None and self._attempts == 1:
            self._pass_through(self.revision.through)
        self.exchange.forward(
            pod.upstream, drop=self._drop, add=self._add, authority=self._authority, on_failure=self._failed
        )

    def _pass_through(self, host: bytes) -> None:
        """Have a mesh pass it on to just the pod that we chose; the queue-proxy gives the app the client's `Host`."""
        exchange = self.exchange
        self._drop = frozenset(self._drop) | {b"k-passthrough-lb"}
        self._add = [*self._add, b"K-Passthrough-Lb: true"]
        if b"k-original-host" not in exchange.fields or b"k-original-host" in self._drop:
            self._add.append(b"K-Original-Host: " + (self._authority or exchange.host))
        self._authority = host

    def _end_turn(self) -> None:
        """What our turn was for is over, or it is not wanted any more."""
        party, turns = self.revision.party, self.revision.turns
        if (party.under_way or party.queue) and turns is not None:
            turns.over(self, party)

    def shed(self) -> None:
        """Our turn did not come in time."""
        self.exchange.error = Overloaded()
        self.exchange.respond(503, b"overloaded\n", (*TEXT, self.revision.come_again()))

    def _waking(self, wake: Wake | None) -> None:
        """There is no pod for us: see that the autoscaler knows, and time what follows if we are the first."""
        told = self.revision.reporter.poke(self._counted)
        if wake is not None:
            self._wake = wake
            wake.poked = time.time() if told else None
            self.exchange.on_answer(self._answered)

    def _failed(self, exchange: Exchange, failure: UpstreamError) -> bool:
        """The pod brought no answer: try another one if that cannot do the request twice."""
        pod, self._pod = self._pod, None
        assert pod is not None
        revision = self.revision
        self._end_turn()  # of this attempt; another one gets its own
        if not failure.answered:
            revision.failed(pod)
        if failure.replayable and self._attempts < MAX_ATTEMPTS and not revision.closed:
            self._waited = True
            # The place of the pod that failed is given back last: it must not go to somebody who came later.
            if not revision.throttler.reenter(self):
                if not revision.throttler.capacity:
                    self._waking(revision.wake_up())
                revision.hurry()
            revision.throttler.release(pod)
            return True
        revision.throttler.release(pod)
        return False

    def _answered(self, exchange: Exchange, status: int, lines: list[bytes]) -> None:
        if self._wake is not None and self._wake.first_byte is None:
            self._wake.first_byte = time.time()
            self.revision.awake(self._wake)

    def _done(self, exchange: Exchange) -> None:
        revision = self.revision
        self._counted.leave()
        pod, self._pod = self._pod, None
        if pod is not None:
            self._end_turn()
            revision.throttler.release(pod)
        else:
            revision.throttler.leave(self)
        if self._wake is not None:
            revision.awake(self._wake)  # if it was given up before an answer, the next request may begin another


def not_found(key: Key) -> bytes:
    """What is answered for a revision that does not exist (serving §5.2)."""
    text = f'Error getting active endpoint: revision.serving.knative.dev "{key[1]}" not found\n'
    return text.encode("latin-1", "replace")
