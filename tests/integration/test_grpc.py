"""gRPC by its own client and server (grpcio), through a queue-proxy process and an activator before it."""

import asyncio
import collections
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web

from activator.backends import Endpoints
from kncore.testing.rawclient import RawClient

from .test_activator import KEY, Activator, an_activator, until
from .test_queueproxy import sidecar

ROOT = Path(__file__).parents[2]
APP = ROOT / "tests/data/apps/calls"
HOST = "hello.default.localhost"
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def an_address() -> str:
    """Pods of h2c revisions listen on port 8013, each on an address of its own."""
    while True:
        address = f"127.201.{random.randrange(256)}.{random.randrange(1, 255)}"
        with socket.socket() as holder, contextlib.suppress(OSError):
            holder.bind((address, 8013))
            return address


@asynccontextmanager
async def calls_app(**environ: str) -> AsyncIterator[int]:
    """The app of tests/data/apps/calls as a process; its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "app.py", cwd=APP, env={**os.environ, **environ}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Service:
    """The service under test, as its clients reach it."""

    def __init__(
        self,
        target: str,
        pod: str,
        activator: Activator | None = None,
        host: str = HOST,
        process: asyncio.subprocess.Process | None = None,
    ) -> None:
        self.target = target
        self.pod = pod
        self.activator = activator
        self.host = host
        self.process = process

    @asynccontextmanager
    async def channel(self, *options: tuple[str, Any]) -> AsyncIterator[grpc.aio.Channel]:
        given = (*UNLIMITED, ("grpc.default_authority", self.host), ("grpc.use_local_subchannel_pool", 1), *options)
        async with grpc.aio.insecure_channel(self.target, options=given) as channel:
            yield channel


@asynccontextmanager
async def queue_proxy(app_port: int, **environ: str) -> AsyncIterator[Service]:
    """A queue-proxy process in front of an app that speaks h2c."""
    address = an_address()
    async with sidecar(app_port, SERVING_POD_IP=address, QUEUE_SERVING_PORT="8013", **environ) as made:
        yield Service(f"{address}:8013", f"{address}:8013", process=made.process)


@asynccontextmanager
async def both(app_port: int, **environ: str) -> AsyncIterator[Service]:
    """An activator before a queue-proxy."""
    async with queue_proxy(app_port, **environ) as queue, an_activator() as activator:
        activator.revision(http2=True)
        activator.backends.update(KEY, Endpoints(not_ready=frozenset({queue.pod})))
        await until(lambda: activator.proxy.revisions[KEY].throttler.capacity > 0)
        yield Service(f"127.0.0.1:{activator.public_port}", queue.pod, activator)


CHAINS = {"queue-proxy": queue_proxy, "both proxies": both}


@pytest.fixture(params=CHAINS, scope="module")
def way(request: pytest.FixtureRequest) -> Any:
    return CHAINS[request.param]


@pytest.fixture
async def service(way: Any) -> AsyncIterator[Service]:
    async with calls_app() as port, way(port) as made:
        yield made


def method(channel: grpc.aio.Channel, name: str) -> Any:
    kind = {"Download": "unary_stream", "Upload": "stream_unary", "Chat": "stream_stream"}.get(name, "unary_unary")
    return getattr(channel, kind)(f"/test.Calls/{name}")


async def test_every_kind_of_call(service: Service) -> None:
    async with service.channel() as channel:
        assert await method(channel, "Echo")(b"hello", timeout=10) == b"hello"
        assert await method(channel, "Echo")(b"", timeout=10) == b""
        got = [message async for message in method(channel, "Download")(b"300 1000", timeout=10)]
        assert [int(message[:8]) for message in got] == list(range(300))
        assert await method(channel, "Upload")(iter([b"x" * 1000] * 300), timeout=10) == b"300 300000"
        async with asyncio.timeout(10):
            chat = method(channel, "Chat")()
            for number in range(50):  # each answer before the next question
                await chat.write(b"%d" % number)
                assert await chat.read() == b"%d" % number
            await chat.done_writing()
            assert await chat.read() is grpc.aio.EOF
            assert await chat.code() is grpc.StatusCode.OK


async def test_large_messages(service: Service) -> None:
    large = os.urandom(12_000_000)
    async with service.channel() as channel:
        assert await method(channel, "Echo")(large, timeout=20) == large
        got = [len(message) async for message in method(channel, "Download")(b"4 3000000", timeout=20)]
        assert got == [3_000_008] * 4


async def test_many_calls_at_once_over_one_connection(service: Service) -> None:
    async with service.channel() as channel:
        echo = method(channel, "Echo")
        messages = [b"%d" % number for number in range(600)]
        assert await asyncio.gather(*(echo(message, timeout=20) for message in messages)) == messages


async def test_the_apps_errors_and_metadata_pass(service: Service) -> None:
    async with service.channel() as channel:
        for code in (1, 3, 5, 9, 13, 16):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(channel, "Fail")(b"%d so %% sorry" % code, timeout=10)
            assert caught.value.code().value[0] == code
            assert caught.value.details() == "so % sorry"
            assert caught.value.trailing_metadata()["x-trailing"] == "there"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test.Calls/Nothing")(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        metadata = (("x-text", "a, b"), ("x-raw-bin", b"\0\xff"), ("x-twice", "1"), ("x-twice", "2"))
        call = method(channel, "Tell")(b"", timeout=10, metadata=metadata)
        assert "'te'" not in (await call).decode()
        assert [item for item in await call.initial_metadata() if item[0] in dict(metadata)] == list(metadata)
        assert [item for item in await call.trailing_metadata() if item[0] in dict(metadata)] == list(metadata)


async def test_deadlines_and_cancelled_calls_reach_the_app(service: Service) -> None:
    async with service.channel() as channel:
        wait = method(channel, "Wait")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wait(b"30", timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        call = wait(b"30")
        await asyncio.sleep(0.3)
        call.cancel()
        async with asyncio.timeout(10):
            while await wait(b"0.01") != b"2 cancelled before":
                pass


async def test_a_client_that_breaks_off_a_stream_stops_the_app(service: Service) -> None:
    async with service.channel() as channel:
        endless = method(channel, "Download")(b"100000 100000")
        assert (await endless.read())[:8] == b"00000000"
        endless.cancel()
        assert await method(channel, "Echo")(b"next", timeout=10) == b"next"


async def test_http1_clients_are_served_too(service: Service) -> None:
    host, _, port = service.target.rpartition(":")
    async with await RawClient.connect(int(port), host) as client:
        head = f"POST /test.Calls/Echo HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/grpc\r\nTE: trailers\r\n"
        for _ in range(2):
            answer = await client.ask(head.encode() + b"Content-Length: 8\r\n\r\n\0\0\0\0\3abc")
            assert (answer.status, answer.body) == (200, b"\0\0\0\0\3abc")
            assert answer.trailers["grpc-status"] == "0"


async def test_an_app_that_closes_its_connections_all_the_time_costs_no_call(way: Any) -> None:
    """GOAWAY every fifth of a second, under calls of every kind."""
    async with calls_app(MAX_AGE_MS="200") as port, way(port) as service, service.channel() as channel:
        echo, upload = method(channel, "Echo"), method(channel, "Upload")
        until = asyncio.get_running_loop().time() + 2.0
        made = 0

        async def calls() -> None:
            nonlocal made
            while asyncio.get_running_loop().time() < until:
                assert await echo(b"x" * 100, timeout=10) == b"x" * 100
                assert await upload(iter([b"x"] * 3), timeout=10) == b"3 3"
                made += 2

        await asyncio.gather(*(calls() for _ in range(20)))
        assert made > 100


async def test_calls_beyond_the_streams_an_app_takes_wait(way: Any) -> None:
    async with calls_app(MAX_STREAMS="10") as port, way(port) as service, service.channel() as channel:
        wait = method(channel, "Wait")
        answers = await asyncio.gather(*(wait(b"0.02", timeout=20) for _ in range(200)))
        assert set(answers) == {b"0 cancelled before"}


async def test_pods_that_leave_and_die_cost_no_call() -> None:
    """A pod is stopped under load; then an app dies between calls, of which the activator is told nothing."""
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(calls_app()) for _ in range(2)]
        doomed = await asyncio.create_subprocess_exec(
            sys.executable, "app.py", cwd=APP, env=dict(os.environ), stdout=subprocess.PIPE
        )
        assert doomed.stdout is not None
        ports.append(int(await doomed.stdout.readline()))
        queues = [await stack.enter_async_context(queue_proxy(port)) for port in ports]
        activator = await stack.enter_async_context(an_activator())
        activator.revision(http2=True)
        activator.backends.update(KEY, Endpoints(not_ready=frozenset(queue.pod for queue in queues)))
        await until(lambda: activator.proxy.revisions[KEY].throttler.capacity > 0)
        channel = await stack.enter_async_context(Service(f"127.0.0.1:{activator.public_port}", "").channel())
        echo = method(channel, "Echo")
        stopped = asyncio.Event()
        made = 0

        async def calls() -> None:
            nonlocal made
            while not stopped.is_set():
                assert await echo(b"x" * 100, timeout=10) == b"x" * 100
                made += 1

        async def faults() -> None:
            await until(lambda: made > 100)
            leaving = queues[0].process
            assert leaving is not None
            leaving.terminate()
            activator.backends.update(KEY, Endpoints(ready=frozenset(queue.pod for queue in queues[1:])))
            await leaving.wait()
            before = made
            await until(lambda: made > before + 100)
            stopped.set()

        await asyncio.gather(faults(), *(calls() for _ in range(20)))
        doomed.kill()
        await doomed.wait()
        await asyncio.gather(*(echo(b"y", timeout=10) for _ in range(50)))


@pytest.mark.skipif(shutil.which("h2load") is None, reason="no h2load here")
async def test_a_load_of_calls(service: Service, tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_bytes(b"\0\0\0\0\3abc")
    wanted = ["-H", f":authority: {HOST}", "-H", "content-type: application/grpc", "-H", "te: trailers"]
    load = await asyncio.create_subprocess_exec(
        *("h2load", "-n", "3000", "-c", "8", "-m", "16", "-d", str(message), *wanted),
        f"http://{service.target}/test.Calls/Echo",
        stdout=subprocess.PIPE,
    )
    out, _ = await load.communicate()
    assert b"3000 succeeded, 0 failed, 0 errored, 0 timeout" in out
    assert b"3000 2xx" in out


async def test_a_websocket_of_a_service_in_http2_goes_by_http1(way: Any) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with (
            way(port) as service,
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://{service.target}/", headers={"Host": HOST}) as client,
        ):
            await client.send_bytes(b"hello")
            assert (await client.receive(timeout=10)).data == b"hello"
    finally:
        await runner.cleanup()


# -- what we answer ourselves ------------------------------------------------------------------------------------------


async def failing(channel: grpc.aio.Channel, name: str = "Echo", request: bytes = b"x", **options: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(channel, name)(request, timeout=20, **options)
    return caught.value


async def test_a_call_that_takes_too_long_is_told_so(way: Any) -> None:
    async with calls_app() as port, way(port, REVISION_TIMEOUT_SECONDS="1") as service, service.channel() as channel:
        error = await failing(channel, "Wait", b"30")
        assert (error.code(), error.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, "request timeout")
        chat = method(channel, "Chat")(timeout=20)
        await chat.write(b"hello")
        assert await chat.read() == b"hello"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await chat.read()
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "request timeout",
        )


async def test_an_app_that_is_not_there_is_unavailable() -> None:
    async with calls_app() as port:
        pass
    async with queue_proxy(port) as service, service.channel() as channel:
        error = await failing(channel)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "connection refused" in error.details()


async def test_an_app_whose_port_is_not_named_h2c_is_told_of() -> None:
    async with calls_app() as port, sidecar(port) as proxy:
        async with Service(f"127.0.0.1:{proxy.port}", "").channel(("grpc.enable_retries", 0)) as channel:
            error = await failing(channel)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == "malformed response: it is HTTP/2, but the port is not named h2c"


async def test_an_app_that_dies_in_the_middle_is_unavailable(way: Any) -> None:
    app = subprocess.Popen([sys.executable, "app.py"], cwd=APP, stdout=subprocess.PIPE)
    assert app.stdout is not None
    port = int(await asyncio.to_thread(app.stdout.readline))
    try:
        async with way(port) as service, service.channel(("grpc.enable_retries", 0)) as channel:
            chat = method(channel, "Chat")(timeout=20)
            await chat.write(b"hello")
            assert await chat.read() == b"hello"
            app.kill()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await chat.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "in the middle" in caught.value.details()
    finally:
        app.kill()
        app.wait()
        app.stdout.close()


async def test_more_calls_than_may_wait_are_unavailable() -> None:
    async with (
        calls_app() as port,
        queue_proxy(port, CONTAINER_CONCURRENCY="1") as service,
        service.channel(("grpc.enable_retries", 0)) as channel,
    ):
        calls = [method(channel, "Wait")(b"0.15", timeout=20) for _ in range(14)]
        seen = collections.Counter(await asyncio.gather(*(call.code() for call in calls)))
        assert seen == {grpc.StatusCode.OK: 11, grpc.StatusCode.UNAVAILABLE: 3}
        details = {await call.details() for call in calls} - {""}
        assert all("pending request queue full" in detail for detail in details)


async def test_hosts_that_nobody_serves_are_unimplemented() -> None:
    async with an_activator() as activator:
        async with Service(f"127.0.0.1:{activator.public_port}", "", host="other.example").channel() as channel:
            error = await failing(channel)
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "other.example" in error.details()


async def test_a_revision_that_wakes_takes_the_calls_that_waited() -> None:
    async with calls_app() as port, queue_proxy(port) as queue, an_activator() as activator:
        activator.revision(http2=True)
        service = Service(f"127.0.0.1:{activator.public_port}", queue.pod, activator)
        async with service.channel() as channel:
            waiting = [asyncio.ensure_future(method(channel, "Echo")(b"%d" % n, timeout=20)) for n in range(20)]
            revision = activator.proxy.revisions[KEY]
            await until(lambda: revision.throttler.statistics().waiting == 20)
            for one in waiting[:5]:
                one.cancel()
            await until(lambda: revision.throttler.statistics().waiting == 15)
            activator.backends.update(KEY, Endpoints(not_ready=frozenset({queue.pod})))
            assert await asyncio.gather(*waiting[5:]) == [b"%d" % n for n in range(5, 20)]
