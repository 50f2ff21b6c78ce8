"""`torpor deploy DIR`: a directory becomes a service, and its URL the last line printed."""

import asyncio
import re
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kncore.api import meta
from kncore.api.resources import KSERVICES
from kncore.errors import KnError
from kncore.kube.client import Obj
from torpor.cli.api import Api, connect
from torpor.cli.output import Output, emphasis, progress, say, show
from torpor.detect import detect
from torpor.embedded.images import Image, Images, content_digest
from torpor.snapshot import snapshot
from torpor.state import StateDir

__all__ = ["deploy", "manifest", "service_name", "wait_ready"]

READY_TIMEOUT = 120.0  # seconds
READY_POLL = 0.1
SETTLE = 2.0  # seconds a new generation's Ready=False may still be the former revision's
REQUIREMENTS = ("requirements.txt", "pyproject.toml", "Pipfile")


async def deploy(
    directory: Path, name: str, namespace: str, env: Sequence[str], state_dir: Path, *, output: Output | None
) -> int:
    """Find out how the directory is run, keep a copy as an image, apply a Service, wait until it is Ready.

    Raises:
        NotRunning: no platform runs on the state directory.
        Undetected: the directory does not say how it is run.
        KnError: the name, a variable or the directory cannot be used, or the service failed.
    """
    program = detect(directory)
    name = name or service_name(directory)
    variables = [_variable(entry) for entry in env]
    state = StateDir(state_dir)
    running = state.running()
    say(f"{directory}: {program.why}; runs `{' '.join(program.command)}`")
    if hint := _packages_hint(directory, program.command):
        say(hint)
    image = await asyncio.to_thread(_register, state, name, directory, program.command)
    async with connect(running.kubeconfig, warn=False) as api:
        space = namespace or api.client.namespace
        applied, outcome = await api.apply(manifest(name, space, image, variables), space, force=True)
        say(f"Service '{name}' {outcome} in namespace '{space}'")
        with progress(f"waiting for {name} to be Ready"):
            ready = await wait_ready(api, name, space, meta.generation(applied))
    revision = meta.at(ready, "status", "latestReadyRevisionName", default="")
    say(f"{emphasis('Ready', 'good')}: revision {revision} is available at")
    if not _receives_traffic(ready, revision):
        say(f"note: it gets no requests: the Service's traffic names other revisions (torpor get ksvc {name} -o yaml)")
    if output is None:
        print(meta.at(ready, "status", "url", default=""))
    else:
        show(ready, output)
    return 0


def _receives_traffic(service: Obj, revision: str) -> bool:
    traffic = meta.at(service, "status", "traffic", default=[])
    return any(target.get("revisionName") == revision and target.get("percent") for target in traffic)


def service_name(directory: Path) -> str:
    """A DNS-1035 name made from a directory's name.

    Raises:
        KnError: no letter is left.
    """
    name = re.sub(r"[^a-z0-9-]+", "-", directory.resolve().name.lower()).lstrip("-0123456789")[:50].rstrip("-")
    if not name:
        raise KnError(f"{directory}: no service name can be made from this; give one with --name")
    return name


def manifest(name: str, namespace: str, image: str, env: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The Service of a deployed directory."""
    container: dict[str, Any] = {"image": image}
    if env:
        container["env"] = [{"name": variable, "value": value} for variable, value in env]
    return {
        "apiVersion": KSERVICES.api_version,
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


async def wait_ready(api: Api, name: str, namespace: str, generation: int) -> dict[str, Any]:
    """Wait for a Service to be Ready, telling each change of its conditions with the time since the start.

    Raises:
        KnError: it failed, or took too long; the message is the condition's.
    """
    started = time.monotonic()
    told: dict[str, tuple[str, str]] = {}
    while True:
        service = await api.client.get(KSERVICES, name, namespace)
        current = meta.at(service, "status", "observedGeneration", default=0) >= generation
        waited = time.monotonic() - started
        for condition in meta.at(service, "status", "conditions", default=[]) if current else []:
            now = (condition["status"], condition.get("reason", ""))
            if condition["type"] != "Ready" and told.get(condition["type"]) != now:
                told[condition["type"]] = now
                word = "done" if condition["status"] == "True" else condition.get("message") or "waiting"
                say(f"{waited:7.3f}s {condition['type']}: {word}")
        ready = meta.condition(service, "Ready") or {}
        if current and ready.get("status") == "True":
            return service
        why = f"{_cause(service)}; see `torpor logs {name} -n {namespace}` and `torpor status -n {namespace}`"
        if current and ready.get("status") == "False" and waited > SETTLE:
            raise KnError(f"Service '{name}' failed: {why}")
        if waited > READY_TIMEOUT:
            raise KnError(f"Service '{name}' is not Ready after {READY_TIMEOUT:.0f} s: {why}")
        await asyncio.sleep(READY_POLL)


def _cause(service: Obj) -> str:
    """What keeps a Service from being Ready: of a failed part's reason and message (a traceback, perhaps) the end."""
    conditions = meta.at(service, "status", "conditions", default=[])
    parts = [one for one in conditions if one["type"] != "Ready" and one["status"] != "True"]
    parts.sort(key=lambda one: one["status"])  # failed before unknown
    for one in parts:
        lines = str(one.get("message") or "").strip().splitlines()
        return f"{one.get('reason') or one['type']}: {lines[-1] if lines else one['status']}"
    return "the controllers have not looked at it yet"


def _variable(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals or not name:
        raise KnError(f"--env {entry}: expected NAME=VALUE")
    return name, value


def _packages_hint(directory: Path, command: Sequence[str]) -> str:
    """What to know of a Python program that lists packages and brings none."""
    listed = [name for name in REQUIREMENTS if (directory / name).is_file()]
    if command[0] != "python" or not listed or (directory / ".venv").exists():
        return ""
    venv = directory / ".venv"
    return (
        f"note: {listed[0]} is not installed for it; its imports come from Torpor's own environment. To give it its "
        f"own: python3 -m venv {venv} && {venv / 'bin' / 'pip'} install -r {directory / listed[0]}"
    )


def _register(state: StateDir, name: str, directory: Path, command: Sequence[str]) -> str:
    """Keep the directory's present content under an image name made from it; returns the name."""
    repository = f"dev.local/{name}" if len(name) > 1 else f"dev.local/app-{name}"  # image names have two letters
    env = {"TORPOR_PACKAGES": sysconfig.get_path("purelib")}  # where torpor/serve.py may find a server
    program = Image(match=repository, directory=directory.resolve(), command=tuple(command), env=env)
    try:
        digest = content_digest(program).removeprefix("sha256:")[:12]
    except OSError as exc:
        raise KnError(f"{exc.filename or directory} cannot be read: {exc.strerror or exc}") from exc
    copy = snapshot(directory, state.images / "programs" / f"{name}-{digest}")
    image = f"{repository}:{digest}"
    Images(state.images).register(image, copy, command, env=env)
    return image
