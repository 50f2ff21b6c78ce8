"""One container of a pod through all its runs: prepare, start, probe, stop, report, back off, again.

    waiting --prepare--> starting --> running --exit--> terminated --restart policy--> waiting (back-off) ...
                ^  image or configuration missing: try again          \\--> done

`run` is the one place that moves between these; probes and the wish to stop only set flags it waits for. Nothing
before `Runtime.start` awaits unless something is missing, so a pod's containers are started in the same turn of the
event loop in which the pod was seen.
"""

import asyncio
import json
import logging
import os
import signal
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.quantity import parse_quantity
from torpor.embedded.images import Image, Images
from torpor.embedded.node import checks, probes, volumes
from torpor.embedded.node.crilog import parse
from torpor.embedded.node.environment import ConfigMissing, Facts, References, expand, make_environment
from torpor.embedded.node.protocol import Exit, Run, RuntimeRefused
from torpor.embedded.node.restarts import Backoff, restarts
from torpor.embedded.node.runtime_client import Running, Runtime, RuntimeLost
from torpor.embedded.node.settings import Settings
from torpor.embedded.node.status import Container, Terminated
from torpor.embedded.workloads.events import Record
from torpor.embedded.workloads.progress import parse_time

__all__ = ["QUEUE_PROXY", "USER_PORT_NAME", "ContainerWorker", "Node", "PodState"]

log = logging.getLogger(__name__)

QUEUE_PROXY = "queue-proxy"
"""Name of the container that is forked from the warm template."""
USER_PORT_NAME = "user-port"
"""Name that the Revision reconciler gives the port of the container that takes requests."""
TERMINATION_MESSAGE_BYTES = 4096
LOG_MESSAGE_BYTES = 2048
LOG_MESSAGE_LINES = 80
MIN_GRACE = 2.0
"""Seconds between TERM and KILL even if a preStop hook used up the whole grace period; kubelet's."""
RETRY = (0.25, 10.0)
"""First and longest pause before an image or a configuration is looked for again."""

_MESSAGE_PATH = "/dev/termination-log"


@dataclass
class Node:
    """What all pods of the node share."""

    settings: Settings
    runtime: Runtime
    images: Images
    record: Record
    wall: Callable[[], float]
    """Unix seconds."""
    containers: "dict[str, ContainerWorker]" = field(default_factory=dict)
    """By the runtime's id: where an exit is reported to."""
    announce: Callable[[Obj, str], None] = lambda _, __: None
    """(pod, address): the pod has got its address; whoever lists addresses need not wait for the status."""
    pace: probes.Pace = field(default_factory=probes.Pace)
    listening: Callable[[int, Callable[[], None]], None] = lambda _, __: None
    """(port, then): call `then` when something first listens on the port."""
    not_listening: Callable[[int], None] = lambda _: None
    """Nobody waits for the port any more."""


@dataclass
class PodState:
    """What the containers of one pod share."""

    pod: Obj
    """As last seen."""
    directory: Path
    ip: str = ""
    port: int = 0
    """Where the user container that takes requests is told to listen; 0 if there is no such container."""
    changed: Callable[[], None] = lambda: None
    """A container's status changed."""
    references: Callable[[], Any] = lambda: None
    """Awaitable: everything the pod refers to, with its volumes written."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    stop_deadline: float = 0.0
    """Loop time at which what still runs is killed."""
    times: dict[str, float] = field(default_factory=dict)
    """Unix seconds of what happened first: see the annotation `torpor.dev/timeline`."""

    @property
    def policy(self) -> str:
        """`Always`, `OnFailure` or `Never`."""
        return str(at(self.pod, "spec", "restartPolicy", default="Always"))

    def has_queue_proxy(self) -> bool:
        """Whether this is a pod of a Revision."""
        return any(one["name"] == QUEUE_PROXY for one in at(self.pod, "spec", "containers", default=[]))


class _Wait(Exception):
    """The container cannot be started yet."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ContainerWorker:
    """Runs one container of a pod; `status` is what the pod's status shows of it.

    Args:
        spec: the container as the pod has it.
        init: it is an init container: it ends when it has succeeded.
    """

    def __init__(self, node: Node, state: PodState, spec: Obj, *, init: bool = False) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.sidecar = init and spec.get("restartPolicy") == "Always"
        """An init container that goes on running beside the others."""
        self.status = Container(name=self.name, image=spec.get("image", ""), init=init and not self.sidecar)
        self.ready = asyncio.Event()
        """Past its startup probe, or done."""
        self._node = node
        self._state = state
        self._policy = "Always" if self.sidecar else "OnFailure" if init and state.policy == "Always" else state.policy
        self._backoff = Backoff()
        self._exit: asyncio.Future[Exit] | None = None
        self._id = ""
        self._last_id = ""
        """The ended run that the runtime still remembers."""
        self._started_at = 0.0
        self._stop = asyncio.Event()
        self._stop_deadline = 0.0
        self._killed_for = ""
        self._log = ""
        self._runs = 0
        """Number of the present or next run, from 0; `restarts` follows when it starts."""
        self._unknown = False

    # What others tell

    @property
    def running(self) -> bool:
        """Whether a process of it runs now, as far as is known."""
        return self.status.state == "running"

    @property
    def log(self) -> str:
        """File with the output of the present run, or of the last one while there is none."""
        return self._log

    @property
    def container_id(self) -> str:
        """The runtime's id of the present or last run; empty before the first."""
        return self._id or self._last_id

    def exited(self, ended: Exit) -> None:
        """The runtime reports the end of the present run."""
        if self._exit is not None and not self._exit.done():
            self._exit.set_result(ended)

    def lost(self) -> None:
        """The runtime that ran it is gone, and it with it."""
        if self.running:
            self._unknown = True
            self.exited(Exit(code=137, signal=9, at=self._node.wall()))

    def stop(self, deadline: float, why: str = "") -> None:
        """Stop the present run: preStop, TERM, and KILL at the deadline (loop time)."""
        self._stop_deadline = min(self._stop_deadline, deadline) if self._stop.is_set() else deadline
        self._killed_for = self._killed_for or why
        self._stop.set()

    async def kill(self) -> None:
        """End the present run now."""
        if self._id:
            await self._signal(signal.SIGKILL)

    def adopt(self, found: Running | None, before: Obj | None) -> None:
        """Go on where an earlier node agent stopped, before `run`.

        Args:
            found: the run that the runtime knows; None: nothing of it is left.
            before: its `ContainerStatus` in the API server.
        """
        if before:
            self._runs = int(before.get("restartCount") or 0)
            self.status = replace(self.status, restarts=self._runs, last=_last_of(before))
        ran = bool(before and (at(before, "state", "running") or at(before, "state", "terminated")))
        if found is None:
            if before and (code := at(before, "state", "terminated", "exitCode")) is not None and self._done(code):
                ended = _last_of({"lastState": before["state"]})
                self.status = self.status.ended(ended) if ended else self.status
            elif ran:
                # The whole platform was stopped, and the container with it. It did not fail, so that is not what its
                # last state says: a Revision would be called broken for it.
                self._runs += 1
            return
        self._id, self._log, self._started_at = found.container, found.log, found.started_at
        self._runs = int(found.meta.get("restarts", self._runs))
        self.status = replace(self.status, restarts=self._runs)
        self._backoff.resume(self._runs, asyncio.get_running_loop().time())
        self.status = self.status.running(f"torpor://{found.container}", found.started_at)
        if before and at(before, "state", "running") and before.get("containerID") == self.status.container_id:
            self.status = replace(self.status, ready=bool(before.get("ready")), started=bool(before.get("started")))
        self._node.containers[found.container] = self
        self._begin(found.container, found.exit)

    def _begin(self, container: str, ended: Exit | None = None) -> None:
        self._id = container
        self._exit = asyncio.get_running_loop().create_future()
        if ended is not None:
            self._exit.set_result(ended)

    # The life of it

    async def run(self) -> None:
        """Keep it as the restart policy says; returns when it need not run any more, or has been stopped."""
        if self.status.state == "terminated":  # taken over, and done
            self.ready.set()
            return
        if self._exit is not None:
            if not await self._finish(await self._supervise()):
                return
        while not self._state.stopping.is_set():
            plan = await self._prepare()
            if plan is None:
                break
            if not await self._finish(await self._one_run(plan)):
                return

    async def _finish(self, ended: Terminated) -> bool:
        """Note the end of a run; True if there is to be another one, once the time for it has come."""
        if not self._state.stopping.is_set():
            facts = {
                "exit_code": ended.exit_code,
                "signal": ended.signal,
                "reason": ended.reason,
                "said": ended.message,
            }
            log.info("container ended", extra={"key": meta.key(self._state.pod), "container": self.name, **facts})
        self._set(self.status.ended(ended))
        if self._done(ended.exit_code) or self._state.stopping.is_set():
            self.ready.set()
            return False
        loop = asyncio.get_running_loop()
        start = self._backoff.ended(loop.time())
        self._runs += 1
        wait = start - loop.time()
        if wait > 0:
            text = f"back-off {_short(wait)} restarting failed container={self.name} pod={self._pod_text()}"
            self._set(self.status.waiting("CrashLoopBackOff", text))
            about = f"Back-off restarting failed container {self.name} in pod {self._pod_text()}"
            self._record("Warning", "BackOff", about)
            await self._pause(wait)
        return not self._state.stopping.is_set()

    def _done(self, exit_code: int) -> bool:
        return not restarts(self._policy, exit_code)

    async def _prepare(self) -> Run | None:
        """Everything needed to start; waits for what is missing. None: the pod is stopping."""
        pause = RETRY[0]
        while True:
            try:
                return await self._plan()
            except _Wait as wait:
                reason = wait.reason
                if reason == "ErrImagePull" and self.status.reason in ("ErrImagePull", "ImagePullBackOff"):
                    reason = "ImagePullBackOff"
                    text = f'Back-off pulling image "{self.spec.get("image")}": ErrImagePull: {wait.message}'
                else:
                    text = wait.message
                if (self.status.state, self.status.reason, self.status.message) != ("waiting", reason, text):
                    self._set(self.status.waiting(reason, text))
                    self._record("Warning", _EVENTS.get(reason, "Failed"), wait.message)
            await self._pause(pause)
            pause = min(pause * 2, RETRY[1])
            if self._state.stopping.is_set():
                return None

    async def _plan(self) -> Run:
        settings, state, pod = self._node.settings, self._state, self._state.pod
        image: Image | None = None
        if self.name != QUEUE_PROXY:
            image = self._node.images.find(self.spec.get("image", ""))
            if image is None:
                raise _Wait("ErrImagePull", self._node.images.missing(self.spec.get("image", "")))
        facts = Facts(
            pod_ip=state.ip,
            host_ip=settings.network.node,
            cpu_milli=settings.cpu_milli,
            memory_bytes=settings.memory_bytes,
        )
        base = {"PATH": os.defpath, "HOME": settings.home, "HOSTNAME": meta.name(pod)}
        if image is None:
            base = {**base, **settings.queue_proxy_env}
        else:
            base = {**base, **settings.user_env, **image.environment()}
        try:
            references: References = await state.references()
            resolved = make_environment(self.spec, pod, facts, references, base)
        except ConfigMissing as exc:
            raise _Wait("CreateContainerConfigError", str(exc)) from exc
        except volumes.UnsupportedVolume as exc:
            raise _Wait("ContainerCreating", str(exc)) from exc
        except OSError as exc:
            raise _Wait("ContainerCreating", f"volumes cannot be written: {exc.strerror}") from exc
        for text in resolved.skipped:
            self._record("Warning", "InvalidEnvironmentVariableNames", text)
        variables = self._with_port(resolved.variables)
        own = state.directory / "containers" / self.name
        try:
            mounts = volumes.mounts(self.spec, pod, state.directory / "volumes", variables)
            own.mkdir(parents=True, exist_ok=True)
            (own / "termination-log").write_bytes(b"")
            if mounts:
                variables["TORPOR_MOUNT_ROOT"] = str(state.directory / "mounts" / self.name)
                volumes.link(Path(variables["TORPOR_MOUNT_ROOT"]), mounts)
        except (volumes.UnsupportedVolume, OSError) as exc:
            raise _Wait("ContainerCreating", str(exc)) from exc
        variables["TORPOR_CONTAINER_NAME"] = self.name
        variables["TORPOR_TERMINATION_LOG"] = str(own / "termination-log")
        argv = image.argv(self._expanded("command", variables), self._expanded("args", variables)) if image else ()
        self._log = str(state.directory / "logs" / self.name / f"{self._runs}.log")
        self._drop_old_logs()
        return Run(
            container=uuid.uuid4().hex,
            pod=meta.uid(pod),
            name=self.name,
            kind="exec" if image else "queue-proxy",
            argv=argv,
            env=variables,
            cwd=str(self._working_directory(image)) if image else str(own),
            log=self._log,
            mounts=tuple(mounts),
            memory_bytes=_amount(self.spec, "memory"),
            cpu_milli=_amount(self.spec, "cpu"),
            meta={
                "namespace": meta.namespace(pod),
                "pod": meta.name(pod),
                "restarts": self._runs,
                "ip": state.ip,
                "port": state.port,
            },
        )

    async def _one_run(self, plan: Run) -> Terminated:
        """Start it and stay with it until it ends."""
        self._begin(plan.container)
        self._node.containers[plan.container] = self
        self.status = replace(self.status, restarts=self._runs)
        self._stop.clear()
        self._killed_for = ""
        started_at = self._node.wall()
        while True:
            try:
                found = await self._node.runtime.start(plan)
                # The fork's own time: the answer may have waited for a processor that the new process keeps busy.
                started_at = found.started_at
            except RuntimeLost:
                # Another runtime will take its place; it may or may not have started this one before it went.
                await self._pause(RETRY[0])
                if not self._state.stopping.is_set():
                    continue
                return self._not_started(plan, "the container runtime is gone")
            except RuntimeRefused as exc:
                if exc.reason == "AlreadyExists":
                    break
                self._record("Warning", "Failed", f"Error: {exc}")
                return self._not_started(plan, str(exc))
            for text in found.warnings:
                root = plan.env.get("TORPOR_MOUNT_ROOT", "")
                about = f"volumes of container {self.name} are not at their mountPath ({text}); find them below {root}"
                self._record("Warning", "MountPathNotAvailable", about)
            break
        self._started_at = started_at
        self._set(self.status.running(f"torpor://{plan.container}", self._started_at))
        self._state.times["started"] = max(self._started_at, self._state.times.get("started", 0.0))
        self._record("Normal", "Started", f"Started container {self.name}")
        return await self._supervise()

    def _not_started(self, plan: Run, message: str) -> Terminated:
        self._node.containers.pop(plan.container, None)
        self._id = ""
        return Terminated(exit_code=128, reason="StartError", message=message, finished_at=self._node.wall())

    async def _supervise(self) -> Terminated:
        """Probe it, stop it when told, and return how it ended."""
        assert self._exit is not None
        exit_ = self._exit
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._stop_when_told(), name=f"stop {self.name}"),
                group.create_task(self._forget_last(), name=f"forget {self.name}"),
            ]
            if not exit_.done():
                helpers.append(group.create_task(self._probe(), name=f"probe {self.name}"))
            ended = await exit_
            for helper in helpers:
                helper.cancel()
        self._node.containers.pop(self._id, None)
        self._last_id, self._id = self._id, ""
        self._stop.clear()
        return self._terminated(ended)

    async def _forget_last(self) -> None:
        """The runtime need not remember the run before this one; its exit is in our status by now."""
        if self._last_id:
            last, self._last_id = self._last_id, ""
            try:
                await self._node.runtime.remove(last)
            except RuntimeRefused:
                return

    async def forget(self) -> None:
        """Let the runtime forget the container; the pod is going away."""
        await self._forget_last()

    # Stopping

    async def _stop_when_told(self) -> None:
        stops = [asyncio.ensure_future(one.wait()) for one in (self._stop, self._state.stopping)]
        try:
            await asyncio.wait(stops, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in stops:
                one.cancel()
        if self._state.stopping.is_set():
            self.stop(self._state.stop_deadline)
        self._record("Normal", "Killing", self._killed_for or f"Stopping container {self.name}")
        loop = asyncio.get_running_loop()
        if hook := at(self.spec, "lifecycle", "preStop"):
            outcome = await checks.check(hook, self._target())(self._stop_deadline)
            if not outcome.ok:
                self._record("Warning", "FailedPreStopHook", f"PreStopHook failed: {outcome.message}")
        await self._signal(signal.SIGTERM)
        await asyncio.sleep(max(self._stop_deadline - loop.time(), MIN_GRACE if hook else 0.0))
        while True:
            await self._signal(signal.SIGKILL)
            await asyncio.sleep(1.0)

    async def _signal(self, number: int) -> None:
        try:
            await self._node.runtime.signal(self._id, number)
        except RuntimeRefused:
            return  # it is gone, or the runtime is: either way we shall be told

    # Probing

    async def _probe(self) -> None:
        """Startup, then readiness and liveness, for the life of one run."""
        loop = asyncio.get_running_loop()
        began = loop.time() - max(0.0, self._node.wall() - self._started_at)
        found = {
            kind: probes.Spec.parse(kind, self.spec[f"{kind}Probe"]) for kind in _KINDS if self.spec.get(f"{kind}Probe")
        }
        if (startup := found.pop("startup", None)) and not self.status.started:
            await self._watch(startup, began)
            if not self.status.started:
                return  # it is being stopped
        if not self.status.started:
            self._set(replace(self.status, started=True))
        self.ready.set()
        if "readiness" not in found and not self.status.ready:
            self._set(replace(self.status, ready=True))
        async with asyncio.TaskGroup() as group:
            for spec in found.values():
                group.create_task(self._watch(spec, began), name=f"{spec.kind} {self.name}")

    async def _watch(self, spec: probes.Spec, began: float) -> None:
        def tell(good: bool, outcome: probes.Outcome) -> None:
            if spec.kind == "readiness":
                self._set(replace(self.status, ready=good))
            elif good and spec.kind == "startup":
                self._set(replace(self.status, started=True))
            elif not good:
                about = f"Container {self.name} failed {spec.kind} probe, will be restarted"
                grace = spec.grace if spec.grace is not None else at(self._state.pod, "spec", *_GRACE, default=30)
                self.stop(asyncio.get_running_loop().time() + float(grace), about)

        def failed(outcome: probes.Outcome) -> None:
            self._record("Warning", "Unhealthy", f"{spec.kind.capitalize()} probe failed: {outcome.message}")

        check, pace = checks.check(spec.handler, self._target()), self._node.pace
        await probes.watch(spec, check, tell, started_at=began, failed=failed, pace=pace)

    def _target(self) -> checks.Target:
        return checks.Target(address=self._address, container=lambda: self._id, runtime=self._node.runtime)

    # Ports

    def _is_serving(self) -> bool:
        """Whether this is the container that gets the pod's requests and was told to listen somewhere else."""
        if not self._state.port or self.name == QUEUE_PROXY:
            return False
        return any(port.get("name") == USER_PORT_NAME for port in self.spec.get("ports") or ())

    def _declared_port(self) -> int:
        ports = self.spec.get("ports") or ()
        return next((int(port["containerPort"]) for port in ports if port.get("name") == USER_PORT_NAME), 0)

    def _address(self, wanted: int | str) -> tuple[str, int]:
        """Where a port of the manifest is: the pod's address, except for the one port that was given another number.

        That one is asked for on 127.0.0.1, where the application may be listening alone.
        """
        number = _number(wanted)
        if not number:
            ports = self.spec.get("ports") or ()
            number = next((int(port["containerPort"]) for port in ports if port.get("name") == wanted), 0)
        if self._is_serving() and number == self._declared_port():
            return "127.0.0.1", self._state.port
        return self._state.ip, number

    def _with_port(self, variables: dict[str, str]) -> dict[str, str]:
        """The environment with the port that was found for this pod, where the manifest's would collide."""
        if not self._state.port:
            return variables
        if self._is_serving():
            variables["PORT"] = str(self._state.port)
            self._node.listening(self._state.port, self._listens)
        elif self.name == QUEUE_PROXY:
            declared = _number(variables.get("USER_PORT", "8080"))
            variables["USER_PORT"] = str(self._state.port)
            variables["SERVING_READINESS_PROBE"] = _moved(
                variables.get("SERVING_READINESS_PROBE", ""), declared, self._state.port
            )
        return variables

    def _listens(self) -> None:
        self._state.times.setdefault("appReady", self._node.wall())
        self._state.changed()

    # Small things

    def _expanded(self, key: str, variables: Mapping[str, str]) -> list[str] | None:
        words = self.spec.get(key)
        return [expand(str(word), variables) for word in words] if words else None

    def _working_directory(self, image: Image) -> Path:
        """`workingDir` inside the program's directory if it is there, else on this machine, else ignored."""
        wanted = self.spec.get("workingDir")
        if not wanted:
            return image.cwd
        for place in (image.directory / str(wanted).lstrip("/"), Path(wanted)):
            if place.is_dir():
                return place
        self._record("Warning", "WorkingDirNotFound", f"workingDir {wanted} does not exist; using {image.cwd}")
        return image.cwd

    def _terminated(self, ended: Exit) -> Terminated:
        message = self._message(ended.code)
        if ended.oom_killed:
            reason = "OOMKilled"
        elif self._unknown:
            self._unknown, reason = False, "ContainerStatusUnknown"
            message = message or "The container could not be located: the container runtime was restarted."
        else:
            reason = "Completed" if ended.code == 0 else "Error"
        return Terminated(
            exit_code=ended.code,
            signal=ended.signal,
            reason=reason,
            message=message,
            started_at=self._started_at,
            finished_at=ended.at,
            container_id=self.status.container_id,
        )

    def _message(self, code: int) -> str:
        """What the container left in its termination log; with `FallbackToLogsOnError` else the end of its output."""
        try:
            path = self._state.directory / "containers" / self.name / "termination-log"
            text = path.read_bytes()[:TERMINATION_MESSAGE_BYTES].decode("utf-8", "replace").strip()
        except OSError:
            text = ""
        if text or code == 0 or self.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return text
        return _end_of(self._log)

    def _drop_old_logs(self) -> None:
        """Keep the logs of the present and the previous run."""
        directory = Path(self._log).parent
        for number in (self._runs - 2, self._runs - 3):
            if number >= 0:
                for name in (f"{number}.log", f"{number}.log.1"):
                    (directory / name).unlink(missing_ok=True)

    def _set(self, status: Container) -> None:
        if status != self.status:
            self.status = status
            self._state.changed()

    def _record(self, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self._node.record(self._state.pod, type_, reason, message)

    def _pod_text(self) -> str:
        pod = self._state.pod
        return f"{meta.name(pod)}_{meta.namespace(pod)}({meta.uid(pod)})"

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not longer than until the pod is to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._state.stopping.wait()
        except TimeoutError:
            return


_KINDS: tuple[probes.Kind, ...] = ("startup", "readiness", "liveness")
_GRACE = ("terminationGracePeriodSeconds",)
_EVENTS = {"ContainerCreating": "FailedMount"}


def _moved(text: str, declared: int, port: int) -> str:
    """`SERVING_READINESS_PROBE` with probes of the user's port pointed at where the user listens here."""
    if not text:
        return text
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return text
    for probe in found if isinstance(found, list) else [found]:
        for kind in ("httpGet", "tcpSocket", "grpc"):
            handler = probe.get(kind)
            if handler is not None and _number(handler.get("port") or declared) in (declared, 0):
                handler["port"] = port
    return json.dumps(found, separators=(",", ":"))


def _number(port: int | str) -> int:
    """A port number; 0 for a name."""
    return int(port) if isinstance(port, int) or str(port).isdecimal() else 0


def _amount(container: Obj, resource: str) -> int:
    text = at(container, "resources", "limits", resource)
    if text is None:
        return 0
    quantity = parse_quantity(str(text))
    return quantity.milli() if resource == "cpu" else quantity.value()


def _last_of(before: Obj) -> Terminated | None:
    """`lastState.terminated` of a status that was written earlier."""
    found = at(before, "lastState", "terminated")
    if not found:
        return None
    return Terminated(
        exit_code=int(found.get("exitCode") or 0),
        reason=found.get("reason") or "Error",
        message=found.get("message") or "",
        signal=int(found.get("signal") or 0),
        started_at=parse_time(found.get("startedAt") or ""),
        finished_at=parse_time(found.get("finishedAt") or ""),
        container_id=found.get("containerID") or "",
    )


def _end_of(log: str) -> str:
    """The last lines of a log, at most `LOG_MESSAGE_LINES` and `LOG_MESSAGE_BYTES`."""
    try:
        with Path(log).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 64 * 1024))
            lines = file.read().splitlines()
    except OSError:
        return ""
    texts = [entry.text for line in lines[-LOG_MESSAGE_LINES:] if (entry := parse(line)) is not None]
    return b"\n".join(texts)[-LOG_MESSAGE_BYTES:].decode("utf-8", "replace").strip()


def _short(seconds: float) -> str:
    """`10s`, `1m20s`, `5m0s`, as Go prints a duration."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
