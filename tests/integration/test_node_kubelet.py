"""The node agent with a real runtime and real processes, against an API server in memory."""

import asyncio
import base64
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from kncore.api.resources import CONFIG_MAPS, NODES, PODS
from kncore.kube.informers import Informers
from kncore.testing.kube import MemoryClient
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.pods import LogOptions
from torpor.embedded.images import Images
from torpor.embedded.node.access import NodeAccess
from torpor.embedded.node.host import Ports, claim_network
from torpor.embedded.node.kubelet import Kubelet
from torpor.embedded.node.runtime_client import RuntimeClient
from torpor.embedded.node.settings import Settings

ROOT = Path(__file__).parents[2]

FAKE_QUEUE_PROXY = """
import http.server, json, signal, sys, threading, time, urllib.request

def run(environ):
    port = int(environ["QUEUE_SERVING_PORT"])
    user = int(environ["USER_PORT"])
    drained = threading.Event()
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/env":
                return self.answer(200, json.dumps(dict(environ)).encode())
            if self.path == "/wait-for-drain":
                drained.wait(0.6)
                return self.answer(200, b"")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{user}/", timeout=1) as answer:
                    self.answer(200, answer.read())
            except OSError as exc:
                self.answer(503, str(exc).encode())
        def answer(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *args):
            pass
    admin = http.server.ThreadingHTTPServer((environ["SERVING_POD_IP"], 8022), Handler)
    threading.Thread(target=admin.serve_forever, daemon=True).start()
    server = http.server.ThreadingHTTPServer((environ["SERVING_POD_IP"], port), Handler)
    def drain():
        time.sleep(0.6)
        server.shutdown()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=drain).start())
    server.serve_forever()
    return 0
"""

APP = """
import http.server, os, sys, time
time.sleep(float(os.environ.get("SLOW", "0")))
class Handler(http.server.BaseHTTPRequestHandler):
    sick = False
    def do_GET(self):
        if self.path == "/alive" and os.path.exists("infect"):  # this process, and none that follows it
            os.remove("infect")
            Handler.sick = True
        self.send_response(500 if self.path == "/alive" and self.sick else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *args):
        print(self.path, flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
"""

GRPC_APP = """
import concurrent.futures, os, time
import grpc
time.sleep(float(os.environ.get("SLOW", "0")))
def check(request, context):
    return b"\\x08\\x01" if request == b"\\x0a\\x03app" else b"\\x08\\x02"
handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
server.add_insecure_port("0.0.0.0:" + os.environ["PORT"])
server.start()
server.wait_for_termination()
"""

IMAGES = """
images:
  - match: test/app
    dir: app
    command: [python, app.py]
  - match: test/grpc
    dir: app
    command: [python, health.py]
  - match: test/sh
    dir: app
    command: [/bin/sh, -c]
    args: ["echo default; sleep 300"]
"""


class World:
    """API server, runtime and kubelet of one test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client = MemoryClient()
        self.network = claim_network()
        self.events: list[tuple[str, str]] = []
        self.process: asyncio.subprocess.Process
        (directory / "app").mkdir(exist_ok=True)
        (directory / "app" / "app.py").write_text(APP, encoding="utf-8")
        (directory / "app" / "health.py").write_text(GRPC_APP, encoding="utf-8")
        (directory / "fakeproxy.py").write_text(FAKE_QUEUE_PROXY, encoding="utf-8")
        (directory / "images.yaml").write_text(IMAGES, encoding="utf-8")
        self._agent: list[asyncio.Task[None]] = []

    async def start_runtime(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "torpor.embedded.node.runtime"),
            *("--socket", str(self.directory / "runtime.sock"), "--state", str(self.directory / "runtime")),
            *("--stop-grace", "0.2", "--queue-proxy", "fakeproxy:run"),
            env={**os.environ, "PYTHONPATH": f"{self.directory}:{ROOT}"},
        )

    async def start_agent(self, before_listing: Callable[[RuntimeClient], Awaitable[None]] | None = None) -> None:
        """A new node agent; what is to happen `before_listing` its pods does so while it knows only its runtime."""
        informers = Informers(self.client)
        runtime = RuntimeClient(self.directory / "runtime.sock")
        settings = Settings(
            network=self.network,
            directory=self.directory / "node",
            cpu_milli=2000,
            memory_bytes=1 << 30,
            user_env={"http_proxy": "http://127.2.0.3:8012"},
            token=lambda audience, _: f"token for {audience}",
        )
        images = Images(self.directory / "images", [self.directory / "images.yaml"])
        self.kubelet = Kubelet(
            self.client,
            informers,
            runtime,
            images,
            settings,
            record=lambda obj, type_, reason, message: self.events.append((reason, message)),
        )
        self.access = NodeAccess(self.kubelet, runtime)
        self._agent = [asyncio.ensure_future(self.kubelet.run())]
        if before_listing is not None:
            await before_listing(runtime)
        self._agent.insert(0, asyncio.ensure_future(informers.run()))

    async def stop_agent(self) -> None:
        for task in reversed(self._agent):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._agent = []

    # Pods

    async def create(self, *containers: Any, name: str = "p", **spec: Any) -> None:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": {"app": "x"},
                "annotations": {"note": 'say "hi"'},
            },
            "spec": {"nodeName": "torpor", "containers": list(containers), **spec},
        }
        await self.client.create(PODS, pod)

    def pod(self, name: str = "p") -> Any:
        return self.client.peek(PODS, name, "default")

    def container(self, container: str = "c", name: str = "p") -> Any:
        statuses = ((self.pod(name) or {}).get("status") or {}).get("containerStatuses") or []
        return next(
            (one for one in statuses if one["name"] == container), {"state": {}, "lastState": {}, "ready": False}
        )

    def phase(self, name: str) -> str:
        return str((self.pod(name).get("status") or {}).get("phase"))

    def waits_for(self, reason: str) -> bool:
        return bool(self.container()["state"].get("waiting", {}).get("reason") == reason)

    def ready(self, name: str = "p") -> bool:
        conditions = ((self.pod(name) or {}).get("status") or {}).get("conditions") or []
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    async def until(self, condition: Callable[[], Any], *, within: float = 10.0) -> Any:
        try:
            async with asyncio.timeout(within):
                while not (found := condition()):  # noqa: ASYNC110 - it happens in other processes
                    await asyncio.sleep(0.005)
                return found
        except TimeoutError:
            raise AssertionError(f"did not happen; pod is {json.dumps(self.pod(), indent=1)}\n{self.events}") from None

    async def log(self, container: str = "c", name: str = "p", **options: Any) -> str:
        pieces = [piece async for piece in self.access.log("default", name, container, LogOptions(**options))]
        return b"".join(pieces).decode()

    def pids(self) -> list[int]:
        """Pids of all live processes below the runtime."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            with suppress(OSError):
                children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
                found += children
                todo += children
        return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while we read
        return False


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[World]:
    world = World(directory)
    await world.start_runtime()
    await world.start_agent()
    try:
        yield world
    finally:
        await world.stop_agent()
        if world.process.returncode is None:
            world.process.terminate()
        await world.process.wait()
        world.network.release()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


def shell(script: str, **more: Any) -> Any:
    return {"name": "c", "image": "test/sh", "args": [script], **more}


def stored(kind: str, name: str, data: dict[str, str]) -> Any:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "data": data}


def knative(**more: Any) -> list[Any]:
    """The containers of a Revision's pod."""
    probe = json.dumps({"httpGet": {"host": "127.0.0.1", "port": 8080, "path": "/"}})
    user = {
        "name": "user-container",
        "image": "test/app",
        "ports": [{"name": "user-port", "containerPort": 8080}],
        "env": [{"name": "PORT", "value": "8080"}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": {"preStop": {"httpGet": {"port": 8022, "path": "/wait-for-drain"}}},
        **more,
    }
    field = {"fieldRef": {"fieldPath": "status.podIP"}}
    proxy = {
        "name": "queue-proxy",
        "image": "queue",
        "env": [
            {"name": "QUEUE_SERVING_PORT", "value": "8012"},
            {"name": "USER_PORT", "value": "8080"},
            {"name": "SERVING_POD_IP", "valueFrom": field},
            {"name": "SERVING_READINESS_PROBE", "value": probe},
        ],
        "readinessProbe": {"httpGet": {"port": 8012, "httpHeaders": [{"name": "K-Network-Probe", "value": "queue"}]}},
    }
    return [user, proxy]


async def fetch(host: str, path: str, port: int = 8012) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]


async def test_revision_pod_starts_fast_and_answers_on_its_own_address(world: World) -> None:
    await world.create(*knative(), terminationGracePeriodSeconds=5)
    await world.until(world.ready)
    pod = world.pod()
    status = pod["status"]
    assert status["phase"] == "Running"
    assert status["podIP"].startswith(f"{world.network.prefix}.128.")
    assert status["hostIP"] == world.network.node
    assert {one["type"] for one in status["conditions"]} == {
        "PodScheduled",
        "Initialized",
        "ContainersReady",
        "Ready",
        "PodReadyToStartContainers",
    }
    assert await fetch(status["podIP"], "/") == b"ok"
    environ = json.loads(await fetch(status["podIP"], "/env"))
    assert environ["SERVING_POD_IP"] == status["podIP"]
    assert environ["USER_PORT"] != "8080"
    assert json.loads(environ["SERVING_READINESS_PROBE"])["httpGet"]["port"] == int(environ["USER_PORT"])
    assert "http_proxy" not in environ
    writes = [call.body for call in world.client.calls if call.subresource == "status" and call.resource is PODS]
    times = json.loads(writes[-1]["metadata"]["annotations"]["torpor.dev/timeline"])
    assert writes[0]["status"]["podIP"] == status["podIP"]  # the first thing that is said of it
    assert times["seen"] <= times["started"] <= times["appReady"] <= times["ready"]
    assert times["started"] - times["seen"] < 0.25  # typically 5 ms
    # Another pod of the same Revision has the same port in its manifest, and does not collide.
    await world.create(*knative(), name="q")
    await world.until(lambda: world.ready("q"))
    await world.client.delete(PODS, "p", "default")
    await world.until(lambda: world.pod() is None)
    await world.until(lambda: not (world.directory / "node" / "pods" / pod["metadata"]["uid"]).exists())
    await world.client.delete(PODS, "q", "default", grace=0)
    await world.until(lambda: not world.pids())
    await world.until(lambda: world.kubelet.statistics().addresses == 0)
    assert world.kubelet.statistics().ports == 0


async def test_crash_loop_backs_off_and_shows_why(world: World) -> None:
    script = "echo first try; echo broken >&2; exit 7"
    await world.create(shell(script, terminationMessagePolicy="FallbackToLogsOnError"))
    await world.until(lambda: world.waits_for("CrashLoopBackOff"))
    status = world.container()
    assert status["restartCount"] == 1  # the first restart is immediate
    last = status["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (7, "Error")
    assert "first try" in last["message"]
    assert "broken" in last["message"]
    assert status["state"]["waiting"]["message"].startswith("back-off 10s restarting failed container=c pod=p_default(")
    assert world.pod()["status"]["phase"] == "Running"
    assert not world.ready()
    assert await world.log(previous=True) in ("first try\nbroken\n", "broken\nfirst try\n")
    await world.client.delete(PODS, "p", "default")
    await world.until(lambda: world.pod() is None, within=2)  # a back-off does not hold up a deletion


async def test_restart_policies_and_phases(world: World) -> None:
    await world.create(shell("exit 0"), name="done", restartPolicy="Never")
    await world.create(shell("exit 3"), name="failed", restartPolicy="Never")
    await world.create(shell("test -e once && exit 0; touch once; exit 1"), name="retried", restartPolicy="OnFailure")
    for name, phase in (("done", "Succeeded"), ("failed", "Failed"), ("retried", "Succeeded")):
        await world.until(lambda name=name, phase=phase: world.phase(name) == phase)
    assert world.container(name="failed")["state"]["terminated"]["exitCode"] == 3
    assert world.container(name="done")["state"]["terminated"]["reason"] == "Completed"
    assert world.container(name="retried")["restartCount"] == 1


async def test_unknown_image_waits_and_starts_once_it_is_known(world: World) -> None:
    await world.create({"name": "c", "image": "test/later:v1"})
    await world.until(lambda: world.waits_for("ImagePullBackOff"))
    message = world.container()["state"]["waiting"]["message"]
    assert "images.yaml" in message
    assert "torpor deploy" in message
    assert any(reason == "Failed" for reason, _ in world.events)
    more = IMAGES + "  - {match: 'test/later:*', dir: app, command: [sleep, '300']}\n"
    (world.directory / "images.yaml").write_text(more, encoding="utf-8")
    await world.until(world.ready)


async def test_program_that_does_not_exist_is_a_start_error(world: World) -> None:
    await world.create({"name": "c", "image": "test/sh", "command": ["no-such-thing"]})
    last = await world.until(lambda: world.container()["lastState"].get("terminated"))
    assert (last["exitCode"], last["reason"]) == (128, "StartError")
    assert last["message"] == 'exec: "no-such-thing": executable file not found in $PATH'


async def test_init_containers_run_in_order_before_the_others(world: World) -> None:
    def sharing(name: str, script: str) -> Any:
        return {**shell(script, volumeMounts=[{"name": "w", "mountPath": "/torpor-it"}]), "name": name}

    order = "$TORPOR_MOUNT_ROOT/torpor-it/order"
    await world.create(
        sharing("c", f"cat {order}; echo main; sleep 300"),
        initContainers=[sharing("one", f"echo one >> {order}"), sharing("two", f"echo two >> {order}")],
        volumes=[{"name": "w", "emptyDir": {}}],
    )
    await world.until(world.ready)
    assert await eventually_logs(world, "main") == "one\ntwo\nmain\n"
    inits = world.pod()["status"]["initContainerStatuses"]
    assert [one["state"]["terminated"]["reason"] for one in inits] == ["Completed", "Completed"]


async def eventually_logs(world: World, text: str, **options: Any) -> str:
    async with asyncio.timeout(5):
        while text not in (found := await world.log(**options)):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    return found


async def test_environment_comes_from_everywhere(world: World) -> None:
    for kind, name, data in (
        ("ConfigMap", "cm", {"COLOR": "blue", "bad key": "x"}),
        ("Secret", "s", {"PASSWORD": base64.b64encode(b"hunter2").decode()}),
    ):
        world.client.seed(stored(kind, name, data))
    script = 'echo "$A|$B|$COLOR|$PRE_COLOR|$PASSWORD|$NAME|$IP|$LABEL|$CPU|$http_proxy|$HOSTNAME|$0|$1"; sleep 300'
    await world.create(
        {
            "name": "c",
            "image": "test/sh",
            "args": [script, "$(A)", "$$(A)"],
            "envFrom": [{"configMapRef": {"name": "cm"}}, {"configMapRef": {"name": "cm"}, "prefix": "PRE_"}],
            "env": [
                {"name": "A", "value": "a"},
                {"name": "B", "value": "$(A)-$(UNKNOWN)"},
                {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "PASSWORD"}}},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "nope", "key": "k", "optional": True}}},
            ],
            "resources": {"limits": {"cpu": "250m"}},
        }
    )
    await world.until(world.ready)
    ip = world.pod()["status"]["podIP"]
    line = (await eventually_logs(world, "|")).strip()
    assert line == f"a|a-$(UNKNOWN)|blue|blue|hunter2|p|{ip}|x|250|http://127.2.0.3:8012|p|a|$(A)"
    assert any(reason == "InvalidEnvironmentVariableNames" for reason, _ in world.events)


async def test_missing_config_map_waits_and_starts_once_it_is_there(world: World) -> None:
    await world.create(shell("echo $K; sleep 300", envFrom=[{"configMapRef": {"name": "late"}}]))
    waiting = await world.until(lambda: world.container()["state"].get("waiting", {}).get("message"))
    assert waiting == 'configmap "late" not found'
    assert world.container()["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    await world.client.create(CONFIG_MAPS, stored("ConfigMap", "late", {"K": "v"}))
    await world.until(world.ready)
    assert await eventually_logs(world, "v") == "v\n"


async def test_volumes_are_directories_that_follow_their_sources(world: World) -> None:
    world.client.seed(stored("ConfigMap", "cm", {"k": "1", "l": "2"}))
    sources = [
        {"configMap": {"name": "cm", "items": [{"key": "k", "path": "sub/renamed", "mode": 0o400}]}},
        {"downwardAPI": {"items": [{"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}}]}},
        {"serviceAccountToken": {"path": "token", "audience": "me"}},
    ]
    mounts = [
        {"name": "plain", "mountPath": "/torpor-it/plain"},
        {"name": "all", "mountPath": "/torpor-it/all", "readOnly": True},
        {"name": "scratch", "mountPath": "/torpor-it/scratch", "subPath": "deep/er"},
    ]
    script = (
        "cd $TORPOR_MOUNT_ROOT/torpor-it; cat plain/k plain/l all/sub/renamed all/annotations all/token; echo;"
        "echo written > scratch/file; test -e /torpor-it/plain/k && echo mounted; sleep 300"
    )
    await world.create(
        shell(script, volumeMounts=mounts),
        volumes=[
            {"name": "plain", "configMap": {"name": "cm"}},
            {"name": "all", "projected": {"sources": sources}},
            {"name": "scratch", "emptyDir": {}},
        ],
    )
    await world.until(world.ready)
    text = await eventually_logs(world, "token")
    assert text.startswith('121note="say \\"hi\\""token for me\n')
    place = world.directory / "node" / "pods" / world.pod()["metadata"]["uid"] / "volumes"
    await world.until(lambda: (place / "scratch" / "deep" / "er" / "file").exists())
    warned = any(reason == "MountPathNotAvailable" for reason, _ in world.events)
    assert warned or "mounted" in await eventually_logs(world, "mounted")
    await world.client.patch(CONFIG_MAPS, "cm", {"data": {"k": "new", "l": None}}, "default")
    await world.until(lambda: (place / "plain" / "k").read_text(encoding="utf-8") == "new")
    await world.until(lambda: not (place / "plain" / "l").exists())


async def test_deletion_terminates_then_kills_the_whole_group(world: World) -> None:
    stubborn = shell("trap 'echo got TERM' TERM; sleep 301 & while :; do sleep 0.1; done")
    await world.create(stubborn, terminationGracePeriodSeconds=1)
    await world.until(world.ready)
    await world.until(lambda: len(world.pids()) >= 2)
    following = asyncio.ensure_future(world.log(follow=True))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await world.client.delete(PODS, "p", "default", grace=1)
    await world.until(lambda: world.pod() is None)
    assert 0.9 < time.monotonic() - began < 3
    await world.until(lambda: not world.pids())
    assert "got TERM" in await following


async def test_pre_stop_runs_before_term_and_within_the_grace_period(world: World) -> None:
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook > hooked"]}}}
    await world.create(shell("trap 'cat hooked > saw; exit 0' TERM; while :; do sleep 0.05; done", lifecycle=hook))
    await world.until(world.ready)
    await world.client.delete(PODS, "p", "default")
    await world.until(lambda: world.pod() is None)
    assert (world.directory / "app" / "saw").read_text(encoding="utf-8") == "hook\n"

    slow = {"preStop": {"exec": {"command": ["sleep", "300"]}}}
    await world.create(shell("sleep 300", lifecycle=slow), name="slow")
    await world.until(lambda: world.ready("slow"))
    began = time.monotonic()
    await world.client.delete(PODS, "slow", "default", grace=1)
    await world.until(lambda: world.pod("slow") is None)
    assert 0.9 < time.monotonic() - began < 4
    await world.until(lambda: not world.pids())


@pytest.mark.parametrize("handler", ["httpGet", "tcpSocket", "exec", "grpc"])
async def test_readiness_follows_the_application_closely(world: World, handler: str) -> None:
    port = Ports().take()
    listening = f"grep -q ':{port:04X} 00000000:0000 0A' /proc/net/tcp"
    probe = {
        "httpGet": {"httpGet": {"path": "/ready", "port": "web"}},
        "tcpSocket": {"tcpSocket": {"port": port}},
        "exec": {"exec": {"command": ["sh", "-c", listening]}},
        "grpc": {"grpc": {"port": port, "service": "app"}},
    }[handler]
    container = {
        "name": "c",
        "image": "test/grpc" if handler == "grpc" else "test/app",
        "ports": [{"name": "web", "containerPort": port}],
        "env": [{"name": "PORT", "value": str(port)}, {"name": "SLOW", "value": "0.3"}],
        "readinessProbe": {**probe, "periodSeconds": 60},
    }
    await world.create(container)
    await world.until(lambda: world.container()["state"].get("running"))
    assert not world.ready()
    began = time.monotonic()
    await world.until(world.ready)
    assert time.monotonic() - began < 5  # far less than the period


async def test_liveness_failure_restarts_the_container(world: World) -> None:
    port = Ports().take()
    container = {
        "name": "c",
        "image": "test/app",
        "env": [{"name": "PORT", "value": str(port)}],
        "startupProbe": {"tcpSocket": {"port": port}},
        "livenessProbe": {"httpGet": {"path": "/alive", "port": port}, "periodSeconds": 1, "failureThreshold": 1},
    }
    await world.create(container, terminationGracePeriodSeconds=1)
    await world.until(world.ready)
    before = world.container()["containerID"]
    (world.directory / "app" / "infect").touch()
    await world.until(lambda: world.container()["lastState"].get("terminated"))
    await world.until(world.ready)
    assert world.container()["containerID"] != before
    assert world.container()["restartCount"] == 1
    await world.until(lambda: ("Killing", "Container c failed liveness probe, will be restarted") in world.events)
    assert ("Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 500") in world.events


async def test_stopping_revision_pod_serves_until_it_is_drained(world: World) -> None:
    await world.create(*knative())
    await world.until(world.ready)
    ip = world.pod()["status"]["podIP"]
    await world.client.delete(PODS, "p", "default", grace=10)
    await asyncio.sleep(0.3)
    assert world.pod()["metadata"]["deletionTimestamp"]
    assert await fetch(ip, "/") == b"ok"  # the application is held by its preStop hook, the queue-proxy by its drain
    await world.until(lambda: world.pod() is None, within=5)
    await world.until(lambda: not world.pids())


async def test_killed_queue_proxy_comes_back_and_the_application_stays(world: World) -> None:
    await world.create(*knative())
    await world.until(world.ready)
    user = world.container("user-container")["containerID"]
    (proxy,) = [pid for pid in world.pids() if Path(f"/proc/{pid}/comm").read_text("ascii").strip() == "queue-proxy"]
    os.kill(proxy, signal.SIGKILL)
    await world.until(lambda: world.container("queue-proxy")["restartCount"] == 1)
    await world.until(world.ready)
    assert world.container("queue-proxy")["lastState"]["terminated"]["exitCode"] == 137
    assert world.container("user-container")["containerID"] == user
    assert await fetch(world.pod()["status"]["podIP"], "/") == b"ok"


async def test_new_agent_adopts_running_pods_and_learns_what_ended(world: World) -> None:
    await world.create(*knative(), name="stays")
    await world.create(shell("sleep 300"), name="goes")
    await world.create(shell("while ! test -e go; do sleep 0.02; done; exit 9"), name="ends", restartPolicy="Never")
    for name in ("stays", "goes", "ends"):
        await world.until(lambda name=name: world.ready(name))
    before = world.pod("stays")["status"]
    await world.stop_agent()
    pids = world.pids()
    (world.directory / "app" / "go").touch()
    await world.client.delete(PODS, "goes", "default", grace=0)  # by force, while nobody was there
    await world.start_agent()
    await world.until(lambda: world.phase("ends") == "Failed")
    assert world.container(name="ends")["state"]["terminated"]["exitCode"] == 9
    await world.until(lambda: len(world.pids()) == 2)
    assert set(world.pids()) <= set(pids)
    after = world.pod("stays")["status"]
    assert after["podIP"] == before["podIP"]
    assert world.ready("stays")
    assert [one["containerID"] for one in after["containerStatuses"]] == [
        one["containerID"] for one in before["containerStatuses"]
    ]
    assert await fetch(after["podIP"], "/") == b"ok"
    # It is in charge: it sees exits and deletions of what it took over.
    await world.client.delete(PODS, "stays", "default", grace=1)
    await world.until(lambda: world.pod("stays") is None)
    await world.until(lambda: not world.pids())


async def test_exit_while_a_new_agent_lists_its_pods_is_not_lost(world: World) -> None:
    await world.create(shell("while ! test -e go; do sleep 0.02; done; exit 9"), restartPolicy="Never")
    await world.until(world.ready)
    await world.stop_agent()

    async def end(runtime: RuntimeClient) -> None:
        await world.until(lambda: runtime.statistics().connected)
        (world.directory / "app" / "go").touch()
        await world.until(lambda: not world.pids())
        await runtime.hello()  # answered after the exit was told

    await world.start_agent(end)
    await world.until(lambda: world.phase("p") == "Failed")
    assert world.container()["state"]["terminated"]["exitCode"] == 9


async def test_pods_come_back_after_the_runtime_was_killed(world: World) -> None:
    await world.create(*knative())
    await world.until(world.ready)
    old = world.pids()
    world.process.kill()
    await world.process.wait()
    await world.start_runtime()
    await world.until(lambda: world.container("user-container")["restartCount"] == 1)
    await world.until(world.ready)
    last = world.container("user-container")["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (137, "ContainerStatusUnknown")
    assert await fetch(world.pod()["status"]["podIP"], "/") == b"ok"
    assert not [pid for pid in old if alive(pid)]


async def test_logs_tail_since_timestamps_follow_and_limits(world: World) -> None:
    await world.create(shell("for i in 1 2 3 4 5; do echo line $i; done; sleep 0.4; echo late; sleep 300"))
    await world.until(world.ready)
    await eventually_logs(world, "line 5")
    assert await world.log(tail_lines=2) == "line 4\nline 5\n"
    assert await world.log(tail_lines=0) == ""
    assert await world.log(limit_bytes=8) == "line 1\nl"
    since = time.time()
    following = asyncio.ensure_future(world.log(follow=True, tail_lines=1))
    await eventually_logs(world, "late")
    assert await world.log(since=since) == "late\n"
    stamped = (await world.log(timestamps=True)).splitlines()
    assert all(line.split(" ")[0].endswith("Z") and "T" in line for line in stamped)
    assert not following.done()
    await world.client.delete(PODS, "p", "default", grace=0)
    assert await asyncio.wait_for(following, 5) == "line 5\nlate\n"
    with pytest.raises(StatusError, match="waiting to start"):
        await world.log(name="nobody")


async def test_exec_with_streams_exit_code_and_terminal(world: World) -> None:
    await world.create(shell("sleep 300", env=[{"name": "WHO", "value": "me"}]))
    await world.until(world.ready)

    async def run(*command: str, data: bytes | None = None, tty: bool = False) -> tuple[int, bytes, bytes]:
        session = await world.access.exec("default", "p", "c", command, stdin=data is not None, tty=tty)
        output = {1: b"", 2: b""}

        async def feed() -> None:
            if data is not None:
                await session.write(data)
                await session.close_stdin()

        feeding = asyncio.ensure_future(feed())
        try:
            while (piece := await session.read()) is not None:
                output[piece[0]] += piece[1]
            await feeding
            return await session.wait(), output[1], output[2]
        finally:
            feeding.cancel()
            await session.aclose()

    assert await run("sh", "-c", "echo $WHO; echo err >&2; exit 3") == (3, b"me\n", b"err\n")
    assert await run("cat", data=b"x" * 200_000) == (0, b"x" * 200_000, b"")
    code, output, _ = await run("sh", "-c", "test -t 0 && stty size && exit 4", tty=True, data=b"")
    assert code == 4
    assert output
    with pytest.raises(StatusError, match="executable file not found"):
        await run("no-such")
    session = await world.access.exec("default", "p", "c", ("sleep", "302"), stdin=False, tty=False)
    await session.aclose()
    await world.until(lambda: len(world.pids()) == 2)  # sh and its sleep


async def test_node_registers_itself(world: World) -> None:
    node = await world.until(lambda: world.client.peek(NODES, "torpor"))
    assert node["status"]["conditions"][0]["type"] == "Ready"
    assert node["metadata"]["annotations"]["torpor.dev/resource-limits"]
