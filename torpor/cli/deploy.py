"""`torpor deploy DIR`: a directory becomes a service, and its URL the last line printed."""

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kncore.api import meta
from kncore.api.resources import KSERVICES
from kncore.errors import KnError
from torpor.cli.api import Api, connect
from torpor.cli.output import Output, emphasis, say, show
from torpor.detect import detect
from torpor.embedded.images import Images, content_digest
from torpor.state import StateDir

__all__ = ["deploy", "service_name", "wait_ready"]

READY_TIMEOUT = 120.0  # seconds


def service_name(directory: Path) -> str:
    """A DNS-1035 name made from a directory's name.

    Raises:
        KnError: no letter is left.
    """
    name = re.sub(r"[^a-z0-9-]+", "-", directory.resolve().name.lower()).strip("-0123456789")[:50].rstrip("-")
    if not name:
        raise KnError(f"{directory}: no service name can be made from this; give one with --name")
    return name


async def deploy(
    directory: Path, name: str, namespace: str, env: Sequence[str], state_dir: Path, *, output: Output | None
) -> int:
    """Find out how the directory is run, register it as an image, apply a Service, wait until it is Ready.

    Raises:
        NotRunning: no platform runs on the state directory.
        Undetected: the directory does not say how it is run.
    """
    state = StateDir(state_dir)
    state.running()
    program = detect(directory)
    name = name or service_name(directory)
    say(f"{directory}: {program.why}; runs `{' '.join(program.command)}`")
    images = Images(state.path / "images")
    repository = f"dev.local/{name}"
    entry = images.register(repository, directory, program.command)
    digest = await asyncio.to_thread(content_digest, entry)
    image = f"{repository}:{digest.removeprefix('sha256:')[:12]}"
    images.register(image, directory, program.command)
    async with connect() as api:
        applied, outcome = await api.apply(manifest(name, namespace, image, env), namespace)
        say(f"Service '{name}' {outcome} in namespace '{namespace}'")
        ready = await wait_ready(api, name, namespace, meta.generation(applied))
    say(f"{emphasis('Ready', 'good')}: revision {meta.at(ready, 'status', 'latestReadyRevisionName')}")
    if output is None:
        print(meta.at(ready, "status", "url", default=""))
    else:
        show(ready, output)
    return 0


def manifest(name: str, namespace: str, image: str, env: Sequence[str]) -> dict[str, Any]:
    """The Service of a deployed directory.

    Raises:
        KnError: an `env` entry is not NAME=VALUE.
    """
    variables = []
    for entry in env:
        variable, equals, value = entry.partition("=")
        if not equals or not variable:
            raise KnError(f"--env {entry}: expected NAME=VALUE")
        variables.append({"name": variable, "value": value})
    container: dict[str, Any] = {"image": image}
    if variables:
        container["env"] = variables
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
        for condition in meta.at(service, "status", "conditions", default=[]) if current else []:
            now = (condition["status"], condition.get("reason", ""))
            if condition["type"] != "Ready" and told.get(condition["type"]) != now:
                told[condition["type"]] = now
                message = condition.get("message") or ("done" if condition["status"] == "True" else condition["status"])
                say(f"{time.monotonic() - started:7.3f}s {condition['type']}: {message}")
        ready = meta.condition(service, "Ready") or {}
        if current and ready.get("status") == "True":
            return service
        waited = time.monotonic() - started
        # A False right after a change may be the former revision's; give the controllers a moment to look.
        if current and ready.get("status") == "False" and waited > 2:
            raise KnError(f"Service '{name}' failed: {ready.get('reason')}: {ready.get('message')}")
        if waited > READY_TIMEOUT:
            raise KnError(f"Service '{name}' is not Ready after {READY_TIMEOUT:.0f} s: {ready.get('message')}")
        await asyncio.sleep(0.1)
