"""The listening socket, with the bounds aiohttp does not have by itself.

Connections are counted and one too many is answered `503` and closed; one that has sent no complete request within
`FIRST_REQUEST` is dropped, so that idle sockets cannot fill the table.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.replies import error

__all__ = ["Listener"]

FIRST_REQUEST = 60.0
"""Seconds a new connection has for its first request."""
IDLE = 75.0
"""Seconds a kept-alive connection may wait for its next request."""
CONNECTIONS = 2048
LINE_BYTES = 16 << 10
"""Request line; long selectors and many `command` parameters of exec fit."""
HEADER_BYTES = 64 << 10
"""One header; aiohttp bounds their number to 128."""
SWEEP = 15.0
BACKLOG = 512
GRACE = 0.5
"""Seconds that requests under way have when the server stops; writes take a millisecond, followed logs never end."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Server(web.Server):
    """Remembers when connections came, until their first request."""

    def __init__(self, handler: Handler, **options: Any) -> None:
        super().__init__(handler, **options)
        self.silent: dict[RequestHandler, float] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self.silent[handler] = asyncio.get_running_loop().time()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        self.silent.pop(handler, None)
        super().connection_lost(handler, exc)


class Listener:
    """Accepts connections and hands their requests to a handler.

    Args:
        context: TLS settings; None: plain HTTP.
        body_bytes: longest request body.
    """

    def __init__(self, handler: Handler, context: ssl.SSLContext | None, *, body_bytes: int) -> None:
        self._handler = handler
        self._context = context
        self._body_bytes = body_bytes
        self._server: _Server | None = None
        self._runner: web.ServerRunner | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self.port = 0
        """The port listened on, once started."""

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._server.connections) if self._server is not None else 0

    async def start(self, host: str, port: int, sock: socket.socket | None = None) -> None:
        """Listen on an address, or on a socket that listens already.

        Raises:
            OSError: the address is taken or not ours.
        """
        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            if self._server is not None:
                self._server.silent.pop(protocol, None)
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=self._body_bytes)

        # cancelled with its client: an idle watch must not outlive its connection; commits are shielded
        self._server = _Server(
            self._handle,
            request_factory=request,
            handler_cancellation=True,
            keepalive_timeout=IDLE,
            access_log=None,
            lingering_time=2.0,
            max_line_size=LINE_BYTES,
            max_field_size=HEADER_BYTES,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=GRACE)
        await self._runner.setup()
        site: web.BaseSite
        if sock is not None:
            site = web.SockSite(self._runner, sock, ssl_context=self._context, backlog=BACKLOG)
        else:
            site = web.TCPSite(self._runner, host, port, ssl_context=self._context, backlog=BACKLOG)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._sweep = loop.call_later(SWEEP, self._drop_silent)

    async def stop(self) -> None:
        """Stop accepting, and end what is under way within `GRACE`."""
        if self._sweep is not None:
            self._sweep.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.connections > CONNECTIONS:
            reply = error(StatusError(503, "ServiceUnavailable", f"too many connections (limit {CONNECTIONS})"))
            reply.force_close()
            return reply
        return await self._handler(request)

    def _drop_silent(self) -> None:
        loop = asyncio.get_running_loop()
        if self._server is not None:
            for handler, since in list(self._server.silent.items()):
                if loop.time() - since > FIRST_REQUEST:
                    handler.force_close()
                    self._server.silent.pop(handler, None)
        self._sweep = loop.call_later(SWEEP, self._drop_silent)
