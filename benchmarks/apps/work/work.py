"""An app whose requests take as long as they say: /?sleep=100&size=2000 answers 2,000 bytes after 100 ms.

$START delays its readiness by so many seconds, as an app does that loads much. It costs next to nothing per request, so
that two processors carry the platform under test and hundreds of requests that wait. On SIGTERM it finishes what it has
begun.
"""

import asyncio
import os
import re
import signal
import time

PORT = int(os.environ.get("PORT", "8080"))
ASKED = re.compile(rb"^GET [^ ]*?(?:[?&]sleep=(\d+))?(?:[?&]size=(\d+))? ")


class Worker(asyncio.Protocol):
    """One connection: requests one after another, as a proxy sends them; none of them has a body."""

    busy = 0
    """Requests begun and not answered, of all connections."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # a stream's
        self._pending = b""
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while True:
            head, end, rest = self._pending.partition(b"\r\n\r\n")
            if not end:
                return
            self._pending = rest
            asked = ASKED.match(head)
            sleep, size = (int(one or 0) for one in asked.groups()) if asked else (0, 0)
            last = b"connection: close" in head.lower()
            Worker.busy += 1
            if sleep:
                self._loop.call_later(sleep / 1000, self._answer, size, last)
            else:
                self._answer(size, last)

    def _answer(self, size: int, last: bool) -> None:
        Worker.busy -= 1
        body = b"x" * size or b"done\n"
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        if last:
            self._transport.close()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(Worker, "127.0.0.1", PORT, backlog=4096)
    await stop.wait()
    server.close()
    while Worker.busy:  # noqa: ASYNC110 - an event would cost every request something
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    time.sleep(float(os.environ.get("START", "0")))
    asyncio.run(serve())
