import pytest

from kncore.wire import Stat, decode_messages
from queueproxy.stats import Counter


class Sent:
    """A stream that keeps what is sent, while it is connected."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, Stat | None]] = []
        self.connected = True

    def send_nowait(self, message: bytes) -> bool:
        if self.connected:
            self.messages += decode_messages(message)
        return self.connected


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def counter(sent: Sent) -> Counter:
    return Counter(100.0, pod="pod", namespace="ns", revision="rev", sender=sent)


def test_before_the_first_cut_there_is_only_a_name(counter: Counter) -> None:
    assert counter.latest == Stat(pod_name="pod")


def test_a_report_is_cut_from_the_period(counter: Counter, sent: Sent) -> None:
    counter.requests.arrive(100.0, True)
    counter.requests.arrive(100.5)
    stat = counter.cut(101.0)
    assert stat == Stat(
        pod_name="pod",
        average_concurrent_requests=1.5,
        average_proxied_concurrent_requests=1.0,
        request_count=2.0,
        proxied_request_count=1.0,
        process_uptime=1.0,
    )
    assert sent.messages == [("ns", "rev", stat)]
    assert not counter.idle
    counter.requests.leave(101.0, True)
    counter.requests.leave(101.0)
    counter.cut(102.0)
    assert counter.idle


def test_first_request_after_an_idle_period_is_told_at_once_and_not_twice(counter: Counter, sent: Sent) -> None:
    counter.requests.arrive(100.2, True)
    counter.woken(proxied=True)
    assert sent.messages == [
        (
            "ns",
            "rev",
            Stat(
                pod_name="pod",
                average_concurrent_requests=1.0,
                average_proxied_concurrent_requests=1.0,
                request_count=1.0,
                proxied_request_count=1.0,
            ),
        )
    ]
    counter.requests.arrive(100.2, True)
    counter.cut(101.0)
    after = sent.messages[1][2]
    assert after is not None
    assert after.request_count == after.proxied_request_count == 1.0
    assert after.average_concurrent_requests == pytest.approx(0.6)
    assert counter.latest.request_count == 2.0  # who scrapes hears of both


def test_what_was_told_early_but_not_sent_is_not_left_out(counter: Counter, sent: Sent) -> None:
    sent.connected = False
    counter.requests.arrive(100.2)
    counter.woken(proxied=False)
    sent.connected = True
    counter.cut(101.0)
    stat = sent.messages[0][2]
    assert stat is not None
    assert stat.request_count == 1.0


def test_average_never_goes_below_zero(counter: Counter, sent: Sent) -> None:
    counter.requests.arrive(100.2)
    counter.woken(proxied=False)
    counter.requests.leave(100.3)
    counter.cut(101.0)
    stat = sent.messages[1][2]
    assert stat is not None
    assert (stat.average_concurrent_requests, stat.request_count) == (0.0, 0.0)
