"""A sleeping service wakes for whoever asks, once, and answers everyone."""

import asyncio
import re

import aiohttp

SLOW = {"name": "slow", "image": "test.local/slow:1", "env": {"STARTUP": "1"}}


async def burst(http: aiohttp.ClientSession, url: str, headers: dict[str, str], count: int) -> list[tuple[int, str]]:
    async def one() -> tuple[int, str]:
        async with http.get(url, headers=headers) as response:
            return response.status, await response.text()

    return await asyncio.gather(*(one() for _ in range(count)))


async def test_two_hundred_requests_to_a_sleeping_service_are_all_answered_once(platform, http) -> None:
    platform.apply(platform.manifest(**SLOW))
    await platform.ready("slow")
    await platform.asleep("slow")
    url, headers = platform.url("slow")

    answers = await burst(http, url, headers, 200)

    assert [status for status, _ in answers] == [200] * 200
    async with http.get(url, headers=headers) as response:
        assert response.status == 200
    # Every pod that served counts its requests; together they served each request once (plus the one just made).
    served = {}
    for pid, count in (re.search(r" (\d+) served=(\d+)", text).groups() for _, text in answers):
        served[pid] = max(served.get(pid, 0), int(count))
    assert sum(served.values()) == 200


async def test_container_concurrency_one_is_never_exceeded_while_waking(platform, http) -> None:
    annotations = {"autoscaling.knative.dev/max-scale": "5"}
    platform.apply(platform.manifest(**SLOW, annotations=annotations, spec={"containerConcurrency": 1}))
    await platform.ready("slow")
    await platform.asleep("slow")
    url, headers = platform.url("slow", "/?sleep=20")

    answers = await burst(http, url, headers, 200)

    assert [status for status, _ in answers] == [200] * 200
    assert {re.search(r"highest=(\d+)", text).group(1) for _, text in answers} == {"1"}
    assert len(platform.pods("slow")) <= 5


async def test_several_services_wake_at_the_same_time(platform, http) -> None:
    names = [f"many-{number}" for number in range(5)]
    for name in names:
        platform.apply(platform.manifest(name=name, image="test.local/slow:1"))
    for name in names:
        await platform.ready(name)
    for name in names:
        await platform.asleep(name)

    answers = await asyncio.gather(*(burst(http, *platform.url(name), 4) for name in names))

    for name, answered in zip(names, answers, strict=True):
        assert [status for status, _ in answered] == [200] * 4
        assert all(text.startswith(f"{name}-00001 ") for _, text in answered)
