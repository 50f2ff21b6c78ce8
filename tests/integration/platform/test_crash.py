"""kill -9 of anything: the system heals, objects survive, nothing is left behind."""

import asyncio
import os
import signal
import time

import aiohttp
import pytest

APP = {"name": "app", "image": "test.local/slow:1", "annotations": {"autoscaling.knative.dev/min-scale": "1"}}


async def answers(http: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> bool:
    try:
        async with http.get(url, headers=headers, timeout=aiohttp.ClientTimeout(total=5)) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


@pytest.mark.timeout(180)
async def test_each_component_may_be_killed_under_load(own_platform, http) -> None:
    platform = own_platform()
    platform.apply(platform.manifest(**APP))
    await platform.ready("app")
    url, headers = platform.url("app")
    uid = platform.get("ksvc", "app")["metadata"]["uid"]
    stopping = asyncio.Event()
    outcomes: list[tuple[float, bool]] = []

    async def client() -> None:
        while not stopping.is_set():
            outcomes.append((time.monotonic(), await answers(http, url, headers)))
            await asyncio.sleep(0.01)

    load = asyncio.create_task(client())
    victims = {
        "control": lambda: platform.pid_of("torpor.embedded.control"),
        "activator": lambda: platform.pid_of("activator"),
        "queue-proxy": lambda: platform.containers()["queue-proxy"],
        "app": lambda: platform.containers()["app"],
        "runtime": lambda: platform.pid_of("torpor.embedded.node.runtime"),
    }
    for victim, pid in victims.items():
        killed = time.monotonic()
        os.kill(pid(), signal.SIGKILL)

        async def healed(killed: float = killed) -> bool:
            recent = [ok for at, ok in outcomes if at > max(killed + 0.5, time.monotonic() - 1.5)]
            return len(recent) > 20 and all(recent)

        await platform.eventually(healed, 40, f"answers after kill -9 of the {victim}")
        if victim == "control":  # pods and the proxy do not depend on it
            assert all(ok for at, ok in outcomes if at > killed), "requests failed while control was down"
    stopping.set()
    await load
    found = await platform.eventually(lambda: platform.get("ksvc", "app"), 20, "the API server's answer")
    assert found["metadata"]["uid"] == uid


@pytest.mark.timeout(180)
async def test_everything_killed_at_once_continues_where_it_was(own_platform, http) -> None:
    platform = own_platform()
    platform.apply(platform.manifest(**APP))
    await platform.ready("app")
    uid = platform.get("ksvc", "app")["metadata"]["uid"]
    platform.process.kill()
    platform.process.wait(10)
    await platform.eventually(lambda: not platform.processes(), 10, "the end of every process")

    again = own_platform()
    assert again.get("ksvc", "app")["metadata"]["uid"] == uid
    url, headers = again.url("app")

    async def answered() -> bool:
        return await answers(http, url, headers)

    await again.eventually(answered, 30, "an answer after the restart")


async def test_ctrl_c_leaves_no_process(own_platform) -> None:
    platform = own_platform()
    platform.apply(platform.manifest(**APP))
    await platform.ready("app")
    assert len(platform.processes()) >= 6  # supervisor, three components, queue-proxy and app
    platform.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(platform.process.wait, 40) == 0
    assert platform.processes() == set()


async def test_a_second_up_on_the_same_state_is_refused(own_platform) -> None:
    platform = own_platform()
    with pytest.raises(AssertionError, match="is in use by another `torpor up`"):
        platform.torpor("up", "--state-dir", str(platform.state))
    assert platform.get("namespaces", "default")["status"]["phase"] == "Active"
