"""Readiness decides who gets requests, liveness who is restarted (serving §6.6, §9.2 TestProbeRuntime*, §9.3
TestReadiness*, TestLivenessProbeAwareOfStartupProbe, TestMultiContainer*)."""

import asyncio
import json
import sys
from typing import Any

import pytest

CONFORM = "test.local/conform:1"
ONE_POD = {"autoscaling.knative.dev/min-scale": "1"}
SLOW = {"READY_AFTER": "2"}
IS_READY = [
    sys.executable,
    "-c",
    "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/ready')",
]


def endpoints(platform: Any, service: str) -> list[str]:
    """Addresses that Kubernetes calls ready, of the service's pods."""
    slices = platform.get(
        "endpointslices",
        selector=f"serving.knative.dev/service={service},networking.internal.knative.dev/serviceType=Private",
    )
    return [
        address
        for one in slices
        for endpoint in one.get("endpoints") or ()
        if endpoint["conditions"].get("ready")
        for address in endpoint["addresses"]
    ]


async def status_of(http, at, path: str = "") -> int:
    url, headers = at
    async with http.get(url + path, headers=headers) as response:
        await response.read()
        return int(response.status)


PROBES: dict[str, dict[str, Any]] = {
    "http-aggressive": {"httpGet": {"path": "/ready"}},
    "http": {"httpGet": {"path": "/ready"}, "periodSeconds": 1},
    "http-twice": {"httpGet": {"path": "/ready"}, "periodSeconds": 1, "successThreshold": 2},
    "exec": {"exec": {"command": IS_READY}, "periodSeconds": 1, "timeoutSeconds": 5},
}


@pytest.mark.timeout(90)
async def test_no_request_before_ready(platform, http, deploy) -> None:
    """TestProbeRuntime; asked through the activator while the pods start from zero."""
    for name, probe in PROBES.items():
        platform.apply(platform.manifest(name=name, image=CONFORM, env=SLOW, container={"readinessProbe": probe}))
    for name in PROBES:
        await platform.ready(name)
    for name in PROBES:
        await platform.asleep(name)

    async def wake(name: str) -> tuple[int, int]:
        at = platform.url(name)
        # it must have been ready before the first answer, so that asking the app itself says yes at once
        return await status_of(http, at), await status_of(http, at, "ready")

    assert dict(zip(PROBES, await asyncio.gather(*map(wake, PROBES)), strict=True)) == dict.fromkeys(PROBES, (200, 200))


async def test_a_pod_that_stops_being_ready_gets_no_requests_until_it_is_again(platform, http, deploy) -> None:
    """TestProbeRuntimeAfterStartup."""
    probe = {"httpGet": {"path": "/ready"}, "periodSeconds": 1, "failureThreshold": 2}
    at = await deploy("flapping", annotations=ONE_POD, container={"readinessProbe": probe}, spec={"timeoutSeconds": 3})
    url, headers = at
    async with http.post(url + "change?ready=0", headers=headers) as response:
        assert response.status == 200
    await platform.eventually(lambda: not endpoints(platform, "flapping"), 15, "loss of the endpoint")
    pod = platform.pods("flapping")[0]
    assert {"type": "Ready", "status": "False"}.items() <= next(
        one for one in pod["status"]["conditions"] if one["type"] == "Ready"
    ).items()


async def test_another_port_and_a_path_with_a_query(http, deploy) -> None:
    """TestReadinessPathAndQuery: the query reaches the app as written."""
    probe = {"httpGet": {"path": "/ready?a=b%20c"}, "periodSeconds": 1}
    at = await deploy("query", env={"WANT": "a=b%20c"}, container={"readinessProbe": probe})
    assert await status_of(http, at) == 200


async def test_liveness_waits_for_startup(platform, http, deploy) -> None:
    """TestLivenessProbeAwareOfStartupProbe: a slow start is no reason to be restarted."""
    at = await deploy(
        "guarded",
        annotations=ONE_POD,
        env={"READY_AFTER": "4"},
        container={
            "startupProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1, "failureThreshold": 20},
            "livenessProbe": {"httpGet": {"path": "/ready"}, "periodSeconds": 1, "failureThreshold": 1},
        },
    )
    assert await status_of(http, at) == 200
    await asyncio.sleep(2)
    statuses = platform.pods("guarded")[0]["status"]["containerStatuses"]
    assert [status["restartCount"] for status in statuses] == [0, 0]


def two_containers(platform: Any, name: str, sidecar: dict[str, Any]) -> dict[str, Any]:
    """A Service whose app has a second container beside it."""
    manifest: dict[str, Any] = platform.manifest(name=name, image=CONFORM, annotations=ONE_POD)
    containers = manifest["spec"]["template"]["spec"]["containers"]
    # the queue-proxy probes all containers as often as the kubelet asks it, which is as often as this one wants
    probe = {"httpGet": {"path": "/ready"}, "periodSeconds": 1, "failureThreshold": 1}
    containers[0] |= {"name": "app", "ports": [{"containerPort": 8080}], "readinessProbe": probe}
    containers.append({"name": "sidecar", "image": CONFORM, **sidecar})
    return manifest


@pytest.mark.timeout(90)
async def test_a_sidecar_decides_too(platform, http) -> None:
    """TestMultiContainerReadiness, TestMultiContainerProbeStartFailingAfterReady."""
    features = {"multi-container-probing": "enabled"}
    platform.torpor("patch", "configmap/config-features", "-n", "knative-serving", "-p", json.dumps({"data": features}))
    sidecar = {
        "env": [{"name": "FIXED_PORT", "value": "18877"}, {"name": "READY_AFTER", "value": "2"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 18877}, "periodSeconds": 1, "failureThreshold": 1},
    }
    platform.apply(two_containers(platform, "both", sidecar))
    await platform.ready("both")
    assert await status_of(http, platform.url("both")) == 200
    async with http.post("http://127.0.0.1:18877/change?ready=0") as response:
        assert response.status == 200
    await platform.eventually(lambda: not endpoints(platform, "both"), 30, "loss of the endpoint")
