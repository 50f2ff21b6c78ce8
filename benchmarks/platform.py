"""A platform to measure: `torpor up`, started as a user would, on a state directory of its own."""

import asyncio
import contextlib
import copy
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

from benchmarks.procfs import command, descendants
from kncore.api import keys, meta
from kncore.api.resources import CONFIG_MAPS, KSERVICES, PODS
from kncore.kube.client import Obj
from kncore.kube.cluster import HttpClient
from torpor.cli.api import Api
from torpor.embedded.seed import SYSTEM_NAMESPACE
from torpor.inspect import Inspector
from torpor.process import python_module
from torpor.state import NotRunning, Running, StateDir

__all__ = ["HELLO_IMAGE", "Platform", "Started", "hello", "platform", "start"]

ROOT = Path(__file__).parents[1]
IMAGES = (ROOT / "examples" / "images.yaml", ROOT / "benchmarks" / "images.yaml")
HELLO_IMAGE = "ghcr.io/myorg/hello-app:latest"
PORT = 18480  # the next free one is taken if somebody has it
WINDOWS = {"stable-window": "6s", "scale-to-zero-grace-period": "1s"}
"""As short as the API allows; they decide how soon a service sleeps, not how fast it wakes."""
COMPONENTS = {
    "torpor.cli.main": "supervisor",
    "torpor.embedded.control": "control",
    "-m activator": "activator",
    "torpor.embedded.node.runtime": "runtime",
}
"""What the command line of each process holds, and what we call it."""
READY_WITHIN = 60.0
SLEEP_WITHIN = 120.0


class NotMeasured(Exception):
    """The platform did not do what is to be measured."""


@dataclass
class Started:
    """A `torpor up` that is ready."""

    process: subprocess.Popen[bytes]
    state: StateDir
    running: Running
    took: float
    """Seconds from before the process was started until it said that it is ready."""

    @classmethod
    def begin(cls, state: Path) -> Self:
        """Start it and wait until it is ready.

        Raises:
            NotMeasured: it ended, or took longer than a minute.
        """
        state.mkdir(parents=True, exist_ok=True)
        home = state.parent / "home"
        home.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
        }
        images = [argument for path in IMAGES for argument in ("--images", str(path))]
        command = python_module("torpor.cli.main", "up", "--state-dir", str(state), "--port", str(PORT), *images)
        with (state.parent / "up.log").open("ab") as log:
            begun = time.perf_counter()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=home
            )
        found = StateDir(state)
        while process.poll() is None and time.perf_counter() - begun < READY_WITHIN:
            if (state / "run.json").exists():
                with contextlib.suppress(NotRunning):
                    running = found.running()
                    return cls(process, found, running, time.perf_counter() - begun)
            time.sleep(0.002)
        text = (state.parent / "up.log").read_text()[-2000:]
        logs = "".join(f"--- {path.name}\n{path.read_text()[-1500:]}\n" for path in sorted(state.glob("logs/*.log")))
        _stop(process)
        raise NotMeasured(f"torpor up did not become ready\n{text}\n{logs}")

    def stop(self) -> float:
        """Ctrl-C; returns the seconds it took to end."""
        begun = time.perf_counter()
        _stop(self.process)
        return time.perf_counter() - begun


def start(folder: Path) -> Started:
    """Start a platform whose state is in `folder/state`."""
    return Started.begin(folder / "state")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator["Platform"]:
    """A running platform with windows shortened; stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="torpor-bench-"))
    try:
        started = await asyncio.to_thread(start, folder)
        try:
            client = HttpClient.from_kubeconfig(started.running.kubeconfig)
            try:
                async with aiohttp.ClientSession() as session:
                    made = Platform(started, Api(client), Inspector(started.running, session))
                    await client.patch(CONFIG_MAPS, "config-autoscaler", {"data": WINDOWS}, SYSTEM_NAMESPACE)
                    yield made
            finally:
                await client.aclose()
        finally:
            await asyncio.to_thread(started.stop)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Platform:
    """A running platform and the questions a benchmark has for it."""

    def __init__(self, started: Started, api: Api, inspector: Inspector) -> None:
        self.started = started
        self.api = api
        self.inspector = inspector

    @property
    def ingress(self) -> tuple[str, int]:
        """Address of the public listener."""
        host, _, port = self.started.running.ingress.rpartition(":")
        return host, int(port)

    def components(self) -> dict[str, int]:
        """Process ids of the platform's own processes, by name."""
        root = self.started.process.pid
        found: dict[str, int] = {}
        for pid in (root, *descendants(root)):
            line = command(pid)
            for words, name in COMPONENTS.items():
                if words in line:
                    found.setdefault(name, pid)  # a forked queue-proxy has the runtime's command line
        return found

    def host(self, service: str) -> str:
        """The name a service answers to."""
        return f"{service}.default.{self.started.running.domain}"

    async def apply(self, *services: Obj) -> None:
        """Create services and wait until all are Ready."""
        for service in services:
            await self.api.apply(service, "default")
        names = {meta.name(service) for service in services}

        async def check() -> bool:
            found = (await self.api.client.list(KSERVICES, "default")).items
            return names <= {meta.name(service) for service in found if meta.is_ready(service)}

        await self._until(check, READY_WITHIN, f"{', '.join(sorted(names))} to be Ready")

    async def remove(self, *services: str) -> None:
        """Delete services and wait until their pods are being stopped."""
        for service in services:
            await self.api.client.delete(KSERVICES, service, "default")

        async def check() -> bool:
            found = [pod for service in services for pod in await self.pods(service)]
            return all(map(meta.is_deleting, found))

        await self._until(check, READY_WITHIN, f"{', '.join(services)} to be removed")

    async def pods(self, service: str = "") -> list[Obj]:
        """Pods of a service, or of all; those being stopped included."""
        labels = f"{keys.SERVICE}={service}" if service else keys.SERVICE
        return (await self.api.client.list(PODS, "default", labels=labels)).items

    async def asleep(self, service: str = "", *, drained: bool = False) -> float:
        """Wait until a service, or all, have no pod; returns the seconds it took.

        Args:
            drained: wait also for pods that drain; they get no requests and only wait for their time to end.
        """

        async def check() -> bool:
            left = await self.pods(service)
            return not left or (not drained and all(map(meta.is_deleting, left)))

        begun = time.monotonic()
        await self._until(check, SLEEP_WITHIN, f"{service or 'all services'} to sleep")
        await asyncio.sleep(1.0)  # let the controllers write their last status
        return time.monotonic() - begun

    async def _until(self, check: Callable[[], Awaitable[bool]], within: float, what: str) -> None:
        deadline = time.monotonic() + within
        while not await check():
            if time.monotonic() > deadline:
                raise NotMeasured(f"waited {within:.0f} s for {what}")
            await asyncio.sleep(0.1)


def hello(name: str = "hello", *, image: str = HELLO_IMAGE, annotations: Mapping[str, str] | None = None) -> Obj:
    """The guide's hello service under a name and with further annotations."""
    text = (ROOT / "examples" / "hello" / "hello-service.yaml").read_text()
    service: dict[str, Any] = copy.deepcopy(yaml.safe_load(text))
    service["metadata"]["name"] = name
    template = service["spec"]["template"]
    template["metadata"]["annotations"].update(annotations or {})
    container = template["spec"]["containers"][0]
    container["image"] = image
    if image != HELLO_IMAGE:
        container.pop("readinessProbe")
    return service
