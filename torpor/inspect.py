"""What a running platform says of itself: decisions from the autoscaler, wake-ups from the activator."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson

from torpor.state import Running

__all__ = ["Inspector"]

TIMEOUT = aiohttp.ClientTimeout(total=3)


class Inspector:
    """Reads the status endpoints of a platform on this machine; an endpoint that does not answer has nothing to say.

    Both endpoints are bounded by those who serve them: 32 decisions per revision, 256 wake-ups in all.
    """

    def __init__(self, running: Running, session: aiohttp.ClientSession) -> None:
        self._running = running
        self._session = session

    async def decisions(self, namespace: str, revision: str) -> Mapping[str, Any] | None:
        """The autoscaler's recent decisions for a revision, as `autoscaler.explain` shows them."""
        found = await self._read(
            f"http://{self._running.autoscaler}/explain/{quote(namespace, safe='')}/{quote(revision, safe='')}"
        )
        return found if isinstance(found, dict) else None

    async def wakes(self, namespace: str = "", revision: str = "") -> list[Mapping[str, Any]]:
        """The activator's recent wake-ups, oldest first; empty arguments select all."""
        query = urlencode({"namespace": namespace, "revision": revision})
        found = await self._read(f"http://{self._running.internal}/_torpor/wakes?{query}")
        return found if isinstance(found, list) else []

    async def _read(self, url: str) -> Any:
        try:
            async with self._session.get(url, timeout=TIMEOUT) as response:
                if response.status != 200:
                    return None
                return orjson.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError):
            return None
