"""How a probe or a lifecycle hook asks a container: HTTP, TCP, gRPC, or a command.

A cold start makes some hundred attempts a second against a port that is not open yet, so an attempt is a bare
connection and one parsed head, without an HTTP client's session. Texts are the kubelet's, as far as they make sense.
Source: kubernetes pkg/probe.
"""

import asyncio
import os
import re
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from kncore.api.meta import Obj
from torpor.embedded.node.probes import Check, Outcome
from torpor.embedded.node.protocol import RuntimeRefused
from torpor.embedded.node.runtime_client import Runtime

__all__ = ["HEAD_BYTES", "Target", "check", "run_command"]

HEAD_BYTES = 16 * 1024
"""Longest response head that is read."""
OUTPUT_BYTES = 10 * 1024
"""Of a command's output, what is kept for the message; kubelet's limit."""
MAX_REDIRECTS = 10

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r?\n)")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a container is asked."""

    host: str
    port: Callable[[int | str], int]
    """The number behind a port of the manifest (a number or a name), as it is here; 0 if there is none."""
    container: Callable[[], str]
    """The runtime's id of the container as it runs now."""
    runtime: Runtime


def check(handler: Obj, target: Target) -> Check:
    """The attempt that a probe or hook describes: one of `httpGet`, `tcpSocket`, `grpc`, `exec`, `sleep`."""

    async def attempt(deadline: float) -> Outcome:
        try:
            async with asyncio.timeout_at(deadline):
                if http := handler.get("httpGet"):
                    return await _http(http, target)
                if tcp := handler.get("tcpSocket"):
                    return await _tcp(tcp.get("host") or target.host, target.port(tcp["port"]))
                if grpc := handler.get("grpc"):
                    return await _grpc(target.host, target.port(grpc["port"]), grpc.get("service") or "", deadline)
                if command := handler.get("exec"):
                    return await run_command(target.runtime, target.container(), command.get("command") or [])
                if sleep := handler.get("sleep"):
                    await asyncio.sleep(float(sleep.get("seconds") or 0))
                return Outcome(ok=True)
        except TimeoutError:
            return Outcome(ok=False, message="context deadline exceeded")

    return attempt


async def _tcp(host: str, port: int) -> Outcome:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as exc:
        return Outcome(ok=False, message=_refusal(host, port, exc))
    writer.close()
    return Outcome(ok=True)


async def _http(spec: Obj, target: Target) -> Outcome:
    host = spec.get("host") or target.host
    port = target.port(spec["port"])
    scheme = (spec.get("scheme") or "HTTP").lower()
    path = spec.get("path") or "/"
    url = f"{scheme}://{host}:{port}{path if path.startswith('/') else '/' + path}"
    headers = [(one["name"], one.get("value") or "") for one in spec.get("httpHeaders") or ()]
    for _ in range(MAX_REDIRECTS):
        try:
            status, location = await _get(url, headers)
        except OSError as exc:
            return Outcome(ok=False, message=f'Get "{url}": {_refusal(host, port, exc)}')
        except asyncio.IncompleteReadError:
            return Outcome(ok=False, message=f'Get "{url}": EOF')
        except (asyncio.LimitOverrunError, ValueError):
            return Outcome(ok=False, message=f'Get "{url}": malformed HTTP response')
        if location and status in (301, 302, 303, 307, 308):
            following = urljoin(url, location)
            if urlsplit(following).hostname != host:
                return Outcome(ok=True)  # as the kubelet: somewhere else is not for us to judge
            url = following
            continue
        if 200 <= status < 400:
            return Outcome(ok=True)
        return Outcome(ok=False, message=f"HTTP probe failed with statuscode: {status}")
    return Outcome(ok=False, message=f'Get "{url}": stopped after {MAX_REDIRECTS} redirects')


async def _get(url: str, headers: Sequence[tuple[str, str]]) -> tuple[int, str]:
    """(status, Location) of one GET.

    Raises:
        OSError, IncompleteReadError, LimitOverrunError, ValueError: no answer, or not an HTTP one.
    """
    parts = urlsplit(url)
    context = _insecure() if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context, limit=HEAD_BYTES)
    try:
        names = {name.lower() for name, _ in headers}
        lines = [f"GET {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1"]
        if "host" not in names:
            lines.append(f"Host: {parts.netloc}")
        if "user-agent" not in names:
            lines.append("User-Agent: kube-probe/1.32")
        if "accept" not in names:
            lines.append("Accept: */*")
        lines += [f"{name}: {value}" for name, value in headers if "\r" not in value and "\n" not in value]
        lines.append("Connection: close")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
        head = await reader.readuntil(b"\r\n\r\n")
        while (match := _STATUS.match(head)) and match[1].startswith(b"1"):  # interim responses
            head = await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.transport.abort()
    if match is None:
        raise ValueError("no status line")
    location = re.search(rb"\r\nlocation:[ \t]*([^\r\n]*)", head, re.IGNORECASE)
    return int(match[1]), location[1].decode("latin-1").strip() if location else ""


async def _grpc(host: str, port: int, service: str, deadline: float) -> Outcome:
    raise NotImplementedError


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


def _refusal(host: str | None, port: int | None, exc: OSError) -> str:
    text = (exc.strerror or str(exc)).lower() if exc.errno is not None else str(exc).lower()
    if "connect call failed" in text:
        text = "connection refused"
    return f"dial tcp {host}:{port}: connect: {text}"


def _insecure() -> ssl.SSLContext:
    """The kubelet does not verify a container's certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
