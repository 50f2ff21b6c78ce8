"""The last hop is a parser that is not ours: servers that apps run under see what the smuggling table says they see.

uvicorn and waitress are what `torpor deploy` runs apps under; aiohttp has a parser of its own.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import uvicorn
import waitress
from aiohttp import web

from benchmarks.ports import free_ports
from kncore.testing.rawclient import RawClient
from tests.integration.test_http1_proxy import proxying
from tests.smuggling import REQUESTS

CANARY = b"GET /canary HTTP/1.1\r\nHost: h\r\n\r\n"
Seen = list[str]
OWN_LIMITS = {"aiohttp": {"valid: as long a target as allowed", "valid: largest head"}}
"""Requests that are larger than a server takes."""


@asynccontextmanager
async def under_aiohttp(seen: Seen) -> AsyncIterator[int]:
    async def handle(request: web.BaseRequest) -> web.Response:
        seen.append(f"{request.method} {len(await request.read())}")
        return web.Response(text=seen[-1])

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@asynccontextmanager
async def under_uvicorn(seen: Seen) -> AsyncIterator[int]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        seen.append(f"{scope['method']} {size}")
        body = seen[-1].encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    [port] = free_ports(1)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off", http="httptools")
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server._serve())
    while not server.started:  # noqa: ASYNC110  it has no event for it
        await asyncio.sleep(0.01)
    yield port
    server.should_exit = True
    await serving


@asynccontextmanager
async def under_waitress(seen: Seen) -> AsyncIterator[int]:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(f"{environ['REQUEST_METHOD']} {len(environ['wsgi.input'].read())}")
        body = seen[-1].encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    server = waitress.create_server(app, host="127.0.0.1", port=0, threads=1)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield server.effective_port
    server.close()
    await asyncio.to_thread(thread.join, 5)


@pytest.mark.parametrize("name", ["aiohttp", "uvicorn", "waitress"])
async def test_server_reads_what_we_mean(name: str) -> None:
    server: Callable[[Seen], AbstractAsyncContextManager[int]] = globals()[f"under_{name}"]
    seen: Seen = []
    wrong: dict[str, Any] = {}
    async with server(seen) as port, proxying(port) as proxy:
        for case in REQUESTS:
            if not case.app or case.id in OWN_LIMITS.get(name, ()):
                continue
            before = len(seen)
            async with await RawClient.connect(proxy.port) as client, asyncio.timeout(10):
                await client.send(case.data)
                statuses = []
                for number, expected in enumerate(case.answers):
                    head = number < len(case.app) and case.app[number].startswith("HEAD ")
                    while (response := await client.response(head=head)).status < 200:
                        pass
                    statuses.append(response.status)
                    if response.status != expected:
                        break
                expected_of_app = [f"{request.split(' ')[0]} {request.split(' ')[-1]}" for request in case.app]
                if statuses != case.answers or seen[before:] != expected_of_app:
                    wrong[case.id] = (statuses, seen[before:])
    assert wrong == {}
