"""An app for the platform tests that talks in all ways HTTP knows, and dies when told to ($FAIL: at its start)."""

import asyncio
import os
import sys
import time

from aiohttp import web


async def hello(request: web.Request) -> web.Response:
    """Who answers."""
    return web.Response(text=f"{os.environ['K_REVISION']} {os.environ.get('NAME', '-')} {os.getpid()}\n")


async def upload(request: web.Request) -> web.Response:
    """How many bytes came."""
    count = 0
    async for chunk in request.content.iter_chunked(1 << 16):
        count += len(chunk)
    return web.Response(text=f"{count}\n")


async def download(request: web.Request) -> web.StreamResponse:
    """As many bytes as asked for."""
    left = int(request.query["bytes"])
    response = web.StreamResponse(headers={"Content-Length": str(left)})
    await response.prepare(request)
    while left:
        size = min(left, 1 << 16)
        await response.write(b"x" * size)
        left -= size
    return response


async def events(request: web.Request) -> web.StreamResponse:
    """Server-sent events: when each was sent."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for _ in range(5):
        await response.write(f"data: {time.time()}\n\n".encode())
        await asyncio.sleep(0.2)
    return response


async def echo(request: web.Request) -> web.WebSocketResponse:
    """A WebSocket that repeats."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def die(request: web.Request) -> web.Response:
    """No answer: the app is gone."""
    os._exit(3)


if os.environ.get("FAIL"):
    sys.stderr.write(os.environ["FAIL"] + "\n")
    sys.exit(42)
if os.environ.get("MUTE"):
    time.sleep(3600)
app = web.Application(client_max_size=1 << 40)
app.add_routes([
    web.get("/", hello),
    web.post("/upload", upload),
    web.get("/download", download),
    web.get("/events", events),
    web.get("/echo", echo),
    web.get("/die", die),
])  # fmt: skip
web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None, shutdown_timeout=1)
