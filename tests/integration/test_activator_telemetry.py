"""An activator's telemetry on real sockets: receipts against the client's own clock, live changes, pushes, the log."""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from activator import telemetry as subject
from activator.observability import wants_anything
from activator.telemetry import Telemetry
from activator.tenants import Tenants
from benchmarks.ports import free_ports
from kncore.config.observability import Observability
from kncore.net import requestlog
from kncore.net.ticker import Ticker
from tests.integration.test_activator import GET, Activator, Pod, an_activator, until
from tests.integration.test_queueproxy_telemetry import curl
from tests.otlp import Collector

ASKS = GET.replace(b"\r\n\r\n", b"\r\nPrefer: server-timing\r\n\r\n")


class Switchboard:
    """A running Telemetry whose configuration a test changes."""

    def __init__(self, activator: Activator, ticker: Ticker) -> None:
        [self.port] = free_ports(1)
        self.now = Observability()
        stream = SimpleNamespace(statistics=lambda: SimpleNamespace(connected=True, failures=3))
        self.telemetry = Telemetry(
            lambda: self.now,
            proxy=activator.proxy,
            wakes=activator.wakes,
            reporter=activator.reporter,
            stream=stream,  # type: ignore[arg-type]
            backends=activator.backends,
            tenants=Tenants(),
            pool=activator.pool,
            servers={"public": activator.public},
            ticker=ticker,
            pod="activator-1",
            host="127.0.0.1",
            environ={},
        )

    def set(self, **data: str) -> None:
        self.now = Observability.parse({key.replace("_", "-", 3): value for key, value in data.items()})
        self.telemetry.changed()

    async def metrics(self) -> str:
        return await curl(f"http://127.0.0.1:{self.port}/metrics")


@asynccontextmanager
async def switched(activator: Activator) -> AsyncIterator[Switchboard]:
    ticker = Ticker()
    made = Switchboard(activator, ticker)
    running = asyncio.ensure_future(made.telemetry.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    ticker.close()


@pytest.fixture
async def activator() -> AsyncIterator[Activator]:
    async with an_activator() as made:
        yield made


@pytest.fixture
async def board(activator: Activator) -> AsyncIterator[Switchboard]:
    async with switched(activator) as made:
        yield made


def parts_of(header: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+);dur=([0-9.]+)", header)}


async def test_the_parts_are_the_client_s_time(activator: Activator) -> None:
    """Cold, then warm, then queued behind another. How near they come to its clock is printed, not asserted."""

    class Slow(Pod):
        async def behave(self, connection, request) -> None:
            await asyncio.sleep(0.05)
            await super().behave(connection, request)

    activator.revision(container_concurrency=1)
    async with Slow() as pod:
        pod.ready = False
        asking = asyncio.ensure_future(timed(activator))
        await asyncio.sleep(0.1)
        activator.pods(pod.port)
        await asyncio.sleep(0.05)
        pod.ready = True
        cold, warm = await asking, await timed(activator)
        first = asyncio.ensure_future(timed(activator))
        await until(lambda: pod.now == 1)
        queued = await timed(activator)
        await first
    for name, (took, parts) in {"cold": cold, "warm": warm, "queued": queued}.items():
        print(f"{name}: client {took:.1f} ms, parts {sum(parts.values()):.1f} ms {parts}")  # noqa: T201
        assert sum(parts.values()) <= took + 0.3, "rounding aside, never more than the client saw"
        assert parts["app"] >= 50
    assert cold[1]["wake"] >= 150
    assert (warm[1]["wake"], queued[1]["wake"]) == (0, 0)
    assert queued[1]["queue"] > 0


async def timed(activator: Activator) -> tuple[float, dict[str, float]]:
    async with await activator.client() as client:
        started = time.perf_counter()
        answer = await client.ask(ASKS)
        took = (time.perf_counter() - started) * 1e3
    assert answer.status == 200
    return took, parts_of(answer.headers["server-timing"])


async def test_metrics_come_and_go_with_the_configuration(activator: Activator, board: Switchboard) -> None:
    revision = activator.revision(service="hello", configuration="hello")
    async with Pod() as pod:
        activator.pods(pod.port)
        assert (await activator.ask()).status == 200
        assert activator.proxy.observer is None
        board.set(metrics_protocol="prometheus", metrics_endpoint=f"127.0.0.1:{board.port}")
        await until(lambda: activator.proxy.observer is not None)
        assert (await activator.ask()).status == 200
        text = await board.metrics()
        owner = (
            'kn_service_name="hello",kn_configuration_name="hello",kn_revision_name="hello-1",'
            'k8s_namespace_name="default"'
        )
        assert f'http_server_request_duration_seconds_count{{{owner},http_request_method="GET",' in text
        assert f"kn_revision_request_concurrency{{{owner}}} " in text
        assert 'kn_activator_stats_conn_errors_total{peer="autoscaler"} 3.0' in text
        assert 'kn_activator_stats_conn_reachable{peer="autoscaler"} 1.0' in text
        assert 'torpor_pool_connections{torpor_state="idle"}' in text
        board.set()
        await until(lambda: activator.proxy.observer is None)
        assert (await activator.ask()).status == 200
        with pytest.raises(AssertionError, match=r"Failed to connect|Couldn't connect|refused"):
            await board.metrics()
        board.set(metrics_protocol="prometheus", metrics_endpoint=f"127.0.0.1:{board.port}")
        await until(lambda: activator.proxy.observer is not None)
        activator.proxy.revisions.clear()
        assert "kn_revision_name" not in await board.metrics(), "nothing is kept of revisions that are gone"
        activator.proxy.revisions[revision.key] = revision


async def test_a_port_that_is_taken_costs_the_metrics_and_nothing_else(
    activator: Activator, board: Switchboard, caplog: pytest.LogCaptureFixture
) -> None:
    activator.revision()
    async with Pod() as pod:
        activator.pods(pod.port)
        board.set(metrics_protocol="prometheus", metrics_endpoint=f"127.0.0.1:{activator.public_port}")
        await until(lambda: activator.proxy.observer is not None)
        assert (await activator.ask()).status == 200
    assert "cannot listen" in [record.getMessage() for record in caplog.records]


async def test_pushes_metrics_and_spans(activator: Activator, board: Switchboard) -> None:
    activator.revision(service="hello")
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with Collector() as collector, Pod() as pod:
        activator.pods(pod.port)
        board.set(
            metrics_protocol="http/protobuf",
            metrics_endpoint=collector.url,
            tracing_protocol="http/protobuf",
            tracing_endpoint=collector.url,
            tracing_sampling_rate="0.1",
        )
        await until(lambda: activator.proxy.observer is not None)
        await activator.ask(GET.replace(b"\r\n\r\n", f"\r\nTraceparent: {parent}\r\n\r\n".encode()))
        await board.telemetry.flush()
        [request] = pod.requests
        spans = {span.name: span for span in collector.spans}
        assert set(spans) == {"handle", "throttler_try", "activator_proxy"}
        assert request.headers["traceparent"] == f"{parent[:36]}{spans['activator_proxy'].span_id.hex()}-01"
        [point] = collector.newest["http.server.request.duration"].histogram.data_points
        told = {a.key: a.value.string_value or a.value.int_value for a in point.attributes}
        assert (told["kn.service.name"], told["http.response.status_code"], point.count) == ("hello", 200, 1)


async def test_the_access_log_follows_its_template(
    activator: Activator, board: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    monkeypatch.setattr(subject, "Writer", lambda _, loop: requestlog.Writer(write, loop))
    activator.revision(service="hello", configuration="conf")
    async with Pod() as pod:
        activator.pods(pod.port)
        on: dict[str, Any] = {"logging.enable-request-log": "true"}
        board.set(**on)
        await until(lambda: activator.proxy.observer is not None)
        await activator.ask(GET.replace(b"GET /", b"GET /a"))
        line = json.loads(await asyncio.to_thread(os.read, read, 65536))
        assert (line["httpRequest"]["requestUrl"], line["httpRequest"]["serverIp"]) == ("/a", "")
        before = activator.proxy.observer
        board.set(**on, **{"logging.request-log-template": "{{.Revision.Configuration}} TLS: {{.Request.TLS}}"})
        await until(lambda: activator.proxy.observer not in (None, before))
        await activator.ask()
        assert await asyncio.to_thread(os.read, read, 65536) == b"conf TLS: <nil>\n"
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ({}, False),
        ({"_example": "metrics-protocol: prometheus"}, False),
        ({"metrics-protocol": "none", "logging.enable-request-log": "false", "runtime-profiling": "disabled"}, False),
        ({"request-metrics-protocol": "prometheus"}, False),
        ({"metrics-protocol": "prometheus"}, True),
        ({"logging.enable-request-log": "true"}, True),
        ({"tracing-protocol": "http/protobuf"}, True),
        ({"runtime-profiling": "enabled"}, True),
    ],
)
def test_what_switches_anything_on(data: dict[str, str], wanted: bool) -> None:
    assert wants_anything(data) is wanted
