"""Pods that go away finish what they have begun (serving §6.9, §9.3 TestDestroyPod*, TestWebSocketGracefulShutdown,
§9.4 TestWorkloadHA)."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest

ONE_POD = {"autoscaling.knative.dev/min-scale": "1"}


def ready_pods(platform: Any, service: str) -> list[str]:
    """Names of pods that are Ready."""
    return [
        pod["metadata"]["name"]
        for pod in platform.pods(service)
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))
    ]


async def get(http, at, query: str) -> tuple[int, str]:
    url, headers = at
    async with http.get(url + query, headers=headers) as response:
        return response.status, await response.text()


async def test_a_request_survives_the_deletion_of_its_service(platform, http, deploy) -> None:
    """TestDestroyPodInflight."""
    at = await deploy("inflight", spec={"timeoutSeconds": 30})
    request = asyncio.create_task(get(http, at, "?sleep=6"))
    await asyncio.sleep(1)
    platform.torpor("delete", "ksvc", "inflight")
    status, body = await request
    assert (status, body.split(" ")[0]) == (200, "inflight-00001")


async def test_an_idle_pod_leaves_long_before_its_timeout(platform, deploy) -> None:
    """TestDestroyPodTimely, with figures of one machine: 300 s allowed, a few seconds of quiet are what it takes."""
    await deploy("timely", annotations=ONE_POD, spec={"timeoutSeconds": 300})
    name = ready_pods(platform, "timely")[0]
    platform.torpor("delete", "--no-wait", "pod", name)

    def gone() -> bool:
        return all(pod["metadata"]["name"] != name for pod in platform.get("pods"))

    await platform.eventually(gone, 20, "end of the pod")


@pytest.mark.timeout(90)
async def test_requests_begun_before_a_pod_was_deleted_are_answered(platform, http, deploy) -> None:
    """TestDestroyPodWithRequests."""
    at = await deploy("with-requests", annotations=ONE_POD)
    name = ready_pods(platform, "with-requests")[0]
    requests = []
    for _ in range(6):
        requests.append(asyncio.create_task(get(http, at, "?sleep=5")))
        await asyncio.sleep(0.5)
    platform.torpor("delete", "--no-wait", "pod", name)
    answers = await asyncio.gather(*requests)
    assert [status for status, _ in answers] == [200] * 6


async def test_an_app_may_close_its_websockets_in_order(platform, http, deploy) -> None:
    """TestWebSocketGracefulShutdown: what the client sees is the app's own closing handshake."""
    url, headers = await deploy("closing")
    async with http.ws_connect(url + "socket", headers=headers) as socket:
        await socket.send_str("here")
        assert await socket.receive_str(timeout=5) == "here"
        platform.torpor("delete", "ksvc", "closing")
        message = await socket.receive(timeout=20)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == aiohttp.WSCloseCode.OK


@pytest.mark.timeout(120)
@pytest.mark.parametrize("burst", ["-1", "0"], ids=["activator in the path", "not in the path"])
async def test_losing_pods_one_by_one_loses_no_request(platform, load, deploy, burst: str) -> None:
    """TestWorkloadHA."""
    scale = {"autoscaling.knative.dev/min-scale": "2", "autoscaling.knative.dev/max-scale": "2"}
    at = await deploy("available", annotations={**scale, "autoscaling.knative.dev/target-burst-capacity": burst})
    await platform.eventually(lambda: len(ready_pods(platform, "available")) == 2, 20, "two pods")
    async with load.asking(at, clients=4):
        for _ in range(4):
            name = ready_pods(platform, "available")[0]
            platform.torpor("delete", "--no-wait", "pod", name)

            def replaced(name: str = name) -> bool:
                now = ready_pods(platform, "available")
                return name not in now and len(now) == 2

            await platform.eventually(replaced, 20, "another pod")
    assert load.failures == []
    assert load.answered > 100


async def test_the_hook_of_a_restarted_app_does_not_end_the_pod(platform, http, deploy) -> None:
    """§6.9: a liveness failure runs preStop as well, and without SIGTERM to the queue-proxy serving goes on."""
    at = await deploy(
        "restarted",
        annotations=ONE_POD,
        container={
            # an app that takes a second to start must not be killed for that
            "livenessProbe": {
                "httpGet": {"path": "/live"},
                "initialDelaySeconds": 4,
                "periodSeconds": 1,
                "failureThreshold": 1,
            },
        },
    )
    url, headers = at
    before = (await get(http, at, ""))[1]
    async with http.post(url + "change?live=0", headers=headers) as response:
        assert response.status == 200

    def restarts() -> int:
        statuses = platform.pods("restarted")[0]["status"]["containerStatuses"]
        return sum(status["restartCount"] for status in statuses)

    await platform.eventually(lambda: restarts() == 1, 50, "restart of the app")
    began = time.monotonic()
    while True:
        status, body = await get(http, at, "")
        if status == 200 and body != before:
            break
        assert time.monotonic() - began < 15, (status, body)
        await asyncio.sleep(0.2)
    assert json.dumps(platform.pods("restarted")).count('"restartCount": 1') == 1
