"""Whole platforms for tests: `torpor up`, started as a user would, on its own state directory; fixtures and clients.

A folder of tests that wants them imports the fixtures in its conftest.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

from tests import kubectl as programs

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

FAST_WINDOWS = {"stable-window": "6s", "scale-to-zero-grace-period": "1s"}


@dataclass
class Platform:
    """One running `torpor up`."""

    state: Path
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    running: dict[str, Any] = field(default_factory=dict)
    examples: Path = EXAMPLES

    @property
    def ingress(self) -> str:
        return f"http://{self.running['ingress']}"

    @property
    def inner(self) -> str:
        """The activator's listener for pods, which they use as their HTTP proxy."""
        return "http://" + self.running["autoscaler"].replace(".2:8080", ".3:8012")

    def url(self, service: str, path: str = "/") -> tuple[str, dict[str, str]]:
        """Where a service answers, and the headers that name it (Python does not resolve *.localhost)."""
        return self.ingress + path, {"Host": f"{service}.default.{self.running['domain']}"}

    def torpor(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """Run a `torpor` command against this platform; returns its stdout."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "torpor.cli.main", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            input=stdin,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"torpor {' '.join(arguments)} exited {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """Run kubectl against this platform; returns its stdout. The fixture `kubectl` says which version."""
        done = subprocess.run(
            ["kubectl", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            input=stdin,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)} exited {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def get(self, kind: str, name: str = "", **options: str) -> Any:
        """An object, or the items of a list."""
        selector = [f"--{key}={value}" for key, value in options.items()]
        found = json.loads(self.torpor("get", kind, *([name] if name else []), "-o", "json", *selector))
        return found if name else found["items"]

    def manifest(self, **changes: Any) -> dict[str, Any]:
        """A Service manifest: name, image, annotations, env, container (more of its fields), spec (RevisionSpec's)."""
        return {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": changes["name"], "namespace": "default"},
            "spec": {
                "template": {
                    "metadata": {"annotations": changes.get("annotations", {})},
                    "spec": {
                        "containers": [
                            {
                                "image": changes["image"],
                                "env": [{"name": k, "value": v} for k, v in changes.get("env", {}).items()],
                                **changes.get("container", {}),
                            }
                        ],
                        **changes.get("spec", {}),
                    },
                }
            },
        }

    def apply(self, manifest: dict[str, Any]) -> None:
        """Apply a manifest."""
        self.torpor("apply", "-f", "-", stdin=json.dumps(manifest))

    def pid_of(self, module: str) -> int:
        """Pid of the child of `torpor up` that runs a module."""
        for pid in children(self.process.pid):
            if module in command_line(pid):
                return pid
        raise AssertionError(f"no {module} process under {self.process.pid}")

    def processes(self) -> set[int]:
        """Every live process that belongs to this platform: its environment names the state directory."""
        return {pid for pid in every_process() if str(self.state).encode() in environment_of(pid)}

    def containers(self) -> dict[str, int]:
        """Processes of the platform's pods, by what they are: `queue-proxy`, `app`."""
        found = {}
        for pid in children(self.pid_of("torpor.embedded.node.runtime")):
            found["queue-proxy" if name_of(pid) == "queue-proxy" else "app"] = pid
        return found

    def apps(self, service: str) -> list[int]:
        """Pids of a service's app processes."""
        mark = f"K_SERVICE={service}".encode()
        pods = children(self.pid_of("torpor.embedded.node.runtime"))
        return [pid for pid in pods if mark in environment_of(pid).split(b"\0")]

    def queue_proxies(self) -> list[int]:
        """Pids of all queue-proxies."""
        return [pid for pid in children(self.pid_of("torpor.embedded.node.runtime")) if name_of(pid) == "queue-proxy"]

    async def eventually(self, check: Callable[[], Any], within: float, what: str) -> Any:
        """Wait until `check()` (sync or async) returns something true; fails after `within` seconds with the last
        value.
        """
        deadline = time.monotonic() + within
        last: Any = None
        while time.monotonic() < deadline:
            result = await asyncio.to_thread(check) if not asyncio.iscoroutinefunction(check) else await check()
            last = result
            if last:
                return last
            await asyncio.sleep(0.1)
        raise AssertionError(f"{what} did not happen within {within} s; last seen: {last!r}")

    async def ready(self, service: str, within: float = 30) -> None:
        """Wait for a Service to be Ready for its current generation."""

        def is_ready() -> bool:
            found = self.get("ksvc", service)
            status = found.get("status", {})
            ready = [c for c in status.get("conditions", []) if c["type"] == "Ready"]
            return bool(
                ready
                and ready[0]["status"] == "True"
                and status.get("observedGeneration") == found["metadata"]["generation"]
            )

        await self.eventually(is_ready, within, f"Service {service} Ready")

    def pods(self, service: str) -> list[dict[str, Any]]:
        """Pods of a service that are not being deleted."""
        pods = self.get("pods", selector=f"serving.knative.dev/service={service}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    async def asleep(self, service: str, within: float = 60) -> None:
        """Wait until a service has no pods, those being stopped aside."""
        await self.eventually(lambda: not self.pods(service), within, f"Service {service} asleep")


class Load:
    """Clients that ask a service without a pause, each on its own connection, and note what went wrong.

    `asking(url, headers)` as a context asks `method` in the background until it is left.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self.answered = 0
        self.failures: list[str] = []
        self.bodies: Counter[str] = Counter()
        """First words of the answers: the revisions that gave them."""

    @asynccontextmanager
    async def asking(
        self, at: tuple[str, dict[str, str]], clients: int = 8, method: str = "GET"
    ) -> AsyncIterator[Self]:
        tasks = [asyncio.create_task(self._client(*at, method)) for _ in range(clients)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _client(self, url: str, headers: dict[str, str], method: str) -> None:
        while True:
            try:
                async with self._http.request(method, url, headers=headers) as response:
                    body = await response.text()
            except (aiohttp.ClientError, TimeoutError) as exc:
                self.failures.append(repr(exc))
            else:
                if response.status == 200:
                    self.answered += 1
                    self.bodies[body.partition(" ")[0]] += 1
                else:
                    self.failures.append(f"{response.status} {body}")
            await asyncio.sleep(0.002)  # the machine has other things to do than to run clients


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def every_process() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def start(state: Path, *arguments: str) -> Platform:
    """Start `torpor up` on a state directory and wait for it to be ready."""
    home = state.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "TORPOR_STATE_DIR": str(state),
        "KUBECONFIG": str(state / "kubeconfig"),
        # 1.29 and 1.30 speak WebSocket only when asked; newer ones by themselves
        "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "true",
        "PYTHONPATH": str(ROOT),
    }
    log = (state.parent / "up.log").open("ab")
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "torpor.cli.main", "up"),
            *("--state-dir", str(state), "--images", str(EXAMPLES / "images.yaml")),
            *("--images", str(ROOT / "tests" / "data" / "apps" / "images.yaml"), "--port", "18080"),
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    log.close()
    platform = Platform(state, process, environment)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            platform.running = json.loads((state / "run.json").read_bytes())
            if platform.running["pid"] == process.pid:  # one that was killed leaves its own behind
                return platform
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    logs = "".join(f"--- {path.name}\n{path.read_text()[-2000:]}\n" for path in sorted((state / "logs").glob("*.log")))
    text = (state.parent / "up.log").read_text()
    stop(platform)
    raise AssertionError(f"torpor up did not become ready\n{text}\n{logs}")


def stop(platform: Platform) -> None:
    """Ctrl-C, and insist if that does not end it."""
    if platform.process.poll() is None:
        platform.process.send_signal(signal.SIGINT)
        try:
            platform.process.wait(40)
        except subprocess.TimeoutExpired:
            platform.process.kill()
            platform.process.wait(5)


@pytest.fixture(scope="session")
def shared_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One platform for all tests that leave it as they found it."""
    platform = start(tmp_path_factory.mktemp("platform") / "state")
    try:
        platform.torpor(
            "patch", "configmap/config-autoscaler", "-n", "knative-serving", "-p", json.dumps({"data": FAST_WINDOWS})
        )
        yield platform
    finally:
        stop(platform)


@pytest.fixture
def platform(shared_platform: Platform) -> Iterator[Platform]:
    """The shared platform, without services before and after each test."""
    yield shared_platform
    for service in shared_platform.get("ksvc"):
        shared_platform.torpor("delete", "ksvc", service["metadata"]["name"])


@pytest.fixture(params=programs.parameters())
def kubectl(request: pytest.FixtureRequest, platform: Platform) -> Iterator[Callable[..., str]]:
    """`platform.kubectl`, and `kubectl` on the platform's PATH, in one of the versions."""
    program = Path(platform.environment["HOME"]) / "bin" / "kubectl"
    program.parent.mkdir(exist_ok=True)
    program.symlink_to(programs.binary(request.param))
    yield platform.kubectl
    program.unlink()


@pytest.fixture
def own_platform(tmp_path: Path) -> Iterator[Callable[..., Platform]]:
    """A function that starts a platform for one test alone; all are stopped after it."""
    started: list[Platform] = []

    def begin(*arguments: str) -> Platform:
        started.append(start(tmp_path / "state", *arguments))
        return started[-1]

    yield begin
    for platform in started:
        stop(platform)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client we did not write, with as many connections as a test wants."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


@pytest.fixture
def load(http: aiohttp.ClientSession) -> Load:
    """Clients that note every failure."""
    return Load(http)
