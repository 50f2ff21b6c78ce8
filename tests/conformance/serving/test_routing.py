"""Who answers a request (serving §9.3 TestTagHeaderBasedRouting, TestServiceToServiceCall, TestCallToPublicService,
TestWebSocketBlueGreenRoute, TestActivatorOverload)."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest


async def two_revisions(
    platform: Any, name: str, deploy: Any, traffic: list[dict[str, Any]]
) -> tuple[str, dict[str, str]]:
    """A Service with revisions NAME-00001 and NAME-00002."""
    await deploy(name)
    manifest = platform.manifest(name=name, image="test.local/conform:1", env={"NAME": "second"})
    manifest["spec"]["traffic"] = traffic
    platform.apply(manifest)
    await platform.ready(name)
    at: tuple[str, dict[str, str]] = platform.url(name)
    return at


async def who(http, at, **headers: str) -> str:
    """The revision that answers."""
    url, host = at
    async with http.get(url, headers={**host, **headers}) as response:
        return (await response.text()).split(" ")[0]


async def test_a_header_chooses_a_tag(platform, http, deploy) -> None:
    features = json.dumps({"data": {"tag-header-based-routing": "enabled"}})
    platform.torpor("patch", "configmap/config-features", "-n", "knative-serving", "-p", features)
    at = await two_revisions(
        platform,
        "tagged",
        deploy,
        [
            {"revisionName": "tagged-00001", "percent": 100},
            {"revisionName": "tagged-00002", "percent": 0, "tag": "next"},
        ],
    )

    async def chosen() -> bool:
        return await who(http, at, **{"Knative-Serving-Tag": "next"}) == "tagged-00002"

    await platform.eventually(chosen, 10, "routing by the header")
    assert await who(http, at) == "tagged-00001"
    assert await who(http, at, **{"Knative-Serving-Tag": "unknown"}) == "tagged-00001"


async def test_websockets_are_split_like_requests(platform, http, deploy) -> None:
    """Of 200 connections over 50/50 each side gets its half."""
    traffic = [{"revisionName": f"split-0000{n}", "percent": 50} for n in (1, 2)]
    url, headers = await two_revisions(platform, "split", deploy, traffic)

    async def connect() -> str:
        async with http.ws_connect(url + "socket", headers=headers) as socket:
            await socket.send_str("who")
            answer: str = await socket.receive_str(timeout=10)
            return answer

    found: Counter[str] = Counter()
    for _ in range(10):
        found.update(await asyncio.gather(*(connect() for _ in range(20))))
    assert found == {"split-00001": 100, "split-00002": 100}


@pytest.mark.parametrize("host", ["near.default.svc.cluster.local", "near.default.svc", "near.default"])
async def test_pods_reach_services_by_their_cluster_names(platform, http, deploy, host: str) -> None:
    """TestServiceToServiceCall: what a pod's HTTP proxy, the activator's inner listener, makes of the names."""
    manifest = platform.manifest(name="near", image="test.local/conform:1")
    manifest["metadata"]["labels"] = {"networking.knative.dev/visibility": "cluster-local"}
    platform.apply(manifest)
    await platform.ready("near")
    async with http.get(f"http://{host}/", proxy=platform.inner) as response:
        assert ((await response.text()).split(" ")[0], response.status) == ("near-00001", 200)
    for outside in (host, "near.default.localhost"):
        async with http.get(platform.ingress, headers={"Host": outside}) as response:
            assert response.status == 404, "a private service must not be reachable from outside"


@pytest.mark.timeout(90)
async def test_overload_waits_its_turn(platform, http, deploy) -> None:
    """TestActivatorOverload: one request at a time per pod, ten pods at most, 100 at once: all are answered."""
    at = await deploy(
        "overloaded",
        annotations={"autoscaling.knative.dev/max-scale": "10", "autoscaling.knative.dev/target-burst-capacity": "-1"},
        spec={"containerConcurrency": 1},
    )
    await platform.asleep("overloaded")
    url, headers = at

    async def ask() -> int:
        async with http.get(url + "?sleep=0.3", headers=headers) as response:
            await response.read()
            return int(response.status)

    assert Counter(await asyncio.gather(*(ask() for _ in range(100)))) == {200: 100}
