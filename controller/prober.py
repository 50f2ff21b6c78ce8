"""Asks every activator whether it routes by the newest KIngress, until all say yes (serving §7.4).

Each KIngress under way has one task that probes the activators in parallel, again and again with growing pauses; a
newer spec of the same KIngress replaces the task. The answer is remembered by hash, so an unchanged KIngress is asked
about once. Requests under way are bounded over all KIngresses together.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field

import aiohttp

from kncore.api import keys
from kncore.kube.client import Key

__all__ = ["HttpProbe", "Probe", "Prober", "Statistics"]

Probe = Callable[[str, str, str], Awaitable[bool]]
"""(activator's `ip:port`, host, hash) -> whether it is known to route by the spec with that hash."""

_AT_ONCE = 15
_TIMEOUT = 1.0  # seconds per request
# An activator on the same watch stream is a few milliseconds behind us, so the first repeats are quick; from 50 ms on
# the pauses double, as Knative's do.
_QUICK = (0.005, 0.01, 0.02)
_FIRST = 0.05
_LAST = 30.0


class HttpProbe:
    """The probe over HTTP. Use as an async context manager, or call `aclose`."""

    def __init__(self, timeout: float = _TIMEOUT) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, address: str, host: str, hash_: str) -> bool:
        """Whether the activator has this version of the KIngress that `host` belongs to.

        A redirect, or an answer without a hash, comes from something that does not take part in this protocol; waiting
        for it would be waiting for ever, so it counts as yes.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, auto_decompress=False)
        headers = {
            "Host": host,
            "User-Agent": "Knative-Ingress-Probe",
            keys.HEADER_PROBE: "probe",
            keys.HEADER_HASH: "override",
        }
        url = f"http://{address}/healthz"
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
                if answer.status in (404, 503):
                    return False
                found = answer.headers.get(keys.HEADER_HASH)
                return answer.status != 200 or found is None or found == hash_
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the prober holds."""

    probing: int
    """KIngresses not confirmed yet."""
    confirmed: int
    requests: int
    """Since the start."""


@dataclass
class _Subject:
    hash: str
    host: str
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Prober:
    """Confirms KIngresses.

    Args:
        probe: one request.
        addresses: the activators that are ready now; asked again before every round.
        confirmed: called with the key of a KIngress that all of them route by.
    """

    name = "prober"

    def __init__(
        self, probe: Probe, addresses: Callable[[], Collection[str]], confirmed: Callable[[Key], None]
    ) -> None:
        self._probe = probe
        self._addresses = addresses
        self._told = confirmed
        self._subjects: dict[Key, _Subject] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._group: asyncio.TaskGroup | None = None
        self._requests = 0

    async def confirm(self, key: Key, host: str, hash_: str, patience: float) -> bool:
        """Whether all activators route by this spec; waits up to `patience` seconds for them.

        If they do not yet, the asking goes on in the background and ends with a call of `confirmed`.
        """
        subject = self._subjects.get(key)
        if subject is None or subject.hash != hash_:
            self.forget(key)
            subject = self._subjects[key] = _Subject(hash=hash_, host=host)
            self._start(key, subject)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await subject.confirmed.wait()
        return subject.confirmed.is_set()

    def forget(self, key: Key) -> None:
        """Nobody wants to know about this KIngress any more."""
        subject = self._subjects.pop(key, None)
        if subject is not None and subject.task is not None:
            subject.task.cancel()

    def again(self) -> None:
        """Ask at once about whatever is not confirmed: there are other activators now."""
        for key, subject in self._subjects.items():
            if not subject.confirmed.is_set():
                if subject.task is not None:
                    subject.task.cancel()
                self._start(key, subject)

    async def run(self) -> None:
        """Probe until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for key, subject in self._subjects.items():
                    self._start(key, subject)
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None
            if isinstance(self._probe, HttpProbe):
                await self._probe.aclose()

    def statistics(self) -> Statistics:
        """Counts of KIngresses by state, and of requests."""
        confirmed = sum(subject.confirmed.is_set() for subject in self._subjects.values())
        return Statistics(probing=len(self._subjects) - confirmed, confirmed=confirmed, requests=self._requests)

    def _start(self, key: Key, subject: _Subject) -> None:
        if self._group is not None:
            subject.task = self._group.create_task(self._confirm(key, subject), name=f"probe {key}")

    async def _confirm(self, key: Key, subject: _Subject) -> None:
        for pause in _pauses():
            if await self._round(subject):
                subject.confirmed.set()
                subject.task = None
                self._told(key)
                return
            await asyncio.sleep(pause)

    async def _round(self, subject: _Subject) -> bool:
        addresses = self._addresses()
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(address, subject), name=f"ask {address}") for address in addresses]
        return bool(asked) and all(task.result() for task in asked)

    async def _ask(self, address: str, subject: _Subject) -> bool:
        async with self._slots:
            self._requests += 1
            return await self._probe(address, subject.host, subject.hash)


def _pauses() -> Iterator[float]:
    """Seconds between rounds."""
    yield from _QUICK
    pause = _FIRST
    while True:
        yield pause
        pause = min(2 * pause, _LAST)
