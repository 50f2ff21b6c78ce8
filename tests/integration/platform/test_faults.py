"""Apps, clients, disks and processes that misbehave: who is not concerned does not notice."""

import asyncio
import json
import os
import resource
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

MIN_SCALE_1 = {"autoscaling.knative.dev/min-scale": "1"}
MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "later", "namespace": "default"},
    "data": {"a": "b"},
}
MIN_SCALE_2 = {"autoscaling.knative.dev/min-scale": "2"}


def peak_kib(pid: int) -> int | None:
    """The most memory a process ever had; None for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


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


async def test_all_ways_of_talking_pass_both_proxies(platform, http) -> None:
    platform.apply(platform.manifest(name="talk", image="test.local/talk:1"))
    await platform.ready("talk")
    url, headers = platform.url("talk", "/echo")
    async with http.ws_connect(url, headers=headers) as socket:
        for text in ("a", "b" * 125, "c" * 100_000):
            await socket.send_str(text)
            assert await socket.receive_str(timeout=5) == text
        await socket.close()
        assert socket.close_code == 1000
    url, headers = platform.url("talk", "/events")
    async with http.get(url, headers=headers) as response:
        lags = [time.time() - float(line[5:]) async for line in response.content if line.startswith(b"data:")]
    assert len(lags) == 5
    assert max(lags) < 0.15  # each one when it is sent, not when the next one or the end comes
    url, headers = platform.url("talk", "/ü?ö=ä")
    async with http.get(url, headers=headers) as response:
        assert response.status == 404  # the app's
        assert response.headers["Server"].startswith("Python/")


@pytest.mark.timeout(90)
async def test_a_body_of_any_size_costs_no_memory(platform, http) -> None:
    platform.apply(platform.manifest(name="bulk", image="test.local/talk:1", annotations=MIN_SCALE_1))
    await platform.ready("bulk")
    await platform.eventually(lambda: len(platform.queue_proxies()) == 1, 20, "the end of other tests' pods")
    size, piece = 256 << 20, b"x" * (1 << 18)
    proxies = [platform.pid_of("activator"), *platform.queue_proxies()]

    async def body() -> AsyncIterator[bytes]:
        for _ in range(size // len(piece)):
            yield piece

    before = {pid: peak_kib(pid) for pid in proxies}
    url, headers = platform.url("bulk", "/upload")
    async with http.post(url, headers=headers, data=body()) as response:
        assert await response.text() == f"{size}\n"
    url, headers = platform.url("bulk", f"/download?bytes={size}")
    async with http.get(url, headers=headers) as response:
        assert sum([len(chunk) async for chunk in response.content.iter_any()]) == size
    # a client that stops reading, and clients that stop sending, hold what the buffers hold
    async with http.get(url, headers=headers):
        await asyncio.sleep(0.5)
    for pid, kib in before.items():
        assert peak_kib(pid) - kib < 8 * 1024


async def test_a_thousand_clients_that_do_nothing_and_slow_ones_disturb_nobody(platform, load) -> None:
    platform.apply(platform.manifest(name="calm", image="test.local/talk:1"))
    await platform.ready("calm")
    host, _, port = platform.running["ingress"].rpartition(":")
    writers = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(1000)]
    try:
        async with load.asking(platform.url("calm"), clients=2):
            for byte in b"GET / HTTP":
                for writer in writers[:100]:
                    writer.write(bytes([byte]))
                await asyncio.sleep(0.1)
    finally:
        for writer in writers:
            writer.transport.abort()
    assert load.answered > 50
    assert load.failures == []


@pytest.mark.timeout(90)
async def test_processes_that_stop_for_a_while_go_on_as_if_nothing_had_been(platform, load) -> None:
    platform.apply(platform.manifest(name="frozen", image="test.local/talk:1", annotations=MIN_SCALE_1))
    await platform.ready("frozen")
    (pod,) = platform.pods("frozen")
    async with load.asking(platform.url("frozen"), clients=4):
        for component in ("torpor.embedded.control", "torpor.embedded.node.runtime", "activator"):
            stopped = platform.pid_of(component)
            before = load.answered
            os.kill(stopped, signal.SIGSTOP)
            await asyncio.sleep(3)
            passed = load.answered - before
            os.kill(stopped, signal.SIGCONT)
            # requests do not need control, nor the runtime
            assert (passed > 50) == (component != "activator")
            await platform.eventually(lambda n=load.answered: load.answered > n + 50, 5, "answers")
            assert platform.pid_of(component) == stopped
    assert load.failures == []
    assert [one["metadata"]["uid"] for one in platform.pods("frozen")] == [pod["metadata"]["uid"]]


async def test_secrets_stay_private_in_a_state_directory_that_is_open(own_platform, tmp_path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    platform = own_platform()
    platform.apply({**MAP, "kind": "Secret", "data": {"password": "cGFzcw=="}})
    manifest = platform.manifest(name="app", image="test.local/talk:1", annotations=MIN_SCALE_1)
    pod = manifest["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "s", "secret": {"secretName": "later"}}]
    pod["containers"][0]["volumeMounts"] = [{"name": "s", "mountPath": "/secret", "readOnly": True}]
    platform.apply(manifest)
    await platform.ready("app")
    files = [path for path in platform.state.rglob("*") if path.is_file()]
    assert any(path.read_bytes() == b"pass" for path in files)
    for path in files:
        if path.stat().st_mode & 0o077 and b"pass" in path.read_bytes():
            closed = [one for one in path.parents if not one.stat().st_mode & 0o077]
            assert any(one.is_relative_to(platform.state) for one in closed), f"{path} can be read by others"
    (app,) = platform.apps("app")
    assert b"TORPOR_STATE_DIR" not in environment_of(app)  # nor anything else that `torpor up` was started with


async def test_a_closed_terminal_does_not_end_it_in_the_middle_and_sighup_does_in_order(own_platform) -> None:
    platform = own_platform()
    up = platform.process
    resource.prlimit(up.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))  # nothing it says can be written
    platform.apply(platform.manifest(name="app", image="test.local/talk:1", annotations=MIN_SCALE_1))
    await platform.ready("app")
    platform.torpor("delete", "ksvc", "app")
    assert up.poll() is None
    assert "app" not in (platform.state.parent / "up.log").read_text()
    up.send_signal(signal.SIGHUP)
    await asyncio.to_thread(up.wait, 20)
    assert up.returncode >= 0  # it was not killed by the signal
    assert platform.processes() == set()
