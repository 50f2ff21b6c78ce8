"""HTTP/1.1 through activator and queue-proxy, as users' clients and apps speak it."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kncore.testing.rawclient import RawClient
from kncore.testing.upstream import Connection, ScriptedUpstream, ok
from tests.chain import chain
from tests.integration.test_activator import an_activator, until
from tests.integration.test_queueproxy import sidecar

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: hello.default.localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"


@asynccontextmanager
async def talking(app: int, **environ: str) -> AsyncIterator[RawClient]:
    """A client's connection to the activator."""
    async with chain(app, **environ) as proxies, await RawClient.connect(proxies.port) as client:
        yield client


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_server_sent_events_arrive_one_by_one() -> None:
    """The app says the next one only when the client has the last."""
    heard = asyncio.Semaphore(0)

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(5):
            await connection.send(b"data: %d\n\n" % number)
            await heard.acquire()

    async with ScriptedUpstream(script) as app, chain(app.port) as proxies:
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sN", "--max-time", "10", f"http://127.0.0.1:{proxies.port}/events"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert curl.stdout is not None
        for number in range(5):
            assert await curl.stdout.readline() == b"data: %d\n" % number
            assert await curl.stdout.readline() == b"\n"
            heard.release()
        assert await curl.wait() == 0


async def continuing(connection: Connection) -> None:
    while True:
        head = await connection.head()
        if b"100-continue" in head:
            await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.send(ok((await connection.body(head)).body))


async def test_a_client_that_waits_for_100_wakes_a_service() -> None:
    async with ScriptedUpstream(continuing) as app, sidecar(app.port) as queue, an_activator() as activator:
        revision = activator.revision()
        async with await activator.client() as client:
            await client.send(PUT)
            await until(lambda: revision.throttler.waiting == 1)
            with pytest.raises(TimeoutError):  # nobody says 100 for an app that is not there
                async with asyncio.timeout(0.1):
                    await client.response()
            activator.pods(queue.port)
            assert (await client.response()).status == 100
            await client.send(b"hello")
            assert (await client.response()).body == b"hello"
            assert (await client.ask(PUT)).status == 100
            await client.send(b"again")
            assert (await client.response()).body == b"again"


async def test_early_hints_pass() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok())

    async with ScriptedUpstream(script) as app, talking(app.port) as client:
        early = await client.ask(GET)
        assert (early.status, early.headers) == (103, {"link": "</a>"})
        assert (await client.response()).status == 200


async def test_headers_from_outside_mean_nothing_to_us_and_apps_get_the_truth() -> None:
    spoofed = {
        "K-Original-Host": "evil",
        "K-Kubelet-Probe": "1",
        "K-Network-Probe": "queue",
        "K-Network-Hash": "x",
        "K-Proxy-Request": "activator",
        "K-Passthrough-Lb": "true",
        "Knative-Direct-Lb": "true",
        "Knative-Serving-Revision": "other",
        "Knative-Serving-Namespace": "kube-system",
        "Knative-Serving-Default-Route": "true",
        "K_Original_Host": "evil",
        "X_Forwarded_For": "192.0.2.9",
        "User-Agent": "kube-probe/1.30",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in spoofed.items())
    async with ScriptedUpstream() as app, talking(app.port) as client:
        plain = f"GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.1\r\n{lines}\r\n"
        named = f"GET /b HTTP/1.1\r\nHost: h\r\nConnection: X-Forwarded-For, K-Proxy-Request\r\n{lines}\r\n"
        for request in (
            plain.replace("User-Agent: kube-probe/1.30\r\n", ""),
            named.replace("kube-probe/", "curl/"),
        ):
            response = await client.ask(request.encode())
            assert (response.status, response.body[:5]) == (200, request[:5].encode())
    first, second = app.requests
    assert first.headers["host"] == second.headers["host"] == "h"
    assert first.headers["x-forwarded-for"] == "192.0.2.1, 127.0.0.1, 127.0.0.1"
    assert second.headers["x-forwarded-for"] == "127.0.0.1, 127.0.0.1"
    assert first.headers["k-proxy-request"] == second.headers["k-proxy-request"] == "activator"
    kept = {name.lower() for name in spoofed} - {"k-proxy-request", "user-agent"}
    assert kept.isdisjoint(first.headers)
    assert kept.isdisjoint(second.headers)


async def test_an_app_that_answers_too_late() -> None:
    """Its answer reaches nobody: not the client it is for, who has a 504, and not the next one."""
    gone = asyncio.Event()

    async def script(connection: Connection) -> None:
        request = await connection.request()
        if request.line.startswith("GET /late "):
            await connection.reader.read()  # until the proxy gives up
            gone.set()
        await connection.send(ok(b"late" if request.line.startswith("GET /late ") else b"in time"))

    async with ScriptedUpstream(script) as app, talking(app.port, REVISION_TIMEOUT_SECONDS="1") as client:
        response = await client.ask(GET.replace(b"/", b"/late", 1))
        assert (response.status, response.body) == (504, b"request timeout")
        await gone.wait()
        for _ in range(3):
            assert (await client.ask(GET)).body == b"in time"


async def test_both_directions_at_once() -> None:
    """Full duplex, which the original has to be told about (`features.knative.dev/http-full-duplex`)."""

    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while size := int(await connection.reader.readuntil(b"\r\n"), 16):
            data = (await connection.reader.readexactly(size + 2))[:-2]
            await connection.send(b"%x\r\n%b\r\n" % (size, data.upper()))
        await connection.send(b"0\r\n\r\n")

    async with ScriptedUpstream(script) as app, talking(app.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        for word in (b"abc", b"de", b"f"):
            await client.send(b"%x\r\n%b\r\n" % (len(word), word))
            assert await client.reader.readexactly(len(word) + 5) == b"%x\r\n%b\r\n" % (len(word), word.upper())
        await client.send(b"0\r\n\r\n")
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


async def test_a_client_that_closes_its_half_gets_all_its_answers() -> None:
    async with ScriptedUpstream() as app, talking(app.port) as client:
        await client.send(GET.replace(b"/", b"/1", 1) + GET.replace(b"/", b"/2", 1))
        await until(lambda: len(app.requests) > 0)
        client.half_close()
        assert (await client.response()).body == b"GET /1 HTTP/1.1"
        assert (await client.response()).body == b"GET /2 HTTP/1.1"
        assert await client.rest() == b""
