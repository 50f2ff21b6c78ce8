"""`torpor demo`: the guide's story, on a platform of its own, in under a minute.

A service becomes Ready, falls asleep, wakes on a request, scales with load, falls asleep again; then a canary takes
exactly a tenth of the traffic. The manifests are the guide's, unchanged. Windows are shortened in the ConfigMap, as
an operator would do it, and the demo says so. Everything it starts is stopped and its state removed, whatever
happens.
"""

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from kncore.api import keys, meta
from kncore.api.resources import CONFIG_MAPS, KSERVICES, PODS
from kncore.errors import KnError
from kncore.kube.client import Obj
from kncore.kube.cluster import HttpClient
from torpor.cli.api import Api
from torpor.cli.manifests import read
from torpor.embedded.seed import SYSTEM_NAMESPACE
from torpor.inspect import Inspector
from torpor.process import python_module
from torpor.state import NotRunning, Running, StateDir
from torpor.wakes import PARTS, ColdStart, compose, latest

__all__ = ["demo"]

EXAMPLES = Path(__file__).parents[1] / "examples"
WINDOWS = {"stable-window": "6s", "scale-to-zero-grace-period": "1s"}
STEP_TIMEOUT = 60.0  # seconds any one step may take
PARTS_TIMEOUT = 8.0  # seconds to wait for everybody's times of a wake-up
CLIENTS = 150  # concurrent clients under load: with a target of 100 and 70 % utilization that is three pods
WORK_MS = 500
LOAD_SECONDS = 8.0


class DemoFailed(KnError):
    """A step of the demo did not come about."""


async def demo(port: int, out: Callable[[str], None]) -> int:
    """Run the demo, printing its timeline.

    Raises:
        DemoFailed: a step took longer than `STEP_TIMEOUT`, or counted wrong.
    """
    if not (EXAMPLES / "images.yaml").is_file():
        raise DemoFailed(f"{EXAMPLES} is missing: the demo runs from a checkout of the sources")
    folder = Path(tempfile.mkdtemp(prefix="torpor-demo-"))
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *python_module("torpor.cli.main", "up", "--state-dir", str(folder / "state"), "--port", str(port)),
        *("--images", str(EXAMPLES / "images.yaml")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    told: list[str] = []
    try:
        async with asyncio.TaskGroup() as group:
            listener = group.create_task(_listen(process, told), name="messages of torpor up")
            running = await _platform(folder / "state", process, told)
            await _story(running, started, out)
            listener.cancel()
    except* DemoFailed as failed:
        raise failed.exceptions[0] from None
    finally:
        await _stop(process)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _listen(process: asyncio.subprocess.Process, told: list[str]) -> None:
    """Keep what `torpor up` says, for the message if it fails."""
    assert process.stderr is not None
    async for line in process.stderr:
        told.append(line.decode(errors="replace").rstrip())
        del told[:-20]


async def _platform(state: Path, process: asyncio.subprocess.Process, told: list[str]) -> Running:
    deadline = time.monotonic() + STEP_TIMEOUT
    while process.returncode is None and time.monotonic() < deadline:
        try:
            return StateDir(state).running()
        except NotRunning:
            await asyncio.sleep(0.02)
    raise DemoFailed("torpor up did not become ready:\n" + "\n".join(told))


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(30):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _story(running: Running, started: float, out: Callable[[str], None]) -> None:
    client = HttpClient.from_kubeconfig(running.kubeconfig)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        try:
            await Story(Api(client), session, running, started, out).tell()
        finally:
            await client.aclose()


class Story:
    """The steps, each printing one line of the timeline."""

    def __init__(
        self, api: Api, session: aiohttp.ClientSession, running: Running, started: float, out: Callable[[str], None]
    ) -> None:
        self._api = api
        self._session = session
        self._running = running
        self._started = started
        self._out = out

    def _note(self, text: str) -> None:
        self._out(f"{time.monotonic() - self._started:7.2f} s  {text}")
        sys.stdout.flush()

    async def tell(self) -> None:
        """The whole story."""
        self._note(f"platform ready ({self._running.ready_seconds:.2f} s after the command)")
        await self._api.client.patch(CONFIG_MAPS, "config-autoscaler", {"data": WINDOWS}, SYSTEM_NAMESPACE)
        shortened = ", ".join(f"{key}: {value}" for key, value in WINDOWS.items())
        self._note(f"windows shortened for the demo ({shortened}); the manifests are the guide's")
        await self._sleep_and_wake()
        await self._load()
        await self._canary()
        self._note("done")

    async def _sleep_and_wake(self) -> None:
        await self._apply("hello/hello-service.yaml")
        service = await self._ready("hello")
        self._note(f"service hello Ready at {meta.at(service, 'status', 'url')}")
        await self._pods_become("hello", 0)
        self._note("asleep: 0 pods")
        begun = time.monotonic()
        status, body = await self._get("hello")
        took = time.monotonic() - begun
        if status != 200:
            raise DemoFailed(f"the first request to a sleeping hello was answered {status}: {body}")
        self._note(f'first request woke it: "{body.strip()}" after {took * 1000:.0f} ms')
        self._parts(await self._cold_start("hello-00001"))

    def _parts(self, cold: ColdStart | None) -> None:
        if cold is None:
            raise DemoFailed("the activator kept no record of the wake-up")
        names = {
            "decide": "scale decision",
            "scale": "scale written",
            "pod": "pod start",
            "app": "app start",
            "probe": "probe",
            "start": "app start, probe",
            "forward": "forward",
        }
        for part in PARTS:
            if part in cold.parts:
                self._out(f"{'':12}{names[part]:<16}{cold.parts[part] * 1000:7.1f} ms")
        self._out(f"{'':12}{'overhead':<16}{cold.overhead * 1000:7.1f} ms beyond the app's own start")

    async def _cold_start(self, revision: str) -> ColdStart | None:
        """The wake-up with all its parts; the node's times are a little behind, they travel with the pod's status."""
        inspector = Inspector(self._running, self._session)
        deadline = time.monotonic() + PARTS_TIMEOUT
        while True:
            cold = None
            wake = latest(await inspector.wakes("default", revision), revision)
            if wake is not None:
                pods = (await self._api.client.list(PODS, "default", labels=f"{keys.REVISION}={revision}")).items
                cold = compose(wake, await inspector.decisions("default", revision), pods)
            if (cold is not None and "app" in cold.parts) or time.monotonic() > deadline:
                return cold
            await asyncio.sleep(0.05)

    async def _load(self) -> None:
        failures: Counter[str] = Counter()
        answered = 0
        most = 1

        async def client() -> None:
            nonlocal answered
            while True:
                status, _ = await self._get("hello", f"/?sleep={WORK_MS}")
                if status == 200:
                    answered += 1
                else:
                    failures[str(status)] += 1

        self._note(f"load: {CLIENTS} clients, requests of {WORK_MS} ms")
        clients = [asyncio.create_task(client(), name=f"client {number}") for number in range(CLIENTS)]
        try:
            end = time.monotonic() + LOAD_SECONDS
            while time.monotonic() < end:
                pods = len(await self._pods("hello"))
                if pods > most:
                    most = pods
                    self._note(f"scaled 1 -> {pods} pods")
                await asyncio.sleep(0.1)
        finally:
            for task in clients:
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
        if most < 2 or failures:
            raise DemoFailed(f"load ended with {most} pods and failures {dict(failures)}")
        self._note(f"load over: {answered} requests answered, none failed")
        await self._pods_become("hello", 0)
        self._note("asleep again: 0 pods")

    async def _canary(self) -> None:
        await self._apply("canary/web-app-v1.yaml")
        await self._ready("web-app")
        await self._apply("canary/canary-service.yaml")
        await self._ready("web-app")
        seen: Counter[str] = Counter()
        for _ in range(1000):
            status, body = await self._get("web-app")
            if status != 200:
                raise DemoFailed(f"a request during the canary was answered {status}")
            seen[body.strip()] += 1
        counted = ", ".join(f"{count} by {version}" for version, count in sorted(seen.items()))
        self._note(f"canary 90/10: of 1000 requests {counted}")
        status, body = await self._get("canary-web-app")
        self._note(f"its own URL answers with {body.strip()}")

    async def _apply(self, example: str) -> None:
        for _, obj in read([str(EXAMPLES / example)]):
            await self._api.apply(obj, "default")

    async def _ready(self, name: str) -> Obj:
        async def check() -> Obj | None:
            service = await self._api.client.get(KSERVICES, name, "default")
            return service if meta.is_ready(service) else None

        service: Obj = await self._until(check, f"service {name} to be Ready")
        return service

    async def _pods(self, service: str) -> list[Obj]:
        pods = (await self._api.client.list(PODS, "default", labels=f"{keys.SERVICE}={service}")).items
        return [pod for pod in pods if not meta.is_deleting(pod)]

    async def _pods_become(self, service: str, count: int) -> None:
        async def check() -> bool:
            return len(await self._pods(service)) == count

        await self._until(check, f"{service} to have {count} pods")

    async def _until(self, check: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + STEP_TIMEOUT
        while time.monotonic() < deadline:
            if found := await check():
                return found
            await asyncio.sleep(0.1)
        raise DemoFailed(f"waited {STEP_TIMEOUT:.0f} s for {what}")

    async def _get(self, service: str, path: str = "/") -> tuple[int, str]:
        headers = {"Host": f"{service}.default.{self._running.domain}"}
        async with self._session.get(f"http://{self._running.ingress}{path}", headers=headers) as response:
            return response.status, await response.text()
