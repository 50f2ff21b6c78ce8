"""One revision as the proxy knows it, and one request on its way through.

A `Revision` exists from the moment its object appears, so that requests can wait for pods that do not exist yet; a
`Passage` is a request between its arrival and its end. Together they are the whole per-request path after routing:

    Passage.start -> throttler -> go(pod) -> upstream -> done
                        |                       | pod refused, or closed before any byte of an answer
                        +<-------- again -------+     and the request can be repeated: another pod (DESIGN.md §4)
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from activator.backends import Backends
from activator.balance import Pod
from activator.reporter import Reporter
from activator.throttler import Throttler
from activator.wakes import Wake, Wakes
from kncore.breaker import QueueFull
from kncore.net.errors import ConnectFailed, UpstreamError
from kncore.net.exchange import TEXT, Exchange, Upstream

__all__ = ["Key", "Passage", "Revision", "Settings"]

Key = tuple[str, str]

MAX_ATTEMPTS = 3  # pods tried for one request; a broken revision must not be hammered by every request it gets
TIMEOUT_TEXT = b"activator request timeout"
OVERLOADED = (*TEXT, b"Retry-After: 1")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a Revision object says that the proxy needs. Seconds, 0 is no bound."""

    container_concurrency: int = 0
    timeout: float = 300.0
    response_start_timeout: float = 0.0
    idle_timeout: float = 0.0
    probe_early: bool = True
    """Pods may be used as soon as they answer us, before Kubernetes calls them ready."""


class Revision:
    """The pods, the queue and the clocks of one revision; listens to its backends."""

    def __init__(
        self,
        key: Key,
        settings: Settings,
        *,
        self_ip: str,
        connect: Callable[[str], Upstream],
        backends: Backends,
        reporter: Reporter,
        wakes: Wakes,
    ) -> None:
        self.key = key
        self.settings = settings
        self.throttler = Throttler(settings.container_concurrency, self_ip)
        self.reporter = reporter
        self._connect = connect
        self._backends = backends
        self._wakes = wakes

    # for the backends ------------------------------------------------------------------------------------------------

    def healthy(self, addresses: Collection[str]) -> None:
        """These pods answer; whoever waits goes."""
        wake = self._wakes.current(self.key)
        if wake is not None and wake.probed is None and addresses:
            wake.probed = time.time()
            wake.waited = self.throttler.waiting
        self.throttler.update(Pod(address, self._connect(address)) for address in addresses)

    def use_cluster_ip(self, address: str, backends: int) -> None:
        """Pods cannot be told apart; their Service answers."""
        self.throttler.use_cluster_ip(Pod(address, self._connect(address)), backends)

    def appeared(self, address: str) -> None:
        """A pod exists, though it need not answer yet."""
        wake = self._wakes.current(self.key)
        if wake is not None and wake.endpoint is None:
            wake.endpoint = time.time()

    @property
    def waiting(self) -> int:
        return self.throttler.waiting

    # for passages ----------------------------------------------------------------------------------------------------

    def asleep(self) -> Wake | None:
        """A request has to wait. The wake-up that this begins, if no pod is there and none had begun."""
        wake = None
        if not self.throttler.capacity:
            wake = self._wakes.begin(self.key, time.time())
        self._backends.hurry(self.key)
        return wake

    def awake(self) -> None:
        """The wake-up is over."""
        self._wakes.end(self.key)

    def refused(self, pod: Pod) -> None:
        """A pod did not take a connection."""
        self._backends.failed(self.key, pod.address)


class Passage:
    """One request to a revision.

    Args:
        drop: lower-case header names not to pass on.
        add: header lines to pass on in addition.
        authority: `Host` for the pod; None keeps the client's.
    """

    __slots__ = ("_add", "_attempts", "_authority", "_drop", "_pod", "_wake", "exchange", "revision")

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

    def start(self) -> None:
        """Send the request to a pod now, or let it wait for one."""
        revision, exchange = self.revision, self.exchange
        settings = revision.settings
        revision.reporter.arrive(revision.key)
        exchange.on_done(self._done)
        exchange.expire(
            text=TIMEOUT_TEXT,
            total=settings.timeout,
            first_byte=settings.response_start_timeout,
            idle=settings.idle_timeout,
        )
        try:
            if not revision.throttler.enter(self):
                self._wake = revision.asleep()
                if self._wake is not None:
                    exchange.on_answer(self._answered)
        except QueueFull as full:
            exchange.error = full
            exchange.respond(503, b"pending request queue full\n", OVERLOADED)

    def go(self, pod: Pod) -> None:
        """The throttler took a place in this pod for us."""
        self._pod = pod
        self._attempts += 1
        if self._wake is not None:
            self._wake.pod = pod.address
        self.exchange.forward(
            pod.upstream, drop=self._drop, add=self._add, authority=self._authority, on_failure=self._failed
        )

    def _failed(self, exchange: Exchange, failure: UpstreamError) -> bool:
        """The pod brought no answer: try another one if that cannot do the request twice."""
        pod, self._pod = self._pod, None
        assert pod is not None
        revision = self.revision
        if isinstance(failure, ConnectFailed):
            revision.refused(pod)
        revision.throttler.release(pod)
        if not failure.replayable or self._attempts >= MAX_ATTEMPTS:
            return False
        revision.throttler.reenter(self)
        if self._pod is None:
            revision.asleep()
        return True

    def _answered(self, exchange: Exchange, status: int, lines: list[bytes]) -> None:
        if self._wake is not None:
            self._wake.first_byte = time.time()
            self.revision.awake()

    def _done(self, exchange: Exchange) -> None:
        revision = self.revision
        revision.reporter.leave(revision.key)
        if self._pod is not None:
            pod, self._pod = self._pod, None
            revision.throttler.release(pod)
        else:
            revision.throttler.leave(self)
        if self._wake is not None and self._wake.first_byte is None:
            revision.awake()  # given up before an answer; the next request may begin another wake-up
