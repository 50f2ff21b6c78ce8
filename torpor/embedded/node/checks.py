"""How a probe or a lifecycle hook asks a container: HTTP, TCP, gRPC, or a command.

The network probes are `kncore.net.probe`'s, a command runs through the container runtime, and what they find becomes
an `Outcome` with the text that goes into an Event. Source: kubernetes pkg/probe.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kncore.api.meta import Obj
from kncore.net import probe
from torpor.embedded.node.probes import Check, Outcome
from torpor.embedded.node.protocol import RuntimeRefused
from torpor.embedded.node.runtime_client import Runtime

__all__ = ["Target", "check", "run_command"]

OUTPUT_BYTES = 10 * 1024
"""Of a command's output, what is kept for the message; kubelet's limit."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a container is asked."""

    address: Callable[[int | str], tuple[str, int]]
    """Where a port of the manifest (a number or a name) is on this machine; port 0 if there is none of that name."""
    container: Callable[[], str]
    """The runtime's id of the container as it runs now."""
    runtime: Runtime


def check(handler: Obj, target: Target) -> Check:
    """The attempt that a probe or hook describes: one of `httpGet`, `tcpSocket`, `grpc`, `exec`, `sleep`."""

    async def attempt(deadline: float) -> Outcome:
        try:
            async with asyncio.timeout_at(deadline):
                if http := handler.get("httpGet"):
                    return await _http(http, target, deadline)
                if tcp := handler.get("tcpSocket"):
                    host, port = target.address(tcp["port"])
                    return _outcome(await probe.tcp(tcp.get("host") or host, port, deadline))
                if grpc := handler.get("grpc"):
                    return _outcome(
                        await probe.grpc(*target.address(grpc["port"]), grpc.get("service") or "", deadline)
                    )
                if command := handler.get("exec"):
                    return await run_command(target.runtime, target.container(), command.get("command") or [])
                if sleep := handler.get("sleep"):
                    await asyncio.sleep(float(sleep.get("seconds") or 0))
                return Outcome(ok=True)
        except TimeoutError:
            return Outcome(ok=False, message="context deadline exceeded")

    return attempt


async def _http(spec: Obj, target: Target, deadline: float) -> Outcome:
    host, port = target.address(spec["port"])
    reason = await probe.http(
        spec.get("host") or host,
        port,
        spec.get("path") or "/",
        deadline,
        headers=[(one["name"], one.get("value") or "") for one in spec.get("httpHeaders") or ()],
        tls=spec.get("scheme") == "HTTPS",
    )
    if reason is not None and reason.startswith("status "):
        reason = f"HTTP probe failed with statuscode: {reason.removeprefix('status ')}"
    return _outcome(reason)


def _outcome(reason: str | None) -> Outcome:
    return Outcome(ok=reason is None, message=reason or "")


async def run_command(runtime: Runtime, container: str, argv: Sequence[str]) -> Outcome:
    """Run a command in the container; it is killed if we are cancelled."""
    loop = asyncio.get_running_loop()
    output = bytearray()
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(write, True)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def drain() -> None:
        # All of it, or the command would wait for us; only the beginning is kept.
        with suppress(BlockingIOError):
            while data := os.read(read, 64 * 1024):
                output.extend(data[: OUTPUT_BYTES - len(output)])
            loop.remove_reader(read)

    try:
        loop.add_reader(read, drain)
        try:
            session = await runtime.exec(container, argv, stdio=(null, write, write))
        except RuntimeRefused as exc:
            return Outcome(ok=False, message=str(exc))
        try:
            ended = await session.wait()
        finally:
            session.kill()
        drain()
    finally:
        loop.remove_reader(read)
        for fd in (read, write, null):
            os.close(fd)
    text = output.decode("utf-8", "replace").strip()
    return Outcome(ok=ended.code == 0, message=text or f"exit status {ended.code}")
