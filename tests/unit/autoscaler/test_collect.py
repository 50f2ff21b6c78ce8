"""What pods report becomes load per revision; golden data in tests/vectors has the arithmetic."""

import math

import pytest

from autoscaler.collect import Collector, NoData, NotCollecting, Settings
from kncore.wire import Stat

KEY = ("default", "hello-1")
T0 = 1_700_000_000.0
SETTINGS = Settings(stable_window=60.0, panic_window=6.0, scrape_target="hello-1-private")


@pytest.fixture
def collector() -> Collector:
    made = Collector()
    made.configure(KEY, SETTINGS, T0)
    return made


def stat(concurrency: float = 0.0, requests: float = 0.0, **more: float) -> Stat:
    return Stat(pod_name="pod", average_concurrent_requests=concurrency, request_count=requests, **more)


def test_each_request_counts_once_however_many_proxies_saw_it(collector: Collector) -> None:
    collector.record(KEY, T0, stat(5.0, 10.0))  # the activator
    seen_by_pod = stat(7.0, 14.0, average_proxied_concurrent_requests=5.0, proxied_request_count=10.0)
    collector.record(KEY, T0, seen_by_pod)
    assert collector.concurrency(KEY, T0).stable == 7.0
    assert collector.rps(KEY, T0).panic == 14.0


def test_second_that_only_pods_behind_an_activator_reported_yet_does_not_count_as_idle(collector: Collector) -> None:
    for second in range(6):
        collector.record(KEY, T0 + second + 0.9, stat(60.0, 120.0))  # the activator
    behind = stat(6.0, 12.0, average_proxied_concurrent_requests=6.0, proxied_request_count=12.0)
    collector.record(KEY, T0 + 6.1, behind)
    assert collector.concurrency(KEY, T0 + 6.5).stable == 60.0
    assert collector.rps(KEY, T0 + 6.5).stable == 120.0


def test_stats_of_one_second_add_up(collector: Collector) -> None:
    for _ in range(3):
        collector.record(KEY, T0, stat(2.0))
    collector.record(KEY, T0 + 1, stat(0.0))
    assert collector.concurrency(KEY, T0 + 1).stable == 3.0


def test_silence_is_no_data_where_somebody_can_be_asked_and_zero_elsewhere(collector: Collector) -> None:
    with pytest.raises(NoData, match="no data available"):
        collector.concurrency(KEY, T0)
    collector.configure(KEY, Settings(stable_window=60.0, panic_window=6.0, scrape_target=""), T0)
    assert collector.concurrency(KEY, T0).stable == 0.0


def test_revisions_that_are_not_collected_are_counted_and_dropped(collector: Collector) -> None:
    collector.record(("default", "other"), T0, stat(1.0))
    with pytest.raises(NotCollecting):
        collector.rps(("default", "other"), T0)
    collector.scraped(("default", "other"), T0, stat(1.0))
    assert collector.failure(("default", "other")) is None
    assert (collector.statistics().ignored, collector.statistics().revisions) == (1, 1)


def test_forgotten_is_forgotten(collector: Collector) -> None:
    collector.record(KEY, T0, stat(5.0))
    collector.forget(KEY)
    collector.forget(KEY)
    assert collector.revisions() == []
    collector.configure(KEY, SETTINGS, T0)
    with pytest.raises(NoData):
        collector.concurrency(KEY, T0)


def test_windows_change_and_keep_what_they_hold(collector: Collector) -> None:
    for second in range(30):
        collector.record(KEY, T0 + second, stat(4.0))
    collector.configure(KEY, Settings(stable_window=10.0, panic_window=2.0, scrape_target="x"), T0 + 30)
    assert collector.concurrency(KEY, T0 + 29).stable == 4.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1e300, 1e10])
@pytest.mark.parametrize(
    "field",
    [
        "average_concurrent_requests",
        "average_proxied_concurrent_requests",
        "request_count",
        "proxied_request_count",
    ],
)
def test_numbers_that_cannot_be_true_leave_no_trace(collector: Collector, field: str, value: float) -> None:
    collector.record(KEY, T0, stat(1.0))
    collector.record(KEY, T0, Stat(pod_name="evil", **{field: value}))
    assert collector.statistics().refused == 1
    assert collector.concurrency(KEY, T0).stable == 1.0
    collector.record(KEY, T0 + 100, stat(0.0))
    assert collector.concurrency(KEY, T0 + 100).stable == 0.0


def test_second_in_the_future_does_not_stop_the_clock(collector: Collector) -> None:
    collector.record(KEY, T0, Stat(pod_name="evil", average_concurrent_requests=9.0, timestamp=2**62))
    collector.record(KEY, T0, stat(1.0))
    assert collector.concurrency(KEY, T0).stable == 1.0


def test_senders_own_second_is_used_where_it_gives_one(collector: Collector) -> None:
    collector.record(KEY, T0 + 2, stat(3.0, timestamp=int(T0)))
    collector.record(KEY, T0 + 2, stat(1.0))
    assert collector.concurrency(KEY, T0 + 2).stable == pytest.approx(4 / 3)


def test_failure_of_the_last_scrape_is_kept_until_one_succeeds(collector: Collector) -> None:
    collector.scraped(KEY, T0, NoData())
    assert isinstance(collector.failure(KEY), NoData)
    collector.scraped(KEY, T0, None)
    assert collector.failure(KEY) is None
