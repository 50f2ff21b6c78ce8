"""The node agent's decisions, with a runtime that only pretends, on a fake clock."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kncore.api.resources import PODS
from kncore.kube.errors import InternalError, Unavailable
from kncore.kube.informers import Informers
from kncore.testing.kube import MemoryClient
from torpor.embedded.images import Images
from torpor.embedded.node import container as container_module
from torpor.embedded.node.host import Network
from torpor.embedded.node.kubelet import Kubelet
from torpor.embedded.node.protocol import Exit, Run, RuntimeRefused
from torpor.embedded.node.runtime_client import Attached, Running, RuntimeLost
from torpor.embedded.node.settings import Settings

pytestmark = pytest.mark.looptime


class LoopClock:
    """Time of the event loop, which the test's clock turns."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return 1_700_000_000.0 + asyncio.get_running_loop().time()


class FakeRuntime:
    """Starts nothing, notes everything; containers end when the test says so."""

    name = "fake runtime"

    def __init__(self) -> None:
        self.on_attach: Callable[[Attached], None] = lambda _: None
        self.on_exit: Callable[[str, Exit], None] = lambda _, __: None
        self.boot = "boot-1"
        self.alive: dict[str, Run] = {}
        self.starts: list[tuple[float, Run]] = []
        self.signals: list[tuple[float, str, int]] = []
        self.removed: list[str] = []
        self.errors: list[RuntimeRefused] = []
        self.stubborn = False

    def attach(self, boot: str = "boot-1") -> None:
        self.boot = boot
        self.on_attach(Attached(boot, tuple(self.describe(run) for run in self.alive.values())))

    def describe(self, run: Run) -> Running:
        return Running(
            container=run.container, pod=run.pod, name=run.name, pid=1, started_at=now(), log=run.log, meta=run.meta
        )

    async def run(self) -> None:
        self.attach()
        await asyncio.get_running_loop().create_future()

    async def hello(self) -> dict[str, Any]:
        return {"limits": ""}

    async def start(self, run: Run) -> Running:
        self.starts.append((asyncio.get_running_loop().time(), run))
        if self.errors:
            raise self.errors.pop(0)
        self.alive[run.container] = run
        return self.describe(run)

    async def signal(self, container: str, number: int) -> bool:
        run = self.alive.get(container)
        if run is None:
            raise RuntimeRefused("gone", "NotFound")
        self.signals.append((round(asyncio.get_running_loop().time(), 3), run.name, number))
        if number == 9 or not self.stubborn:
            self.end(run.name, 128 + number, number)
        return True

    async def remove(self, container: str) -> None:
        self.removed.append(container)

    async def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        stdio: Any,
        env: Any = None,
        tty: bool = False,
    ) -> Any:
        raise RuntimeRefused("cannot", "StartError")

    def end(self, name: str, code: int, number: int = 0) -> None:
        container = next(one for one, run in self.alive.items() if run.name == name)
        del self.alive[container]
        self.on_exit(container, Exit(code=code, signal=number, at=now()))


def now() -> float:
    return LoopClock().wall()


class World:
    def __init__(self, directory: Path) -> None:
        self.client = MemoryClient()
        self.runtime = FakeRuntime()
        self.events: list[tuple[str, str]] = []
        self.announced: list[str] = []
        (directory / "app").mkdir()
        (directory / "images.yaml").write_text("images: [{match: app, dir: app, command: [./run]}]", encoding="utf-8")
        self.informers = Informers(self.client)
        self.kubelet = Kubelet(
            self.client,
            self.informers,
            self.runtime,  # type: ignore[arg-type]
            Images(directory / "images", [directory / "images.yaml"]),
            Settings(network=Network(2), directory=directory / "node", cpu_milli=1000, memory_bytes=1 << 30),
            record=lambda obj, type_, reason, message: self.events.append((reason, message)),
            announce=lambda pod, address: self.announced.append(address),
            clock=LoopClock(),
        )

    async def create(self, name: str = "p", *, status: Any = None, containers: Any = None, **spec: Any) -> None:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "torpor", "containers": containers or [{"name": "c", "image": "app"}], **spec},
        }
        self.client.seed(pod if status is None else {**pod, "status": status})
        await self.settled()

    async def settled(self, seconds: float = 0.05) -> None:
        await asyncio.sleep(seconds)

    def status(self, name: str = "p") -> Any:
        return (self.client.peek(PODS, name, "default") or {}).get("status") or {}


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(world.informers.run()), asyncio.ensure_future(world.kubelet.run())]
    try:
        await world.settled()
        yield
    finally:
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_address_is_announced_and_written_before_anything_else(world: World) -> None:
    async with running(world):
        await world.create()
        assert world.announced == ["127.2.128.1"]
        first = next(call for call in world.client.calls if call.verb == "patch" and call.resource is PODS)
        assert first.body["status"]["podIP"] == "127.2.128.1"
        ((when, run),) = world.runtime.starts
        assert run.argv == ("./run",)
        assert when == pytest.approx(0.05, abs=0.01)


async def test_restarts_wait_ten_seconds_then_twenty(world: World) -> None:
    async with running(world):
        await world.create()
        for _ in range(3):
            world.runtime.end("c", 1)
            await world.settled(25)
        times = [when for when, _ in world.runtime.starts]
        waits = [round(after - before) for before, after in itertools.pairwise(times)]
        # Started again at once; after running for 25 s and a wait of 10 s; after running for 15 s and a wait of 20 s.
        assert waits == [0, 35, 35]
        assert world.status()["containerStatuses"][0]["restartCount"] == 3
        assert len(world.runtime.removed) == 3
        assert any(reason == "BackOff" for reason, _ in world.events)


async def test_grace_period_ends_in_a_kill(world: World) -> None:
    world.runtime.stubborn = True
    async with running(world):
        await world.create()
        began = asyncio.get_running_loop().time()
        await world.client.delete(PODS, "p", "default", grace=7)
        await world.settled(10)
        sent = [(round(when - began), number) for when, _, number in world.runtime.signals]
        assert sent == [(0, 15), (7, 9)]
        assert world.client.peek(PODS, "p", "default") is None
        assert world.kubelet.statistics().pods == 0
        assert world.kubelet.statistics().addresses == 0


async def test_pod_removed_by_force_is_killed_at_once(world: World) -> None:
    world.runtime.stubborn = True
    async with running(world):
        await world.create()
        await world.client.delete(PODS, "p", "default", grace=0)
        await world.settled(0.1)
        assert world.runtime.signals[-1][2] == 9
        assert not world.runtime.alive


async def test_start_that_the_runtime_lost_is_repeated_without_counting(world: World) -> None:
    world.runtime.errors = [RuntimeLost("gone"), RuntimeRefused("is there", "AlreadyExists")]
    async with running(world):
        await world.create()
        await world.settled(2)
        assert len({run.container for _, run in world.runtime.starts}) == 1
        status = world.status()["containerStatuses"][0]
        assert (status["restartCount"], list(status["state"])) == (0, ["running"])


async def test_program_that_cannot_start_is_backed_off_like_a_crash(world: World) -> None:
    world.runtime.errors = [RuntimeRefused("no such file", "StartError")] * 3
    async with running(world):
        await world.create()
        await world.settled(1)
        status = world.status()["containerStatuses"][0]
        assert status["lastState"]["terminated"]["exitCode"] == 128
        assert status["lastState"]["terminated"]["message"] == "no such file"
        assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert len(world.runtime.starts) == 2


async def test_new_runtime_means_all_containers_are_gone(world: World) -> None:
    async with running(world):
        await world.create()
        world.runtime.attach()  # the connection broke and came back: nothing happened
        await world.settled(1)
        assert len(world.runtime.starts) == 1
        world.runtime.alive.clear()
        world.runtime.attach("boot-2")
        await world.settled(1)
        assert len(world.runtime.starts) == 2
        last = world.status()["containerStatuses"][0]["lastState"]["terminated"]
        assert last["reason"] == "ContainerStatusUnknown"


async def test_api_server_that_is_away_holds_up_no_start(world: World) -> None:
    async with running(world):
        world.client.fail_next(Unavailable("away"), verb="patch", resource=PODS, times=5)
        await world.create()
        assert len(world.runtime.starts) == 1
        await world.settled(30)
        assert world.status()["phase"] == "Running"
        world.client.fail_next(InternalError("boom"), verb="delete", resource=PODS, times=2)
        await world.client.patch(PODS, "p", {"metadata": {"annotations": {"x": "y"}}}, "default")
        pod = world.client.peek(PODS, "p", "default")
        assert pod is not None
        world.client.seed({**pod, "metadata": {**pod["metadata"], "deletionTimestamp": "2023-11-14T22:13:20Z"}})
        await world.settled(60)
        assert world.client.peek(PODS, "p", "default") is None


async def test_platform_that_was_stopped_starts_its_pods_without_calling_them_broken(world: World) -> None:
    terminated = {"exitCode": 1, "reason": "Error", "finishedAt": "2023-11-14T22:00:00Z", "message": "long ago"}
    before = {
        "phase": "Running",
        "podIP": "127.2.128.40",
        "containerStatuses": [
            {
                "name": "c",
                "restartCount": 2,
                "ready": True,
                "state": {"running": {"startedAt": "2023-11-14T22:00:00Z"}},
                "lastState": {"terminated": terminated},
            }
        ],
    }
    await world.create(status=before)
    done = {"name": "c", "restartCount": 0, "state": {"terminated": {**terminated, "exitCode": 0}}, "lastState": {}}
    await world.create("done", status={"phase": "Succeeded", "containerStatuses": [done]}, restartPolicy="Never")
    async with running(world):
        await world.settled(1)
        ((_, run),) = world.runtime.starts
        assert run.meta["restarts"] == 3
        status = world.status()["containerStatuses"][0]
        assert status["restartCount"] == 3
        assert status["lastState"]["terminated"]["message"] == "long ago"
        assert world.status()["podIP"] == "127.2.128.40"
        assert world.status("done")["phase"] == "Succeeded"


async def test_bug_in_one_pod_takes_no_other_along(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = container_module.make_environment

    def buggy(container: Any, pod: Any, *rest: Any) -> Any:
        if pod["metadata"]["name"] == "bad":
            raise ZeroDivisionError("a bug")
        return honest(container, pod, *rest)

    monkeypatch.setattr(container_module, "make_environment", buggy)
    async with running(world):
        await world.create()
        await world.create("bad")
        await world.settled(1)
        assert world.kubelet.statistics().failures == 1
        assert [run.meta["pod"] for _, run in world.runtime.starts] == ["p"]
        monkeypatch.setattr(container_module, "make_environment", honest)
        await world.settled(10)
        assert world.status("bad")["phase"] == "Running"
        world.runtime.end("c", 0)  # p is still looked after
        await world.settled(1)
        assert len(world.runtime.starts) == 3
    assert "pod worker failed" in caplog.text


async def test_statuses_are_collected_but_readiness_is_not_held_up(world: World) -> None:
    async with running(world):
        await world.create()
        world.client.calls.clear()
        for _ in range(5):
            world.runtime.end("c", 1)
            await world.settled(0.001)
            if not world.runtime.alive:
                break
        await world.settled(1)
        writes = [call for call in world.client.calls if call.subresource == "status"]
        assert len(writes) <= 4


async def test_port_is_moved_everywhere_for_a_revisions_pod(world: World) -> None:
    probe = [{"httpGet": {"port": 8080, "path": "/h"}}, {"tcpSocket": {"port": 9999}}, {"grpc": {"port": 8080}}]
    containers = [
        {
            "name": "user-container",
            "image": "app",
            "command": ["serve", "$(PORT)"],
            "ports": [{"name": "user-port", "containerPort": 8080}],
            "env": [{"name": "PORT", "value": "8080"}],
        },
        {
            "name": "queue-proxy",
            "image": "q",
            "env": [
                {"name": "USER_PORT", "value": "8080"},
                {"name": "SERVING_READINESS_PROBE", "value": json.dumps(probe)},
            ],
        },
    ]
    async with running(world):
        await world.create(containers=containers)
        user, proxy = sorted((run for _, run in world.runtime.starts), key=lambda run: run.kind)
        port = user.env["PORT"]
        assert port != "8080"
        assert user.argv == ("serve", port)
        assert proxy.kind == "queue-proxy"
        assert proxy.env["USER_PORT"] == port
        assert json.loads(proxy.env["SERVING_READINESS_PROBE"]) == [
            {"httpGet": {"port": int(port), "path": "/h"}},
            {"tcpSocket": {"port": 9999}},
            {"grpc": {"port": int(port)}},
        ]
