"""The guide's canary: exact shares, a URL of its own for the tag, and no failed request while the shares move."""

import asyncio
import contextlib
import subprocess
from collections import Counter

import aiohttp
import pytest

from tests import kubectl as programs


async def canary(platform) -> None:
    platform.torpor("apply", "-f", str(platform.examples / "canary" / "web-app-v1.yaml"))
    await platform.ready("web-app")
    platform.torpor("apply", "-f", str(platform.examples / "canary" / "canary-service.yaml"))
    await platform.ready("web-app")


async def count(http: aiohttp.ClientSession, url: str, headers: dict[str, str], requests: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for _ in range(requests):
        async with http.get(url, headers=headers) as response:
            assert response.status == 200
            seen[(await response.text()).strip()] += 1
    return seen


async def test_ninety_ten_is_exact(platform, http) -> None:
    await canary(platform)
    seen = await count(http, *platform.url("web-app"), 1000)
    assert abs(seen["web-app v1"] - 900) <= 1
    assert abs(seen["web-app v2"] - 100) <= 1
    assert seen.total() == 1000


async def test_the_tag_has_its_own_url(platform, http) -> None:
    await canary(platform)
    seen = await count(http, *platform.url("canary-web-app"), 20)
    assert seen == {"web-app v2": 20}
    traffic = platform.get("ksvc", "web-app")["status"]["traffic"]
    port = platform.running["ingress"].rpartition(":")[2]
    assert [t.get("url") for t in traffic] == [None, f"http://canary-web-app.default.localhost:{port}"]


@pytest.mark.parametrize("kubectl", programs.parameters()[-1:], indirect=True)
async def test_shares_move_under_load_without_a_failure(platform, kubectl, http) -> None:
    await canary(platform)
    url, headers = platform.url("web-app")
    failures: list[str] = []
    answered = 0

    async def client() -> None:
        nonlocal answered
        while True:
            try:
                async with http.get(url, headers=headers) as response:
                    text = await response.text()
                    if response.status == 200:
                        answered += 1
                    else:
                        failures.append(f"{response.status} {text}")
            except aiohttp.ClientError as exc:
                failures.append(repr(exc))

    clients = [asyncio.create_task(client()) for _ in range(8)]
    try:
        for script, share in (("rollout-50.sh", 50), ("rollout-100.sh", 100)):
            await step(platform, script)
            await platform.ready("web-app")
            seen = await count(http, url, headers, 100)
            # other clients take part in the same rotation, so one client's share is only near the exact one
            assert abs(seen["web-app v2"] - share) <= 15, (script, seen)
    finally:
        for task in clients:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*clients)
    assert failures == []
    assert answered > 100


async def step(platform, script: str) -> None:
    """Run one of the guide's rollout steps with kubectl, as written."""
    done = await asyncio.to_thread(
        subprocess.run,
        ["sh", str(platform.examples / "canary" / script)],
        env=platform.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
