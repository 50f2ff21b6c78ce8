"""Long answers: watches and followed logs, written as they come, within bounds.

A client that does not read makes `write` wait; after `WRITE_DEADLINE` its connection is dropped. What meanwhile gathers
for its watch is bounded by the watcher, which is cut and told so with `410 Expired`.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from aiohttp import web

from kncore.clock import Clock
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.replies import Frames
from torpor.embedded.apiserver.store import Event, Record, Store, Watcher

__all__ = ["send_chunks", "send_watch"]

WRITE_DEADLINE = 30.0
"""Seconds a client may leave a full connection unread."""
BOOKMARKS = 60.0
"""Seconds between bookmarks, as in Kubernetes."""
LIFE = (1800.0, 3600.0)
"""Seconds after which a watch without `timeoutSeconds` ends; spread, so that clients do not all come back at once."""


class Outgoing:
    """The body of a chunked response that must not be held up by its reader for ever."""

    def __init__(self, request: web.BaseRequest, media_type: str) -> None:
        self._request = request
        self.response = web.StreamResponse(headers={"Content-Type": media_type, "Cache-Control": "no-cache, private"})

    async def start(self) -> None:
        """Send the head."""
        await self.response.prepare(self._request)

    async def write(self, data: bytes) -> None:
        """Send a piece.

        Raises:
            ConnectionError: the reader is gone, or did not read for too long.
        """
        try:
            async with asyncio.timeout(WRITE_DEADLINE):
                await self.response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionAbortedError("the client does not read") from None


async def send_watch(
    request: web.BaseRequest,
    watcher: Watcher,
    initial: list[Record] | None,
    frames: Frames,
    *,
    store: Store,
    clock: Clock,
    bookmarks: bool,
    initial_bookmark: bool,
    timeout: float | None,
) -> web.StreamResponse:
    """Stream a watch until it times out, is cut, or its client leaves.

    Args:
        initial: present objects that come first as ADDED events; None when the watch continues from a version.
        bookmarks: tell from time to time how far the watch has come.
        initial_bookmark: mark the end of the initial objects.
        timeout: seconds; None: somewhere in `LIFE`.
    """
    loop = asyncio.get_running_loop()
    version = store.version  # before the first await: what `initial` shows
    out = Outgoing(request, "application/json")
    with contextlib.closing(watcher), contextlib.suppress(ConnectionError):
        await out.start()
        if initial is not None:
            now = clock.wall()
            first = [frames.event("ADDED", record, now) for record in initial]
            if initial_bookmark:
                first.append(frames.bookmark(version, initial_end=True))
            if first:
                await out.write(b"".join(first))
        end = loop.time() + (random.uniform(*LIFE) if timeout is None else timeout)
        next_bookmark = loop.time() + BOOKMARKS
        while True:
            events: list[Event] = []
            try:
                async with asyncio.timeout_at(min(end, next_bookmark) if bookmarks else end):
                    events = await watcher.take()
            except TimeoutError:
                if bookmarks:
                    # nothing waits for this watcher, so it has seen everything that was published
                    await out.write(frames.bookmark(store.version))
                    next_bookmark = loop.time() + BOOKMARKS
                if loop.time() >= end:
                    break
                continue
            except StatusError as fault:
                await out.write(frames.error(fault))
                break
            if not events:
                break
            now = clock.wall()
            await out.write(b"".join([frames.event(event.type, event.record, now) for event in events]))
        await out.response.write_eof()
    return out.response


async def send_chunks(request: web.BaseRequest, chunks: AsyncIterator[bytes]) -> web.StreamResponse:
    """Stream text; what fails before the first piece is still an ordinary error.

    Raises:
        StatusError: the source refused.
    """
    try:
        first = await anext(chunks, b"")
        out = Outgoing(request, "text/plain")
        await out.start()
        with contextlib.suppress(ConnectionError):
            if first:
                await out.write(first)
            async for chunk in chunks:
                await out.write(chunk)
            await out.response.write_eof()
        return out.response
    finally:
        close = getattr(chunks, "aclose", None)  # a generator; other iterators end by themselves
        if close is not None:
            await close()
