"""What a queue-proxy process tells: scraped by curl, pushed to a collector, logged, profiled."""

import asyncio
import json
import re
import signal
import subprocess
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.ports import free_ports
from kncore.net import introspect
from kncore.testing.upstream import Connection, ScriptedUpstream, ok
from queueproxy.telemetry import METRICS
from tests.integration.test_queueproxy import GET, PROBE, Sidecar, sidecar
from tests.otlp import Collector

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
IDENTITY = {"SERVING_SERVICE": "hello", "SERVING_CONFIGURATION": "conf"}


def observability(**parts: Any) -> str:
    """OBSERVABILITY_CONFIG as the controller writes it."""
    return json.dumps(parts)


async def curl(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "10", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def scrape(proxy: Sidecar) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = await curl(f"http://127.0.0.1:{proxy.user_metrics}/metrics")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def settled(proxy: Sidecar, name: str, count: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """A scrape in which a histogram has so many observations: a request may end after its client has the answer."""
    async with asyncio.timeout(5):
        while True:
            found = await scrape(proxy)
            if sum(value for (sample, _), value in found.items() if sample == f"{name}_count") >= count:
                return found


async def test_request_metrics_for_prometheus() -> None:
    config = observability(requestMetrics={"protocol": "prometheus"})
    async with (
        ScriptedUpstream() as app,
        sidecar(app.port, OBSERVABILITY_CONFIG=config, CONTAINER_CONCURRENCY="2", **IDENTITY) as proxy,
    ):
        for _ in range(3):
            await curl(f"http://127.0.0.1:{proxy.port}/x", "-H", "Knative-Serving-Tag: blue")
        await curl(f"http://127.0.0.1:{proxy.port}/x", "-d", "x" * 60)
        assert await proxy.ask(PROBE) == (200, b"queue")
        found = await settled(proxy, "http_server_request_duration_seconds", 4)

        def labels(**given: str) -> tuple[tuple[str, str], ...]:
            return tuple(sorted(given.items()))

        blue = labels(
            http_request_method="GET",
            http_response_status_code="200",
            url_scheme="http",
            network_protocol_version="1.1",
            kn_route_tag="blue",
        )
        post = labels(**dict(blue) | {"http_request_method": "POST", "kn_route_tag": "kn:disabled"})
        assert found["http_server_request_duration_seconds_count", blue] == 3
        assert found["http_server_request_duration_seconds_count", post] == 1
        assert found["http_server_request_body_size_bytes_sum", post] == 60
        assert found["kn_serving_invocation_duration_seconds_count", labels(http_response_status_code="200")] == 4
        assert found["torpor_request_queue_duration_seconds_count", labels(kn_route_tag="blue")] == 3
        assert found["kn_serving_queue_depth", ()] == 0
        assert found["torpor_queue_capacity", ()] == 2
        assert found["torpor_pool_connections", labels(torpor_state="idle")] == 1
        assert found["torpor_server_connections_accepted_total", labels(torpor_listener="main")] >= 5
        assert found[
            "target_info",
            labels(
                service_name="hello",
                service_instance_id="pod",
                k8s_namespace_name="ns",
                k8s_pod_name="pod",
                k8s_container_name="queue-proxy",
                kn_service_name="hello",
                kn_configuration_name="conf",
                kn_revision_name="rev",
            ),
        ]
        # the autoscaler's port is another one and stays what it is
        assert "application/protobuf" in await curl(
            "-D", "-", "-o", "/dev/null", f"http://127.0.0.1:{proxy.metrics}/metrics"
        )


async def test_depth_counts_who_runs_and_who_waits() -> None:
    release = asyncio.Event()

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await release.wait()
            await connection.send(ok())

    config = observability(requestMetrics={"protocol": "prometheus"})
    async with (
        ScriptedUpstream(script) as app,
        sidecar(app.port, OBSERVABILITY_CONFIG=config, CONTAINER_CONCURRENCY="1") as proxy,
    ):
        asking = [asyncio.ensure_future(proxy.ask(GET)) for _ in range(14)]
        done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 3:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        found = await settled(proxy, "http_server_request_duration_seconds", 3)
        assert (found["kn_serving_queue_depth", ()], found["torpor_queue_waiting", ()]) == (11, 10)
        assert found["torpor_queue_refused_total", ()] == 3
        release.set()
        await asyncio.gather(*waiting)
        found = await settled(proxy, "http_server_request_duration_seconds", 14)
        assert found["kn_serving_queue_depth", ()] == 0
        counted = {
            dict(labels)["http_response_status_code"]: value
            for (name, labels), value in found.items()
            if name == "http_server_request_duration_seconds_count"
        }
        assert counted == {"200": 11, "503": 3}
        # who was refused never had its turn
        invoked = [(k[1], v) for k, v in found.items() if k[0] == "kn_serving_invocation_duration_seconds_count"]
        assert invoked == [((("http_response_status_code", "200"),), 11)]


async def test_what_was_refused_of_grpc_counts_as_refused() -> None:
    """Its client gets it as 200 with a `grpc-status`, but nobody shall be told that all is well."""
    [nobody] = free_ports(1)
    config = observability(requestMetrics={"protocol": "prometheus"})
    async with sidecar(nobody, OBSERVABILITY_CONFIG=config) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/pkg.Service/Call"
        head = await curl("--http2-prior-knowledge", "-H", "content-type: application/grpc", "-d", "x", "-D", "-", url)
        assert head.startswith("HTTP/2 200")
        assert "grpc-status: 14" in head
        found = await settled(proxy, "http_server_request_duration_seconds", 1)
        [labels] = [dict(key) for name, key in found if name == "http_server_request_duration_seconds_count"]
        assert (labels["http_response_status_code"], labels["network_protocol_version"]) == ("502", "2")


async def test_nothing_listens_unless_wanted() -> None:
    async with ScriptedUpstream() as app, sidecar(app.port) as proxy:
        for port in (proxy.user_metrics, proxy.profiling):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)


async def test_metrics_and_spans_are_pushed_at_the_latest_when_it_ends() -> None:
    async with Collector() as collector, ScriptedUpstream() as app:
        config = observability(
            requestMetrics={"protocol": "http/protobuf", "endpoint": collector.url, "exportInterval": 3600 * 10**9},
            tracing={"protocol": "http/protobuf", "endpoint": collector.url, "samplingRate": 0.5},
        )
        async with sidecar(
            app.port, OBSERVABILITY_CONFIG=config, CONTAINER_CONCURRENCY="1", TORPOR_DRAIN_QUIET="0", **IDENTITY
        ) as proxy:
            url = f"http://127.0.0.1:{proxy.port}/path?secret=1"
            await curl(url, "-H", f"traceparent: {PARENT}", "-H", "baggage: a=b")
            await curl(url, "-H", f"traceparent: {PARENT[:-1]}0")
            proxy.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                assert await proxy.process.wait() == 0
        [point] = collector.newest["kn.serving.invocation.duration"].histogram.data_points
        assert (point.count, point.attributes[0].value.int_value) == (
            2,
            200,
        )
        assert len(point.bucket_counts) == 15
        [resource] = {
            tuple(sorted((a.key, a.value.string_value) for a in one.resource.attributes))
            for request in (*collector.metrics, *collector.traces)
            for one in (request.resource_metrics if hasattr(request, "resource_metrics") else request.resource_spans)
        }
        assert ("kn.revision.name", "rev") in resource
        spans = {span.name: span for span in collector.spans}
        assert set(spans) == {"queue", "kn.queueproxy.proxy", "kn.queueproxy.wait"}
        queue, inner, wait = (spans[name] for name in ("queue", "kn.queueproxy.proxy", "kn.queueproxy.wait"))
        assert (queue.trace_id.hex(), queue.parent_span_id.hex()) == (PARENT[3:35], PARENT[36:52])
        assert (inner.parent_span_id, wait.parent_span_id) == (queue.span_id, inner.span_id)
        told = {a.key: a.value.string_value or a.value.int_value for a in queue.attributes}
        assert (told["url.path"], told["http.response.status_code"]) == ("/path", 200)
        sampled, other = app.requests
        assert sampled.headers["traceparent"] == f"00-{PARENT[3:35]}-{inner.span_id.hex()}-01"
        assert sampled.headers["baggage"] == "a=b"
        assert re.fullmatch(rf"00-{PARENT[3:35]}-[0-9a-f]{{16}}-00", other.headers["traceparent"])


async def test_a_trace_is_begun_where_tracing_is_on_and_only_there() -> None:
    async with ScriptedUpstream() as app:
        async with sidecar(app.port) as proxy:
            await curl(f"http://127.0.0.1:{proxy.port}/")
        config = observability(tracing={"protocol": "stdout", "samplingRate": 0})
        async with sidecar(app.port, OBSERVABILITY_CONFIG=config) as proxy:
            await curl(f"http://127.0.0.1:{proxy.port}/")
        off, on = app.requests
        assert "traceparent" not in off.headers
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", on.headers["traceparent"])


async def test_request_log_has_a_line_for_a_request_and_one_for_a_probe() -> None:
    from kncore.config.observability import REQUEST_LOG_TEMPLATE

    config = observability(requestLogTemplate=REQUEST_LOG_TEMPLATE, enableRequestLog=True, enableProbeRequestLog=True)
    async with ScriptedUpstream() as app, sidecar(app.port, OBSERVABILITY_CONFIG=config) as proxy:
        await curl(f"http://127.0.0.1:{proxy.port}/a?b=c", "-A", "me", "-H", f"traceparent: {PARENT}")
        await proxy.ask(PROBE)
        assert proxy.process.stdout is not None
        request, probe = [json.loads(await proxy.process.stdout.readline()) for _ in range(2)]
        assert request["traceId"] == PARENT[3:35]
        seen = request["httpRequest"]
        assert (seen["requestMethod"], seen["requestUrl"], seen["status"]) == ("GET", "/a?b=c", 200)
        assert (seen["userAgent"], seen["serverIp"], seen["protocol"]) == ("me", "127.0.0.1", "HTTP/1.1")
        assert re.fullmatch(r"127\.0\.0\.1:\d+", seen["remoteIp"])
        assert re.fullmatch(r"[0-9.e-]+s", seen["latency"])
        assert (probe["httpRequest"]["userAgent"], probe["httpRequest"]["status"]) == ("kube-probe/1.30", 200)


async def test_profiles() -> None:
    config = observability(runtime={"profiling": "enabled"})
    async with ScriptedUpstream() as app, sidecar(app.port, OBSERVABILITY_CONFIG=config) as proxy:
        base = f"http://127.0.0.1:{proxy.profiling}/debug/pprof/"
        assert (await curl(base)).split() == ["profile?seconds=30", "tasks"]
        assert "prober" in await curl(base + "tasks")
        first = asyncio.ensure_future(curl(base + "profile?seconds=1"))
        await asyncio.sleep(0.3)
        assert await curl(base + "profile?seconds=1") == "a profile is being taken already\n"
        await proxy.ask(GET)
        lines = (await first).splitlines()
        assert all(re.fullmatch(r"[^;]+;.* \d+", line) for line in lines), lines
        assert any(line.startswith("MainThread;") for line in lines)
        for bad in ("0", "-1", "1e9", "999", "x"):
            assert "seconds must be" in await curl(f"{base}profile?seconds={bad}")
        assert await curl(base + "nothing") == "404 page not found\n"


def test_metrics_are_declared_once() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert set(introspect.METRICS) <= set(METRICS)
