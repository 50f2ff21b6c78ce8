"""Apps, clients, disks and processes that misbehave: who is not concerned does not notice."""

import asyncio
import json
import os
import resource
import signal
import time

import pytest

MIN_SCALE_1 = {"autoscaling.knative.dev/min-scale": "1"}
MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "later", "namespace": "default"},
    "data": {"a": "b"},
}
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


async def test_a_full_disk_is_said_and_survived(own_platform, http) -> None:
    platform = own_platform()
    platform.apply(platform.manifest(name="app", image="test.local/slow:1", annotations=MIN_SCALE_1))
    await platform.ready("app")
    said = platform.state.parent / "up.log"
    control = platform.pid_of("torpor.embedded.control")
    # what a full disk looks like from inside: no file may grow any more
    _, most = resource.prlimit(control, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    try:
        refused = platform.torpor("apply", "-f", "-", stdin=json.dumps(MAP), check=False)
        assert refused == ""
        await platform.eventually(lambda: "changes cannot be stored in" in said.read_text(), 5, "a word about it")
        url, headers = platform.url("app")
        async with http.get(url, headers=headers) as response:
            assert response.status == 200
        assert platform.get("ksvc", "app")["metadata"]["name"] == "app"
    finally:
        resource.prlimit(control, resource.RLIMIT_FSIZE, (most, most))
    platform.apply(MAP)
    assert platform.get("configmap", "later")["data"] == {"a": "b"}
    await platform.eventually(lambda: "can be stored in" in said.read_text().splitlines()[-1], 15, "the all-clear")
    assert platform.pid_of("torpor.embedded.control") == control


def test_a_platform_that_cannot_start_says_why_at_once(own_platform, tmp_path) -> None:
    state = tmp_path / "state" / "apiserver"
    state.mkdir(parents=True)
    (state / "objects.sqlite").write_bytes(b"this is no database" * 1000)
    began = time.monotonic()
    with pytest.raises(
        AssertionError, match=r"error: the state in .*/apiserver cannot be used: file is not a database"
    ):
        own_platform()
    assert time.monotonic() - began < 15
    assert (state / "objects.sqlite").read_bytes().startswith(b"this is no database")
