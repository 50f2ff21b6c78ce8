"""Load decides how many pods there are, and nobody notices the change."""

import asyncio
import contextlib
import math
import time

import aiohttp


class Clients:
    """Clients in closed loops, each on its own connection; counts what went wrong."""

    def __init__(self, http: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> None:
        self._http, self._url, self._headers = http, url, headers
        self.answered = 0
        self.failures: list[str] = []

    async def loop(self) -> None:
        while True:
            try:
                async with self._http.get(self._url, headers=self._headers) as response:
                    body = await response.text()
                    if response.status == 200:
                        self.answered += 1
                    else:
                        self.failures.append(f"{response.status} {body}")
            except aiohttp.ClientError as exc:
                self.failures.append(repr(exc))

    @contextlib.asynccontextmanager
    async def running(self, count: int):
        tasks = [asyncio.create_task(self.loop()) for _ in range(count)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def decisions(platform, http) -> str:
    """What the autoscaler saw and decided, for the message of a failure."""
    async with http.get(f"http://{platform.running['autoscaler']}/explain/default/load-00001") as response:
        return await response.text()


async def test_sixty_concurrent_at_target_ten_scale_up_and_down_without_a_failure(platform, http) -> None:
    annotations = {"autoscaling.knative.dev/target": "10"}
    platform.apply(platform.manifest(name="load", image="test.local/slow:1", annotations=annotations))
    await platform.ready("load")
    wanted = math.ceil(60 / (10 * 0.7))  # serving §4.6: load over the utilized target
    # requests long enough that what a client does between two of them, on a busy machine, hardly lowers the concurrency
    url, headers = platform.url("load", "/?sleep=500")
    light = Clients(http, url, headers)
    async with light.running(1):
        async with Clients(http, url, headers).running(60) as heavy:
            counts: list[int] = []
            until = time.monotonic() + 10
            while wanted not in counts and time.monotonic() < until:
                counts.append(len(await asyncio.to_thread(platform.pods, "load")))
            assert counts[-1] == wanted, (counts, await decisions(platform, http))
            for _ in range(4):  # and it stays there
                await asyncio.sleep(1)
                counts.append(len(await asyncio.to_thread(platform.pods, "load")))
            assert set(counts[counts.index(wanted) :]) == {wanted}, (counts, await decisions(platform, http))
        assert heavy.failures == []
        await platform.eventually(lambda: len(platform.pods("load")) == 1, 40, "one pod for one client")
        assert light.failures == []
        assert light.answered > 20
    await platform.asleep("load")


async def test_the_autoscale_example_keeps_its_one_pod(platform) -> None:

    platform.torpor("apply", "-f", str(platform.examples / "autoscale" / "autoscale-service.yaml"))
    await platform.ready("api-server")
    await asyncio.sleep(10)
    assert len(platform.pods("api-server")) == 1
