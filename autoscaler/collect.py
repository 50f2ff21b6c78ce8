"""Load per revision: four sliding windows fed by pushed and scraped stats (serving §4.4).

Concurrency and requests per second, each over the stable and the panic window. A stat adds what did *not* pass an
activator (the proxied part is subtracted: the activator reports those requests itself), so each request counts once
however many proxies saw it. All stats of one second are summed into one bucket.

Nothing in a stat is trusted, for it comes from a pod: a number that is none would never leave a window's sum again,
and a second far in the future would make the window ignore all those before it. Such stats are counted and dropped.

Pure: every call takes *now* in Unix seconds. Owned by one loop; bounded by the number of metrics registered with
`configure`.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from kncore.errors import KnError
from kncore.window import TimedBuckets, WeightedBuckets
from kncore.wire import Stat

__all__ = ["Collector", "Load", "NoData", "NotCollecting", "Settings", "Statistics"]

GRANULARITY: Final = 1.0
"""Seconds per bucket, as in Knative's collector."""
LARGEST: Final = 1e9
"""No pod has more requests in flight, or in a second; beyond it sums would lose the small numbers beside it."""
AHEAD: Final = 5.0
"""Seconds by which a sender's clock may be fast."""


class NoData(KnError):
    """Nothing was reported for a revision within its stable window; the previous decision stays."""

    def __init__(self) -> None:
        super().__init__("no data available")


class NotCollecting(KnError):
    """No metric is registered for a revision."""

    def __init__(self) -> None:
        super().__init__("no metrics are being collected for the requested resource")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a Metric object asks for. Windows in seconds."""

    stable_window: float
    panic_window: float
    scrape_target: str
    """Private Service to scrape; "" when the activator sees every request, and then silence means zero load instead
    of "no data".
    """
    weighted: bool = False
    """Weighted exponential averages instead of linear ones; fixed when collecting starts."""


@dataclass(frozen=True)
class Load:
    """Averages over both windows, in the metric's unit."""

    stable: float
    panic: float


@dataclass(frozen=True)
class Statistics:
    revisions: int
    """Revisions with windows."""
    recorded: int
    """Stats recorded since start."""
    ignored: int
    """Stats of revisions that are not collected."""
    refused: int
    """Stats that cannot be true."""


class _Buckets(Protocol):
    def record(self, now: float, value: float) -> None: ...
    def average(self, now: float) -> float: ...
    def is_empty(self, now: float) -> bool: ...
    def resize(self, now: float, window: float) -> None: ...


class _Windows:
    """One revision's four windows."""

    def __init__(self, settings: Settings) -> None:
        kind = WeightedBuckets if settings.weighted else TimedBuckets
        self.settings = settings
        self.failure: KnError | None = None
        self.concurrency: tuple[_Buckets, _Buckets] = (
            kind(settings.stable_window, GRANULARITY),
            kind(settings.panic_window, GRANULARITY),
        )
        self.rps: tuple[_Buckets, _Buckets] = (
            kind(settings.stable_window, GRANULARITY),
            kind(settings.panic_window, GRANULARITY),
        )

    def resize(self, settings: Settings, now: float) -> None:
        for stable, panic in (self.concurrency, self.rps):
            stable.resize(now, settings.stable_window)
            panic.resize(now, settings.panic_window)
        self.settings = settings

    def record(self, now: float, stat: Stat) -> None:
        concurrency = stat.average_concurrent_requests - stat.average_proxied_concurrent_requests
        rps = stat.request_count - stat.proxied_request_count
        proxied = stat.average_proxied_concurrent_requests > 0 or stat.proxied_request_count > 0
        if proxied and concurrency == 0 and rps == 0:
            # Everything this pod did is in an activator's report. Were this zero to open the second's bucket before
            # that report comes, evaluations in between would take the second for idle: with a window of 6 s, a sixth.
            return
        for buckets in self.concurrency:
            buckets.record(now, concurrency)
        for buckets in self.rps:
            buckets.record(now, rps)


class Collector:
    """The windows of every revision, by `(namespace, name)`."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], _Windows] = {}
        self._recorded = self._ignored = self._refused = 0

    def configure(self, key: tuple[str, str], settings: Settings, now: float) -> None:
        """Start collecting for a revision, or change its windows keeping what they hold."""
        windows = self._windows.get(key)
        if windows is None:
            self._windows[key] = _Windows(settings)
        elif windows.settings != settings:
            windows.resize(settings, now)

    def forget(self, key: tuple[str, str]) -> None:
        """Stop collecting for a revision."""
        self._windows.pop(key, None)

    def settings(self, key: tuple[str, str]) -> Settings | None:
        """The settings in force for a revision, None when it is not collected."""
        windows = self._windows.get(key)
        return windows.settings if windows else None

    def revisions(self) -> list[tuple[str, str]]:
        """Every collected revision."""
        return list(self._windows)

    def record(self, key: tuple[str, str], now: float, stat: Stat) -> None:
        """Add a stat at Unix time `now`; one for a revision that is not collected is counted and dropped."""
        windows = self._windows.get(key)
        if windows is None:
            self._ignored += 1
        elif not _is_plausible(stat, now):
            self._refused += 1
        else:
            self._recorded += 1
            windows.record(stat.timestamp or now, stat)

    def scraped(self, key: tuple[str, str], now: float, outcome: Stat | KnError | None) -> None:
        """Note the outcome of a scrape: a stat, a failure, or None when there was no pod to ask."""
        windows = self._windows.get(key)
        if windows is None:
            return
        windows.failure = outcome if isinstance(outcome, KnError) else None
        if isinstance(outcome, Stat):
            self.record(key, now, outcome)

    def failure(self, key: tuple[str, str]) -> KnError | None:
        """Why the newest scrape of a revision failed; None when it did not."""
        windows = self._windows.get(key)
        return windows.failure if windows else None

    def concurrency(self, key: tuple[str, str], now: float) -> Load:
        """Mean requests in flight over both windows.

        Raises:
            NotCollecting: unknown revision.
            NoData: the stable window is empty and there is something to scrape.
        """
        windows = self._get(key)
        return self._load(windows, windows.concurrency, now)

    def rps(self, key: tuple[str, str], now: float) -> Load:
        """Mean requests per second over both windows; raises as `concurrency` does."""
        windows = self._get(key)
        return self._load(windows, windows.rps, now)

    def statistics(self) -> Statistics:
        """Revisions, and what became of the stats."""
        return Statistics(
            revisions=len(self._windows), recorded=self._recorded, ignored=self._ignored, refused=self._refused
        )

    def _get(self, key: tuple[str, str]) -> _Windows:
        try:
            return self._windows[key]
        except KeyError:
            raise NotCollecting from None

    @staticmethod
    def _load(windows: _Windows, pair: tuple[_Buckets, _Buckets], now: float) -> Load:
        stable, panic = pair
        if stable.is_empty(now) and windows.settings.scrape_target:
            raise NoData
        return Load(stable.average(now), panic.average(now))


def _is_plausible(stat: Stat, now: float) -> bool:
    numbers = (
        stat.average_concurrent_requests,
        stat.average_proxied_concurrent_requests,
        stat.request_count,
        stat.proxied_request_count,
    )
    # The comparison is False for NaN, too.
    return stat.timestamp <= now + AHEAD and all(-LARGEST <= number <= LARGEST for number in numbers)
