"""Apps that close kept connections (knative/serving#12414): no request may fail for it, whatever it carries.

The app is a thread with blocking sockets, so that it does what it does while the proxy's loop does something else.
"""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop

from kncore.net.errors import UpstreamError
from kncore.net.exchange import Exchange
from kncore.net.pool import Pool, UpstreamAddress
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from kncore.testing.rawclient import RawClient

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"


class App:
    """Answers requests, and closes a connection that was idle for `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.kept: list[socket.socket] = []
        self.closed = 0
        self.served = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.kept.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(self.limit)
        received = b""
        try:
            while data := connection.recv(65536):
                received += data
                while len(received) >= len_of(received):
                    received = received[len_of(received) :]
                    self.served += 1
                    connection.sendall(OK)
        except OSError:  # also its time-out
            self.closed += 1
        finally:
            connection.close()

    def close(self) -> None:
        self.listener.close()
        for connection in self.kept:
            connection.close()


def len_of(request: bytes) -> int:
    """Bytes of the request that begins here; more than there are while its head is not complete."""
    end = request.find(b"\r\n\r\n")
    if end < 0:
        return len(request) + 1
    return end + 4 + (5 if request.startswith(b"POST") else 0)


@asynccontextmanager
async def proxying(app: App) -> AsyncIterator[tuple[int, Pool, UpstreamAddress]]:
    """(port, pool, the app to the pool) of a proxy in front of the app."""
    ticker = Ticker()
    async with Pool(ticker=ticker) as pool:
        upstream = pool.upstream("127.0.0.1", app.port)
        assert isinstance(upstream, UpstreamAddress)

        def other(exchange: Exchange, failure: UpstreamError) -> bool:
            raise AssertionError(f"an attempt failed where the proxy knew better: {failure}")

        server = Server(lambda exchange: exchange.forward(upstream, on_failure=other), ticker=ticker)
        port = await server.listen("127.0.0.1", 0)
        try:
            yield port, pool, upstream
        finally:
            await server.drain(asyncio.get_running_loop().time() + 0.5)
            ticker.close()
            app.close()
        assert pool.statistics().in_use == 0


def on_uvloop(main) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_post_that_meets_the_end_of_a_kept_connection_in_one_look_at_the_sockets() -> None:
    """Both lie in the kernel when the loop looks: the request first, then the app's FIN."""

    async def main() -> None:
        app = App(60.0)
        loop = asyncio.get_running_loop()
        async with proxying(app) as (port, pool, upstream):
            with socket.socket() as client:
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", port))
                await loop.sock_sendall(client, POST)
                assert (await loop.sock_recv(client, 1000)).startswith(b"HTTP/1.1 200 OK\r\n")
                pool.visit(pool.now())
                assert upstream.idle == 1
                client.send(POST)
                app.kept[-1].shutdown(socket.SHUT_RDWR)
                time.sleep(0.05)  # the loop does not look meanwhile
                assert (await loop.sock_recv(client, 1000)).startswith(b"HTTP/1.1 200 OK\r\n")
                assert len(app.kept) == 2

    on_uvloop(main)


def test_connections_older_than_the_learned_limit_are_not_used_between_two_looks_at_the_clock() -> None:
    async def main() -> None:
        app = App(60.0)
        async with proxying(app) as (port, pool, upstream), await RawClient.connect(port) as client:
            upstream._learn(1.0)
            assert (await client.ask(POST)).status == 200
            pool.visit(pool.now() - 0.9)  # as if it had been idle for so long
            assert (await client.ask(POST)).status == 200
            assert len(app.kept) == 2
            assert (await client.ask(POST)).status == 200
            assert len(app.kept) == 2, "a young one is used again"

    on_uvloop(main)


def test_clients_that_ask_as_often_as_the_app_closes() -> None:
    """GETs in the very moment when the app gives up their connection; POSTs, which nobody may repeat, shortly before
    and after. (What is on its way when the app closes is lost for a POST, and for every proxy.)
    """
    limit = 1.0

    async def main() -> None:
        app = App(limit)
        statuses: list[int] = []

        async def run(raw: bytes, pause: float) -> None:
            async with await RawClient.connect(port) as client:
                for _ in range(3):
                    statuses.append((await client.ask(raw)).status)
                    await asyncio.sleep(pause)

        async with proxying(app) as (port, _, upstream):
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    raw, pause = ((GET, 0.0), (POST, 0.4), (POST, -0.4), (GET, 0.001))[number % 4]
                    group.create_task(run(raw, limit + pause))
            assert statuses == [200] * 60
            assert app.served >= 60
            assert upstream._idle_time < limit, "learned"

    on_uvloop(main)
