"""The API server as a process that dies: what was acknowledged is there, and nobody else may touch the state."""

import asyncio
import contextlib
import os
import resource
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
ROOT = Path(__file__).parents[2]


@dataclass
class Server:
    """A server process, and a session with it."""

    process: asyncio.subprocess.Process
    url: str
    state: Path

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        config = yaml.safe_load((self.state / "kubeconfig").read_text())
        token = config["users"][0]["user"]["token"]
        context = ssl.create_default_context(cafile=str(self.state / "credentials" / "ca.crt"))
        async with aiohttp.ClientSession(
            self.url,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(ssl=context),
            timeout=aiohttp.ClientTimeout(total=20),
        ) as made:
            yield made


@contextlib.asynccontextmanager
async def running(state: Path, *, file_bytes: int = 0) -> AsyncIterator[Server]:
    """A server over a state directory; killed at the end if it still lives.

    Args:
        file_bytes: no file of the process may grow beyond this, which is what a full disk looks like; 0: no limit.
    """

    def limit() -> None:
        if file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    process = await spawn(state, preexec_fn=limit)
    assert process.stdout is not None
    async with asyncio.timeout(20.0):
        url = (await process.stdout.readline()).decode().strip()
    assert url.startswith("https://"), url
    try:
        yield Server(process, url, state)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def spawn(state: Path, **options: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "torpor.embedded.apiserver",
        "--state-dir",
        str(state),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


def config(name: str, **data: str) -> bytes:
    return orjson.dumps({"metadata": {"name": name}, "data": data})


async def test_whatever_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """Writers run until the process is shot in the middle; each remembers the last thing it was told."""
    known: dict[str, tuple[str, str]] = {}  # name -> value and version acknowledged
    deleted: set[str] = set()
    versions: list[int] = []
    enough = 0
    written = asyncio.Event()

    async def writer(http: aiohttp.ClientSession, number: int) -> None:
        count = 0
        with contextlib.suppress(aiohttp.ClientError, OSError):
            while True:
                name, count = f"w{number}-{count % 7}", count + 1
                # not known any more until we are told: the write may or may not make it
                exists = known.pop(name, None) is not None
                deleted.discard(name)
                if exists and count % 5 == 0:
                    async with http.delete(f"{CONFIG_MAPS}/{name}") as answer:
                        await answer.read()
                        assert answer.status == 200
                    deleted.add(name)
                    continue
                method, path = ("PUT", f"{CONFIG_MAPS}/{name}") if exists else ("POST", CONFIG_MAPS)
                async with http.request(method, path, data=config(name, n=str(count))) as answer:
                    made = await answer.json()
                    assert answer.status in (200, 201), made
                known[name] = (str(count), made["metadata"]["resourceVersion"])
                versions.append(int(made["metadata"]["resourceVersion"]))
                if len(versions) >= enough:
                    written.set()

    for _ in range(3):
        async with running(tmp_path) as server, server.session() as http:
            known.clear()
            deleted.clear()
            enough = len(versions) + 30
            written.clear()
            async with http.delete(CONFIG_MAPS) as answer:
                assert answer.status == 200
            async with asyncio.TaskGroup() as group:
                for number in range(8):
                    group.create_task(writer(http, number))
                await asyncio.sleep(0.2)
                await written.wait()  # on a busy machine that takes its time
                server.kill()
        async with running(tmp_path) as server, server.session() as http:
            async with http.get(CONFIG_MAPS) as answer:
                stored = {one["metadata"]["name"]: one for one in (await answer.json())["items"]}
            lost = {name: told for name, told in known.items() if name not in stored}
            assert not lost
            for name, (value, version) in known.items():
                assert (stored[name]["data"]["n"], stored[name]["metadata"]["resourceVersion"]) == (value, version)
            assert not deleted & stored.keys()
            async with http.post(CONFIG_MAPS, data=config("later")) as answer:
                later = await answer.json()
            assert int(later["metadata"]["resourceVersion"]) > max(versions)


async def test_a_second_server_on_the_same_state_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.session() as http:
        second = await spawn(tmp_path)
        _, errors = await asyncio.wait_for(second.communicate(), 20.0)
        assert second.returncode == 1
        assert errors.decode().splitlines() == [
            f"error: the state directory {tmp_path} is in use by another process (pid {server.process.pid}); stop it, "
            "or choose another state directory"
        ]
        async with http.get(CONFIG_MAPS) as answer:  # the first did not notice
            assert answer.status == 200


async def test_a_full_disk_refuses_writes_and_keeps_serving(tmp_path: Path) -> None:
    async with running(tmp_path, file_bytes=1 << 20) as server, server.session() as http:
        stored: list[str] = []
        for index in range(200):
            async with http.post(CONFIG_MAPS, data=config(f"c{index}", x="y" * 20_000)) as answer:
                told = await answer.json()
                if answer.status != 201:
                    break
                stored.append(told["metadata"]["name"])
        assert answer.status in (500, 507), told
        assert "nothing was changed" in told["message"]
        assert 10 < len(stored) < 100
        async with http.get(CONFIG_MAPS) as answer:
            names = [one["metadata"]["name"] for one in (await answer.json())["items"]]
        assert set(stored) <= set(names)
        assert f"c{len(stored)}" not in names
        server.kill()
    async with running(tmp_path) as server, server.session() as http:  # room again
        async with http.get(CONFIG_MAPS) as answer:
            names = [one["metadata"]["name"] for one in (await answer.json())["items"]]
        assert set(stored) <= set(names)
        async with http.post(CONFIG_MAPS, data=config("later")) as answer:
            assert answer.status == 201


async def test_sigterm_ends_it_cleanly_and_credentials_outlive_it(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.session() as http:
        kubeconfig = server.state / "kubeconfig"
        assert kubeconfig.stat().st_mode & 0o777 == 0o600
        token = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"]
        async with http.get(CONFIG_MAPS, params={"watch": "1"}):  # an open watch does not hold it up
            server.process.terminate()
            assert await asyncio.wait_for(server.process.wait(), 5.0) == 0
    assert not (tmp_path / "objects.sqlite-wal").exists()  # merged
    async with running(tmp_path):
        assert yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"] == token
