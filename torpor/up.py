"""`torpor up`: the platform on this machine, from one command.

This process is a small supervisor. It starts three children and keeps them running (`torpor.process.Child`):

- **runtime** (`torpor.embedded.node.runtime`): owns every pod process; forks queue-proxies from a warm template.
- **control** (`torpor.embedded.control`): API server, controllers, autoscaler, node agent.
- **activator** (`activator`): the ingress, on the public ports for HTTP and HTTPS.

They are separate so that each may crash alone: pods and the proxy go on serving while control restarts, and pods
survive it too. When this process dies, however it dies, the kernel takes the children along.

Addresses are chosen here first, so the order of the start hardly matters: only the activator waits, for the API
server's kubeconfig. Shutdown is the reverse of the path of a request: the activator finishes what is in flight, then
control, then the pods.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kncore.errors import KnError
from torpor.embedded.node.host import Network, claim_network
from torpor.process import Child, Exit, python_module
from torpor.state import Running, StateDir

__all__ = ["Options", "StartFailed", "up"]

TRIES = 3  # starts of control before what it says keeps it from starting is believed not to pass
READY_TIMEOUT = 60.0  # seconds; a cold disk and a busy machine included
ACTIVATOR_GRACE = 10.0  # seconds for requests in flight at Ctrl-C
CONTROL_GRACE = 5.0
RUNTIME_GRACE = 10.0
PORTS_TRIED = 50
API_PORT = 6443
INTERNAL_PORT = 8012
BACKLOG = 1024
HEALTH_CHECK = b"GET / HTTP/1.1\r\nHost: activator\r\nUser-Agent: kube-probe/torpor\r\nConnection: close\r\n\r\n"


class StartFailed(KnError):
    """The platform did not become ready."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `torpor up` was asked for."""

    state_dir: Path
    files: Sequence[str] = ()
    """Manifests to apply once ready."""
    port: int = 8080
    """Public HTTP port on 127.0.0.1; the next free one when taken."""
    https_port: int = 8443
    """The same for HTTPS."""
    domain: str = "localhost"
    images: Sequence[Path] = ()
    """Images files."""
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


def listen(wanted: int, host: str = "127.0.0.1", *, only: bool = False, option: str = "--port") -> socket.socket:
    """A socket listening on `wanted`, or on the next port above it that nobody has (not if `only` that one will do).

    Raises:
        StartFailed: none of the next ones can be had either.
    """
    last = wanted if only else min(wanted + PORTS_TRIED - 1, 65535)
    for port in range(wanted, last + 1):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, port))
            made.listen(BACKLOG)
        except OSError:
            made.close()
            continue
        return made
    which = f"port {wanted}" if only else f"none of the ports {wanted} to {last}"
    raise StartFailed(f"{which} can be had on {host}; give another with {option}")


async def up(options: Options, say: Callable[[str], None], out: Callable[[str], None]) -> int:
    """Run the platform until SIGINT or SIGTERM; returns the exit code.

    Args:
        say: shows progress to a person (stderr).
        out: prints what a script may read (stdout): the export line and the URLs.
    Raises:
        InUse: the state directory is taken.
        StartFailed: a component did not start; the message holds the end of its log.
    """
    started = time.monotonic()
    state = StateDir.create(options.state_dir)
    lock = state.lock()
    network = claim_network(state.network())
    state.keep_network(network.number)
    # Each run has an authority and a token of its own: a kubeconfig that leaked is worth nothing after it.
    shutil.rmtree(state.path / "apiserver" / "credentials", ignore_errors=True)
    try:
        return await Supervisor(options, state, network, say, out, started).run()
    finally:
        state.clear_running()
        network.release()
        os.close(lock)


def _unless_gone(tell: Callable[[str], None]) -> Callable[[str], None]:
    """The function, but nothing happens when nobody listens any more: a closed terminal or pipe must not end us."""

    def told(text: str) -> None:
        with contextlib.suppress(OSError):
            tell(text)

    return told


class Supervisor:
    """The three children and the signals; one per `torpor up`."""

    def __init__(
        self,
        options: Options,
        state: StateDir,
        network: Network,
        say: Callable[[str], None],
        out: Callable[[str], None],
        started: float,
    ) -> None:
        self._options = options
        self._state = state
        self._network = network
        self._say = _unless_gone(say)
        self._out = _unless_gone(out)
        self._started = started
        # Our own, so that they outlive their servers: while control or the activator restarts, connections wait.
        self._public = listen(options.port)
        self._https = listen(options.https_port, option="--https-port")
        self._internal = listen(INTERNAL_PORT, network.activator, only=True)
        self._api = listen(API_PORT)
        self._port = self._public.getsockname()[1]
        self._https_port = self._https.getsockname()[1]
        self._api_up = asyncio.Event()
        self._control_ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._unable = ""
        """Why control could not start when it last tried."""
        self._tries = 0
        """Starts of control in a row that ended with such a reason."""
        self._heard = ""
        self._hopeless = asyncio.Event()
        """It never started, and will not."""
        environment = {
            **options.environment,
            "TORPOR_NET": network.prefix,
            "TORPOR_STATE_DIR": str(state.path),
            "KUBECONFIG": str(state.kubeconfig),
            "SYSTEM_NAMESPACE": "knative-serving",
            "POD_NAMESPACE": "knative-serving",
        }
        runtime = Child(
            "runtime",
            python_module(
                "torpor.embedded.node.runtime",
                "--socket",
                str(state.path / "runtime.sock"),
                "--state",
                str(state.path / "node"),
            ),
            environment,
            log_path=state.log("runtime"),
            on_exit=lambda exit_: self._died("runtime", exit_),
            death_signal=signal.SIGTERM,  # it has processes of its own to end first
        )
        control = Child(
            "control",
            python_module(
                "torpor.embedded.control",
                *("--api-fd", str(self._api.fileno())),
                *("--ingress-port", str(self._port)),
                *("--https-port", str(self._https_port)),
                *("--domain", options.domain),
                *(argument for path in options.images for argument in ("--images", str(path))),
            ),
            environment,
            log_path=state.log("control"),
            sockets=[self._api],
            on_line=self._control_line,
            on_exit=lambda exit_: self._died("control", exit_),
        )
        activator = Child(
            "activator",
            python_module(
                "activator",
                *("--public", f"127.0.0.1:{self._port}"),
                *("--public-fd", str(self._public.fileno())),
                *("--https", f"127.0.0.1:{self._https_port}"),
                *("--https-fd", str(self._https.fileno())),
                *("--https-port", str(self._https_port)),
                *("--certificate", str(state.ingress)),
                *("--internal", f"{network.activator}:{INTERNAL_PORT}"),
                *("--internal-fd", str(self._internal.fileno())),
                *("--classes", "all"),
                "--any-domain",
                *("--drain", "0"),  # no load balancer in front that would have to notice
                *("--grace", str(ACTIVATOR_GRACE - 2)),
            ),
            {
                **environment,
                "POD_NAME": "activator",
                "POD_IP": network.activator,
                "AUTOSCALER_URL": f"ws://{network.autoscaler}:8080",
            },
            log_path=state.log("activator"),
            sockets=[self._public, self._https, self._internal],
            on_exit=lambda exit_: self._died("activator", exit_),
        )
        self._children = (runtime, control, activator)

    async def run(self) -> int:
        """Start, wait, serve, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(signal.SIGHUP, self._signalled)
        self._announce_port()
        async with asyncio.TaskGroup() as group:
            runtime, control, activator = self._children
            for child in (runtime, control):
                group.create_task(child.run(), name=child.name)
            try:
                if await self._until_ready(lambda: group.create_task(activator.run(), name=activator.name)):
                    await self._serve()
            finally:
                await self._shut_down()
                for sock in (self._public, self._https, self._internal, self._api):
                    sock.close()
        return 0

    async def _until_ready(self, start_activator: Callable[[], object]) -> bool:
        """Wait for control and the activator; False when stopped meanwhile."""
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                await self._either(self._api_up.wait())
                if self._api_up.is_set():
                    start_activator()
                await self._either(self._control_ready.wait())
                if self._hopeless.is_set():
                    raise StartFailed(self._unable)
                while not self._stop.is_set() and not await self._activator_ready():  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.02)
        except TimeoutError:
            tails = "\n".join(f"--- {child.name}\n{child.tail()}" for child in self._children)
            raise StartFailed(
                f"not ready after {READY_TIMEOUT:.0f} s; the ends of the logs in {self._state.path / 'logs'}:\n{tails}"
            ) from None
        return not self._stop.is_set()

    async def _serve(self) -> None:
        ready = time.monotonic() - self._started
        running = Running(
            pid=os.getpid(),
            api_url=f"https://127.0.0.1:{self._api.getsockname()[1]}",
            kubeconfig=str(self._state.kubeconfig),
            ingress=f"127.0.0.1:{self._port}",
            internal=f"{self._network.activator}:{INTERNAL_PORT}",
            autoscaler=f"{self._network.autoscaler}:8080",
            domain=self._options.domain,
            ready_seconds=round(ready, 3),
            https=f"127.0.0.1:{self._https_port}",
        )
        self._state.write_running(running)
        self._say(
            f"ready in {ready:.2f} s; services answer at http://<name>.<namespace>.{self._options.domain}:{self._port}"
        )
        self._say(f"and in TLS at https://...:{self._https_port}, for clients that trust {self._state.authority}")
        self._out(f"export KUBECONFIG={shlex.quote(str(self._state.kubeconfig))}")
        self._say("Ctrl-C stops")
        if self._options.files:
            await self._apply()
        await self._stop.wait()

    async def _apply(self) -> None:
        """Apply the given manifests as the user would; a refused one is told and the platform goes on."""
        arguments = [argument for file in self._options.files for argument in ("-f", file)]
        process = await asyncio.create_subprocess_exec(
            *python_module("torpor.cli.main", "apply", *arguments),
            env={**self._options.environment, "KUBECONFIG": str(self._state.kubeconfig)},
            stdin=asyncio.subprocess.DEVNULL,
        )
        await self._either(process.wait())
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    async def _shut_down(self) -> None:
        runtime, control, activator = self._children
        self._say("stopping")
        await activator.stop(ACTIVATOR_GRACE)
        await control.stop(CONTROL_GRACE)
        await runtime.stop(RUNTIME_GRACE)

    async def _either(self, work: Coroutine[Any, Any, Any]) -> None:
        """Wait for something, or for the order to stop, or until there is nothing to wait for."""
        ends = (self._stop.wait(), self._hopeless.wait())
        waits = [asyncio.ensure_future(one) for one in (work, *ends)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _activator_ready(self) -> bool:
        """Ask as a kubelet would."""
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(self._network.activator, INTERNAL_PORT)
                try:
                    writer.write(HEALTH_CHECK)
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    def _announce_port(self) -> None:
        for wanted, got in ((self._options.port, self._port), (self._options.https_port, self._https_port)):
            if got != wanted:
                self._say(f"port {wanted} is taken; using {got}")

    def _control_line(self, line: str) -> None:
        """Control reports on its stdout, one JSON object a line: {"api": true}, {"ready": true} or {"say": text}."""
        try:
            report = orjson.loads(line)
        except orjson.JSONDecodeError:
            return
        if not isinstance(report, dict):
            return
        if report.get("api"):  # and its kubeconfig is written
            self._api_up.set()
        if report.get("ready"):
            self._unable, self._tries = "", 0
            self._control_ready.set()
        if (text := report.get("say")) and (self._control_ready.is_set() or text != self._heard):
            self._heard = text  # each try to start would say it again
            self._say(str(text))
        if text := report.get("failed"):
            self._tries += 1
            if text != self._unable and self._control_ready.is_set():
                self._say(f"control cannot start again: {text}")
            self._unable = str(text)

    def _died(self, name: str, exit_: Exit) -> None:
        if self._stop.is_set():
            return
        if name == "control" and self._unable:
            if self._tries >= TRIES and not self._control_ready.is_set():
                self._hopeless.set()
            return  # it said why
        how = f"signal {signal.Signals(-exit_.code).name}" if exit_.code < 0 else f"exit code {exit_.code}"
        self._say(f"{name} ended ({how}) after {exit_.lived:.1f} s; starting it again; log: {self._state.log(name)}")

    def _signalled(self) -> None:
        if self._stop.is_set():  # the second one: no more patience
            for child in reversed(self._children):
                child.kill()
            sys.stderr.flush()
            os._exit(130)
        self._stop.set()
