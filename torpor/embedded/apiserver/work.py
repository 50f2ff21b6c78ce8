"""A queue of things to look at, each at most once, in order; what fails is looked at again a little later."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from torpor.embedded.apiserver.errors import StatusError

__all__ = ["Work"]

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Hashable)

RETRY = 1.0
"""Seconds until a failed item is tried again; what fails here is a full disk, which no hurry helps."""


class Work(Generic[T]):
    """Items that wait for one worker. Bounded by the number of objects there are to wait for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._items: dict[T, None] = {}
        self._some = asyncio.Event()

    def put(self, item: T) -> None:
        """Look at an item (again); no effect while it already waits."""
        self._items[item] = None
        self._some.set()

    def __len__(self) -> int:
        return len(self._items)

    async def run(self, step: Callable[[T], Awaitable[None]]) -> None:
        """Take items one by one, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            while self._items:
                item = next(iter(self._items))
                del self._items[item]
                try:
                    await step(item)
                except StatusError as error:
                    log.warning("work failed, trying again", extra={"queue": self._name, "error": str(error)})
                    loop.call_later(RETRY, self.put, item)
            self._some.clear()
