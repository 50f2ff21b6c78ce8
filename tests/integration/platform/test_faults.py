"""Apps, clients, disks and processes that misbehave: who is not concerned does not notice."""

import asyncio
import os
import signal

MIN_SCALE_2 = {"autoscaling.knative.dev/min-scale": "2"}


async def test_an_app_that_dies_costs_the_requests_it_had_and_no_others(platform, load) -> None:
    platform.apply(platform.manifest(name="pair", image="test.local/slow:1", annotations=MIN_SCALE_2))
    await platform.ready("pair")
    await platform.eventually(lambda: len(platform.apps("pair")) == 2, 10, "two apps")
    victim = platform.apps("pair")[0]
    async with load.asking(platform.url("pair", "/?sleep=5"), clients=8):
        await asyncio.sleep(1)
        os.kill(victim, signal.SIGKILL)
        await platform.eventually(lambda: victim not in platform.apps("pair"), 5, "the end of the app")
        await platform.eventually(lambda: len(platform.apps("pair")) == 2, 10, "an app in its place")
        await asyncio.sleep(1)
    assert load.answered > 500
    assert len(load.failures) <= 8, load.failures  # one per client, if all were at the same app
