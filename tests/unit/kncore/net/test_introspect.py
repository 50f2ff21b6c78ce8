"""A scrape of very many points: written in slices, once for everybody who asks meanwhile."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from kncore.net import introspect
from kncore.telemetry.metrics import REST, Metric, Registry
from tests.unit.kncore.net.conftest import Relay

PODS = Metric("torpor.pods", "gauge", "{pod}", "Pods.", ("name",))
SCRAPE = b"GET /metrics?x=1 HTTP/1.1\r\nHost: h\r\n\r\n"


def values(relay: Relay) -> list[float]:
    text = relay.answer.partition(b"\r\n\r\n")[2].decode()
    return [sample.value for family in text_string_to_metric_families(text) for sample in family.samples]


async def answered(relay: Relay) -> int:
    """Turns of the loop that it took."""
    turns = 0
    while not relay.answer:
        turns += 1
        await asyncio.sleep(0)
    return turns


async def test_a_large_scrape_lets_others_have_their_turn_and_is_made_once(monkeypatch) -> None:
    monkeypatch.setattr(introspect, "SLICE", 0.0)
    registry, reads = Registry(), []

    def source():
        reads.append(1)
        for number in range(3 * REST):
            yield PODS, (str(number),), 1.0

    registry.add(source)
    handler = introspect.metrics(registry)
    first, second = Relay(handler), Relay(handler)
    first.says(SCRAPE)
    await asyncio.sleep(0)
    assert first.answer == b""
    second.says(SCRAPE)
    assert await answered(second) > REST
    assert len(values(first)) == len(values(second)) == 3 * REST
    assert reads == [1]
    third = Relay(handler)
    third.says(SCRAPE)
    await answered(third)
    assert reads == [1, 1]


async def test_who_leaves_meanwhile_is_no_trouble(monkeypatch) -> None:
    monkeypatch.setattr(introspect, "SLICE", 0.0)
    registry = Registry()
    registry.add(lambda: [(PODS, (str(number),), 1.0) for number in range(100)])
    handler = introspect.metrics(registry)
    gone, stays = Relay(handler), Relay(handler)
    gone.says(SCRAPE)
    stays.says(SCRAPE)
    await asyncio.sleep(0)
    gone.leaves()
    await answered(stays)
    assert len(values(stays)) == 100


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
