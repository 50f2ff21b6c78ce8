"""The queue-proxy as a process, between real clients and apps."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web

from benchmarks.ports import free_ports
from kncore.testing.rawclient import RawClient
from kncore.testing.upstream import Connection, ScriptedUpstream, ok
from kncore.wire import Stat, decode_messages, decode_stat

ROOT = Path(__file__).parents[2]
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
PROBE = b"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: kube-probe/1.30\r\nK-Network-Probe: queue\r\n\r\n"
PORTS = (
    "QUEUE_SERVING_PORT",
    "TORPOR_ADMIN_PORT",
    "TORPOR_METRICS_PORT",
    "TORPOR_USER_METRICS_PORT",
    "TORPOR_PROFILING_PORT",
)
IDLE_RSS_KIB = 27 * 1024
"""Measured 25.7 MB with CPython 3.11, of which 11 MB are shared library pages; the rest is for other builds."""


class Sidecar:
    """A running queue-proxy."""

    def __init__(self, process: asyncio.subprocess.Process, ports: Mapping[str, int]) -> None:
        self.process = process
        self.port = ports["QUEUE_SERVING_PORT"]
        self.admin = ports["TORPOR_ADMIN_PORT"]
        self.metrics = ports["TORPOR_METRICS_PORT"]
        self.user_metrics = ports["TORPOR_USER_METRICS_PORT"]
        self.profiling = ports["TORPOR_PROFILING_PORT"]

    async def ask(self, data: bytes, port: int | None = None) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own."""
        async with await RawClient.connect(port or self.port) as client:
            response = await client.ask(data)
            return response.status, response.body


@asynccontextmanager
async def sidecar(app_port: int, **environ: str) -> AsyncIterator[Sidecar]:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "queueproxy",
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "SERVING_NAMESPACE": "ns",
            "SERVING_REVISION": "rev",
            "SERVING_POD": "pod",
            "SERVING_POD_IP": "127.0.0.1",
            "USER_PORT": str(app_port),
            "TORPOR_DRAIN_QUIET": "0.3",
            **{name: str(port) for name, port in ports.items()},
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    line = await process.stderr.readline()
    assert b"queue-proxy listening" in line, line
    try:
        yield Sidecar(process, ports)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_serves_probes_and_reports() -> None:
    probe = json.dumps({"tcpSocket": {"port": 0, "host": "127.0.0.1"}, "periodSeconds": 0})
    async with ScriptedUpstream() as app, sidecar(app.port, SERVING_READINESS_PROBE=probe) as proxy:
        assert await proxy.ask(PROBE) == (200, b"queue")
        assert await proxy.ask(GET) == (200, b"GET /x HTTP/1.1")
        status, body = await proxy.ask(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n", proxy.metrics)
        assert status == 200
        assert decode_stat(body).pod_name == "pod"
        assert (await proxy.ask(GET, proxy.metrics))[0] == 404
        assert (await proxy.ask(GET, proxy.admin))[0] == 404


async def test_probe_waits_for_a_slow_app_and_answers_at_once() -> None:
    [port] = free_ports(1)
    probe = json.dumps({"httpGet": {"path": "/ready", "port": port, "host": "127.0.0.1"}, "periodSeconds": 0})
    async with sidecar(port, SERVING_READINESS_PROBE=probe) as proxy:
        patient = asyncio.ensure_future(proxy.ask(PROBE))
        assert await proxy.ask(PROBE.replace(b"kube-probe/1.30", b"Knative-Activator-Probe")) == (503, b"")
        await asyncio.sleep(0.1)
        assert not patient.done()
        app = ScriptedUpstream()
        app.port = port
        async with app:
            async with asyncio.timeout(1):
                assert await patient == (200, b"queue")
            assert app.requests[0].line == "GET /ready HTTP/1.1"
            assert app.requests[0].headers["user-agent"] == "kube-probe//"


async def test_overflow_of_the_queue() -> None:
    release = asyncio.Event()

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await release.wait()
            await connection.send(ok())

    async with ScriptedUpstream(script) as app, sidecar(app.port, CONTAINER_CONCURRENCY="1") as proxy:
        asking = [asyncio.ensure_future(proxy.ask(GET)) for _ in range(15)]
        done, waiting = await asyncio.wait(asking, timeout=1)
        assert [task.result() for task in done] == [(503, b"pending request queue full\n")] * 4
        assert len(app.requests) == 1
        release.set()
        assert await asyncio.gather(*waiting) == [(200, b"hello")] * 11
        assert app.accepted == 1


async def test_an_app_that_takes_no_connections_looks_to_an_activator_like_a_pod_that_is_gone() -> None:
    [port] = free_ports(1)
    async with sidecar(port) as proxy:
        refused = f"connect to 127.0.0.1:{port}: connection refused\n".encode()
        assert await proxy.ask(GET) == (502, refused)
        async with await RawClient.connect(proxy.port) as activator:
            await activator.send(GET.replace(b"Host: h", b"Host: h\r\nK-Proxy-Request: activator"))
            assert await activator.rest() == b""


async def test_a_request_that_an_app_dies_of_is_not_handed_back_for_others_to_die_of() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(ok())
        await connection.request()
        app.refuse()
        connection.reset()

    forwarded = GET.replace(b"Host: h", b"Host: h\r\nK-Proxy-Request: activator")
    async with ScriptedUpstream(script) as app, sidecar(app.port) as proxy:
        assert await proxy.ask(forwarded) == (200, b"hello")
        # on the kept connection it may have come too late for an idle app, so it is tried once more: there is no app
        refused = f"connect to 127.0.0.1:{app.port}: connection refused\n".encode()
        assert await proxy.ask(forwarded) == (502, refused)
        assert len(app.requests) == 2


@pytest.mark.parametrize(
    ("variable", "delay"),
    [
        ("REVISION_TIMEOUT_SECONDS", "before"),
        ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "before"),
        ("REVISION_IDLE_TIMEOUT_SECONDS", "before"),
        ("REVISION_TIMEOUT_SECONDS", "within"),
        ("REVISION_IDLE_TIMEOUT_SECONDS", "within"),
    ],
)
async def test_timeouts(variable: str, delay: str) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        if delay == "within":
            await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        assert await connection.reader.read() == b""  # the request is cancelled

    async with ScriptedUpstream(script) as app, sidecar(app.port, **{variable: "1"}) as proxy:
        started = asyncio.get_running_loop().time()
        expected = (504, b"request timeout") if delay == "before" else (200, b"hirequest timeout")
        assert await proxy.ask(GET) == expected
        assert 1.0 <= asyncio.get_running_loop().time() - started < 1.6


async def test_sigterm_serves_until_it_is_quiet_and_finishes_what_is_in_flight() -> None:
    release = asyncio.Event()

    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            if request.line.startswith("GET /slow"):
                await release.wait()
            await connection.send(ok())

    async with ScriptedUpstream(script) as app, sidecar(app.port) as proxy:
        slow = asyncio.ensure_future(proxy.ask(GET.replace(b"/x", b"/slow")))
        while not app.requests:  # noqa: ASYNC110  # the app is another task's affair
            await asyncio.sleep(0.01)
        proxy.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        assert await proxy.ask(PROBE) == (503, b"shutting down\n")
        for _ in range(4):  # each request restarts the quiet period of 0.3 s
            assert await proxy.ask(GET) == (200, b"hello")
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.5)
        with pytest.raises(ConnectionRefusedError):
            await proxy.ask(GET)
        assert proxy.process.returncode is None
        release.set()
        assert await slow == (200, b"hello")
        assert await proxy.process.wait() == 0


async def test_prestop_waits_for_quiet_and_is_undone_without_sigterm() -> None:
    wait = b"GET /wait-for-drain HTTP/1.1\r\nHost: h\r\n\r\n"
    async with ScriptedUpstream() as app, sidecar(app.port, TORPOR_DRAIN_QUIET="5") as proxy:
        asking = asyncio.ensure_future(proxy.ask(wait, proxy.admin))
        await asyncio.sleep(0.2)
        assert await proxy.ask(PROBE) == (503, b"shutting down\n")
        assert await asking == (200, b"")  # after a second without SIGTERM
        assert await proxy.ask(PROBE) == (200, b"queue")
    async with ScriptedUpstream() as app, sidecar(app.port) as proxy:
        asking = asyncio.ensure_future(proxy.ask(wait, proxy.admin))
        await asyncio.sleep(0.05)
        proxy.process.send_signal(signal.SIGTERM)
        assert await asking == (200, b"")
        assert await proxy.process.wait() == 0


@asynccontextmanager
async def stat_server(frames: asyncio.Queue[tuple[str, str, Stat | None]]) -> AsyncIterator[str]:
    async def serve(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            assert message.type is WSMsgType.BINARY
            for decoded in decode_messages(message.data):
                frames.put_nowait(decoded)
        return ws

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_stats_are_pushed_every_second_and_at_once_when_woken() -> None:
    frames: asyncio.Queue[tuple[str, str, Stat | None]] = asyncio.Queue()
    async with ScriptedUpstream() as app, stat_server(frames) as url, sidecar(app.port, TORPOR_STATS_URL=url) as proxy:
        async with asyncio.timeout(5):
            namespace, name, first = await frames.get()
            assert (namespace, name) == ("ns", "rev")
            assert first is not None
            assert (first.pod_name, first.request_count) == ("pod", 0.0)
            started = asyncio.get_running_loop().time()
            await proxy.ask(GET)
            _, _, woken = await frames.get()
            assert woken is not None
            assert (woken.request_count, woken.average_concurrent_requests) == (1.0, 1.0)
            assert asyncio.get_running_loop().time() - started < 0.5
            _, _, after = await frames.get()
            assert after is not None
            assert after.request_count == 0.0


async def test_port_that_is_taken_is_one_clear_message() -> None:
    async with ScriptedUpstream() as app, sidecar(app.port) as proxy:
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "queueproxy"),
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                **dict.fromkeys(("SERVING_NAMESPACE", "SERVING_REVISION", "SERVING_POD"), "x"),
                "SERVING_POD_IP": "127.0.0.1",
                "QUEUE_SERVING_PORT": str(proxy.port),
            },
            stderr=subprocess.PIPE,
        )
        _, err = await second.communicate()
        assert second.returncode == 1
        assert err.decode().strip() == f"cannot listen on 127.0.0.1:{proxy.port}: address already in use"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_idle_memory() -> None:
    async with ScriptedUpstream() as app, sidecar(app.port) as proxy:
        await proxy.ask(GET)
        status = Path(f"/proc/{proxy.process.pid}/status").read_text()
        rss = int(status.partition("VmRSS:")[2].split()[0])
        assert rss < IDLE_RSS_KIB


async def test_works_in_a_copy_of_a_warm_process() -> None:
    """As the embedded runtime starts it: everything imported, then forked."""
    ports = free_ports(3)
    script = textwrap.dedent("""
        import os, sys
        from queueproxy.main import run
        if os.fork() == 0:
            os._exit(run(dict(os.environ)))
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    """)
    async with ScriptedUpstream() as app:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script),
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                **dict.fromkeys(("SERVING_NAMESPACE", "SERVING_REVISION", "SERVING_POD"), "x"),
                "SERVING_POD_IP": "127.0.0.1",
                "USER_PORT": str(app.port),
                "TORPOR_DRAIN_QUIET": "0",
                "QUEUE_SERVING_PORT": str(ports[0]),
                "TORPOR_ADMIN_PORT": str(ports[1]),
                "TORPOR_METRICS_PORT": str(ports[2]),
            },
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None
        assert b"queue-proxy listening" in await process.stderr.readline()
        async with await RawClient.connect(ports[0]) as client:
            assert (await client.ask(GET)).status == 200
        os.killpg(process.pid, signal.SIGTERM)
        await process.communicate()
