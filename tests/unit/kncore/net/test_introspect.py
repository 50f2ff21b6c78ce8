"""A scrape of very many points is written in slices, between which requests have their turn."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kncore.net import introspect
from kncore.telemetry.metrics import REST, Metric, Registry
from tests.unit.kncore.net.conftest import Relay

PODS = Metric("torpor.pods", "gauge", "{pod}", "Pods.", ("name",))
MANY = REST + 50
SCRAPE = b"GET /metrics?x=1 HTTP/1.1\r\nHost: h\r\n\r\n"


def values(relay: Relay) -> list[float]:
    chunks, data = [], relay.answer.partition(b"\r\n\r\n")[2]
    while data:
        size, _, data = data.partition(b"\r\n")
        chunks.append(data[: int(size, 16)])
        data = data[int(size, 16) + 2 :]
    text = b"".join(chunks).decode()
    return [sample.value for family in text_string_to_metric_families(text) for sample in family.samples]


async def ended(relay: Relay) -> int:
    """Turns of the loop until the chunked answer was whole."""
    turns = 0
    while not relay.answer.endswith(b"0\r\n\r\n"):
        turns += 1
        await asyncio.sleep(0)
    return turns


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """More than fits a slice of time, however short that is."""
    monkeypatch.setattr(introspect, "SLICE", 0.0)
    registry = Registry()
    registry.add(lambda: ((PODS, (str(number),), 1.0) for number in range(MANY)))
    return registry


async def test_a_large_scrape_lets_others_have_their_turn(large: Registry) -> None:
    relay = Relay(introspect.metrics(large))
    relay.says(SCRAPE)
    assert b"\r\nTransfer-Encoding: chunked\r\n" in relay.answer
    assert await ended(relay) >= MANY
    assert len(values(relay)) == MANY
    relay.wire.sent = b""
    relay.says(SCRAPE)  # the connection goes on
    await ended(relay)
    assert len(values(relay)) == MANY


async def test_a_reader_that_does_not_keep_up_is_waited_for(large: Registry) -> None:
    relay = Relay(introspect.metrics(large))
    relay.says(SCRAPE)
    relay.connection.pause_writing()
    before = len(relay.answer)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(relay.answer) - before < 100, "at most what was on its way"
    relay.connection.resume_writing()
    await ended(relay)
    assert len(values(relay)) == MANY


async def test_so_many_at_once_and_who_leaves_makes_room(large: Registry) -> None:
    handler = introspect.metrics(large)
    relays = [Relay(handler) for _ in range(introspect.SCRAPES + 1)]
    for relay in relays:
        relay.says(SCRAPE)
    assert [relay.status for relay in relays] == [200] * introspect.SCRAPES + [503]
    relays[0].leaves()
    again = Relay(handler)
    again.says(SCRAPE)
    assert again.status == 200
    for relay in (*relays[1:-1], again):
        await ended(relay)
        assert len(values(relay)) == MANY


async def test_head_is_answered_without_the_work(large: Registry) -> None:
    relay = Relay(introspect.metrics(large))
    relay.says(SCRAPE.replace(b"GET", b"HEAD"))
    assert relay.status == 200
    assert relay.answer.endswith(b"\r\n\r\n")


async def test_a_small_scrape_is_answered_at_once_in_what_the_scraper_reads() -> None:
    registry = Registry()
    registry.add(lambda: [(PODS, ("a",), 1.0)])
    relay = Relay(introspect.metrics(registry))
    relay.says(SCRAPE)
    assert b"Content-Type: text/plain; version=0.0.4" in relay.answer
    relay = Relay(introspect.metrics(registry))
    relay.says(SCRAPE.replace(b"Host", b"Accept: application/openmetrics-text;version=1.0.0\r\nHost"))
    assert b"Content-Type: application/openmetrics-text; version=1.0.0" in relay.answer
    assert relay.answer.endswith(b"# EOF\n")
    relay = Relay(introspect.metrics(registry))
    relay.says(SCRAPE.replace(b"/metrics", b"/metric"))
    assert relay.status == 404
