"""What a running platform says of itself: decisions from the autoscaler, wake-ups from the activator."""

from collections.abc import Mapping
from typing import Any

import aiohttp

from torpor.state import Running

__all__ = ["Inspector"]

TIMEOUT = aiohttp.ClientTimeout(total=3)
MAX_BYTES = 4 << 20


class Inspector:
    """Reads the status endpoints of a platform on this machine; an endpoint that does not answer has nothing to say."""

    def __init__(self, running: Running, session: aiohttp.ClientSession) -> None:
        self._running = running
        self._session = session

    async def decisions(self, namespace: str, revision: str) -> Mapping[str, Any] | None:
        """The autoscaler's recent decisions for a revision, as `autoscaler.explain` shows them."""
        found: Mapping[str, Any] | None = await self._read(
            f"http://{self._running.autoscaler}/explain/{namespace}/{revision}"
        )
        return found

    async def wakes(self, namespace: str, revision: str) -> list[Mapping[str, Any]]:
        """The activator's recent wake-ups of a revision, oldest first."""
        query = f"?namespace={namespace}&revision={revision}"
        return (await self._read(f"http://{self._running.internal}/_torpor/wakes{query}")) or []

    async def _read(self, url: str) -> Any:
        import orjson

        try:
            async with self._session.get(url, timeout=TIMEOUT) as response:
                if response.status != 200:
                    return None
                return orjson.loads(await response.content.read(MAX_BYTES))
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError):
            return None
