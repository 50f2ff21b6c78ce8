"""`python -m benchmarks.peers.aiohttp_proxy HOST:PORT BACKEND:PORT`: a reverse proxy as one writes it with aiohttp.

Server and client of aiohttp on uvloop, bodies streamed, hop-by-hop headers dropped, WebSockets relayed message by
message. It is what Torpor's data plane would be without its own codecs.
"""

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

HOP = frozenset({"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"})
NOT_COPIED = HOP | {"host", "content-length"}
SOCKET_OPENING = NOT_COPIED | {
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
}


class Relay:
    """Forwards everything to one backend."""

    def __init__(self, target: str, session: aiohttp.ClientSession) -> None:
        self._target = target
        self._session = session

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in NOT_COPIED]
        headers += [("Host", request.host), ("X-Forwarded-For", request.remote or "")]
        body = request.content if request.body_exists else None
        if body is not None and request.content_length is not None:
            headers.append(("Content-Length", str(request.content_length)))
        async with self._session.request(
            request.method, self._target + request.path_qs, headers=headers, data=body, allow_redirects=False
        ) as answer:
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP]
            length = answer.content_length
            if length is not None and length <= 65536:
                content = await answer.read()
                return web.Response(status=answer.status, headers=kept, body=content)
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    async def _websocket(self, request: web.BaseRequest) -> web.StreamResponse:
        inner = web.WebSocketResponse(autoping=False)
        await inner.prepare(request)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in SOCKET_OPENING]
        opening = self._session.ws_connect(self._target + request.path_qs, headers=headers, autoping=False)
        async with opening as outer, asyncio.TaskGroup() as group:
            group.create_task(_pump(inner, outer))
            group.create_task(_pump(outer, inner))
        return inner


async def _pump(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    sink: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await sink.send_bytes(message.data)
    await sink.close()


async def main(listen: str, backend: str) -> None:
    """Serve for ever."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3600)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        server = web.Server(Relay(f"http://{backend}", session), access_log=None)
        host, _, port = listen.rpartition(":")
        await asyncio.get_running_loop().create_server(server, host, int(port), backlog=4096)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:3]))
