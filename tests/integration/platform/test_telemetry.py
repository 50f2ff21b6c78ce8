"""Telemetry of a whole platform, switched on and off by its ConfigMap while it runs."""

import json
import re
import time
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

ON = {
    "logging.enable-request-log": "true",
    "logging.enable-probe-request-log": "true",
    "metrics-protocol": "prometheus",
    "request-metrics-protocol": "prometheus",
    "runtime-profiling": "enabled",
}


def configure(platform: Any, data: dict[str, str | None]) -> None:
    platform.torpor(
        "patch", "configmap/config-observability", "-n", "knative-serving", "-p", json.dumps({"data": data})
    )


Samples = dict[tuple[str, str], float]


async def scrape(http: aiohttp.ClientSession, host: str, port: int, path: str = "/metrics") -> str:
    """The text; empty while nobody listens."""
    try:
        async with http.get(f"http://{host}:{port}{path}") as response:
            return await response.text()
    except aiohttp.ClientError:
        return ""


def of(text: str, revision: str) -> Samples:
    """(name, part or status) -> value of a revision's samples, without buckets."""
    return {
        (one.name, one.labels.get("torpor_part") or one.labels.get("http_response_status_code", "")): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.labels.get("kn_revision_name") == revision and not one.name.endswith("_bucket")
    }


@pytest.mark.timeout(90)
async def test_a_cold_start_in_receipt_metrics_and_log(platform, http) -> None:
    activator = platform.inner.removeprefix("http://").partition(":")[0]
    configure(platform, ON)
    try:
        await platform.eventually(lambda: http_text(activator), 10, "metrics of the activator")
        platform.apply(platform.manifest(name="cold", image="test.local/slow:1", env={"STARTUP": "0.3"}))
        await platform.ready("cold")
        await platform.asleep("cold")
        before = of(await scrape(http, activator, 9090), "cold-00001")

        url, headers = platform.url("cold")
        started = time.perf_counter()
        async with http.get(url, headers={**headers, "Prefer": "server-timing"}) as response:
            took = (time.perf_counter() - started) * 1e3
            receipt = response.headers["Server-Timing"]
            assert response.status == 200
        parts = {name: float(value) for name, value in re.findall(r"(\w+);dur=([0-9.]+)", receipt)}
        assert list(parts) == ["route", "queue", "wake", "connect", "app"]
        assert sum(parts.values()) <= took + 0.5, (receipt, took)
        assert parts["wake"] > 300, "the app's own start is in it"
        assert re.search(r'wake;dur=[0-9.]+;desc="start [0-9.]+, probe [0-9.]+"', receipt)
        async with http.get(url, headers=headers) as response:
            assert "Server-Timing" not in response.headers

        async def counted() -> Samples | None:
            found = of(await scrape(http, activator, 9090), "cold-00001")
            key = ("http_server_request_duration_seconds_count", "200")
            return found if found.get(key, 0) - before.get(key, 0) >= 2 else None

        after = await platform.eventually(counted, 10, "the requests in the metrics")
        for part in ("total", "start", "probe", "app"):
            key = ("torpor_coldstart_duration_seconds_count", part)
            assert after[key] - before.get(key, 0) == 1
        key = ("torpor_coldstart_duration_seconds_sum", "total")
        assert 0.3 < after[key] - before.get(key, 0) < took / 1e3
        assert after["kn_revision_request_queued", ""] == 0

        [pod] = platform.pods("cold")
        text = await scrape(http, pod["status"]["podIP"], 9091)
        assert 'kn_serving_invocation_duration_seconds_count{http_response_status_code="200"} 2' in text
        assert "tasks" in await scrape(http, pod["status"]["podIP"], 8008, "/debug/pprof/")

        lines = [
            json.loads(line)
            for line in (platform.state / "logs" / "activator.log").read_text().splitlines()
            if line.startswith('{"httpRequest"')
        ]
        assert [line["httpRequest"]["status"] for line in lines][-2:] == [200, 200]

        # TestRequestLogs: the queue-proxy's log has a line for the request and one for a probe
        text = platform.torpor("logs", f"pod/{pod['metadata']['name']}", "-c", "queue-proxy")
        logged = [json.loads(line)["httpRequest"] for line in text.splitlines() if line.startswith('{"httpRequest"')]
        probes = [one for one in logged if "robe" in one["userAgent"]]
        [mine] = [one for one in logged if one not in probes][:1]
        assert (mine["requestMethod"], mine["requestUrl"], mine["status"]) == ("GET", "/", 200)
        assert mine["serverIp"] == pod["status"]["podIP"]
        assert 200 in {one["status"] for one in probes}
    finally:
        configure(platform, dict.fromkeys(ON))
    await platform.eventually(lambda: not http_text(activator), 10, "metrics switched off")


def http_text(host: str) -> str:
    """As `scrape`, for a thread."""
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://{host}:9090/metrics", timeout=2) as response:
            return str(response.read(100))
    except OSError:
        return ""
