"""Stats of pods that do not push: sampled over HTTP once a second (serving §4.3).

Queue-proxies stream their stats (DESIGN.md §2.4), so this serves pods of a foreign queue-proxy, or one whose stream
is down. A revision's pods are sampled, not all asked, and the sum is scaled up to all of them; `sample_size` and
`extrapolate` are pure.

A pod is not trusted: its answer is read up to 336 bytes, as it is, with a deadline, whatever it sends
(CVE-2023-48713); redirects and cookies lead nowhere. All pods of a revision together have as long as one: what comes
later belongs to another second.
"""

import asyncio
import math
import random
from collections.abc import Iterable, Sequence
from typing import Final

import aiohttp

from kncore.errors import KnError
from kncore.wire import SCRAPE_LIMIT_BYTES, Stat, WireError, read_scrape_body

__all__ = [
    "SCRAPER_NAME",
    "ScrapeFailed",
    "candidates",
    "extrapolate",
    "open_session",
    "read_at_most",
    "sample_size",
    "scrape",
    "scrape_pod",
]

SCRAPER_NAME: Final = "service-scraper"
POD_PORT: Final = 9090
TIMEOUT: Final = 3.0
"""Seconds for one pod, connection included; and for all that are asked."""
# 95 % confidence (1.96 standard deviations), variance 100, tolerated error 5: 1.96^2 x 100 / 5^2
_SPREAD: Final = 1.96**2 * 100 / 25


class ScrapeFailed(KnError):
    """Too few pods of a revision answered; the whole second is dropped rather than guessed."""


def sample_size(population: int) -> int:
    """How many of `population` pods to ask for a trustworthy mean: 3 -> 3, 10 -> 7, 100 -> 14, never more than 16."""
    if population <= 3:
        return population
    return math.ceil(population * _SPREAD / (population + _SPREAD - 1))


def candidates(old: Sequence[str], young: Sequence[str], wanted: int, rng: random.Random) -> list[str]:
    """The order in which to ask pods: old ones first, for their averages have settled; whatever follows the first
    `wanted` is spare.

    Args:
        old, young: pod addresses, split at the age of one stable window.
    """
    old, young = list(old), list(young)
    if len(old) >= wanted:
        rng.shuffle(old)
    else:
        rng.shuffle(young)
    return old + young


def extrapolate(stats: Iterable[Stat], total: int) -> Stat:
    """The stat of all `total` pods, from the mean of those that were sampled (at least one)."""
    sampled = list(stats)
    factor = total / len(sampled)
    return Stat(
        pod_name=SCRAPER_NAME,
        average_concurrent_requests=sum(s.average_concurrent_requests for s in sampled) * factor,
        average_proxied_concurrent_requests=sum(s.average_proxied_concurrent_requests for s in sampled) * factor,
        request_count=sum(s.request_count for s in sampled) * factor,
        proxied_request_count=sum(s.proxied_request_count for s in sampled) * factor,
    )


def open_session() -> aiohttp.ClientSession:
    """A client for pods: it keeps connections, but remembers nothing that a pod told it and unpacks nothing."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=2),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=4096,
        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
    )


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The first `limit` bytes of a body, in however many pieces they come."""
    body = b""
    while len(body) < limit and (more := await response.content.read(limit - len(body))):
        body += more
    return body


async def scrape_pod(session: aiohttp.ClientSession, address: str) -> Stat:
    """One pod's stat from `http://<address>/metrics`.

    Raises:
        ScrapeFailed: no connection, not 2xx, another content type, a body over 336 bytes or one that is not a Stat.
    """
    try:
        async with session.get(
            f"http://{address}/metrics",
            headers={"Accept": "application/protobuf"},
            allow_redirects=False,
        ) as response:
            if not 200 <= response.status < 300:
                raise ScrapeFailed(f"GET http://{address}/metrics answered {response.status}")
            if response.headers.get("Content-Type") != "application/protobuf":
                raise ScrapeFailed(f"GET http://{address}/metrics did not answer application/protobuf")
            return read_scrape_body(await read_at_most(response, SCRAPE_LIMIT_BYTES))
    except (aiohttp.ClientError, TimeoutError, WireError) as exc:
        raise ScrapeFailed(f"cannot scrape {address}: {str(exc) or type(exc).__name__}") from exc


async def scrape(
    session: aiohttp.ClientSession, old: Sequence[str], young: Sequence[str], rng: random.Random
) -> Stat | None:
    """The stat of a whole revision, None when it has no pods.

    Asks `sample_size` pods in parallel; each failure is replaced by a spare.

    Raises:
        ScrapeFailed: the spares ran out, or the time did.
    """
    total = len(old) + len(young)
    if total == 0:
        return None
    wanted = sample_size(total)
    queue = candidates(old, young, wanted, rng)
    queue.reverse()

    async def worker() -> Stat | ScrapeFailed:
        failure: ScrapeFailed | None = None
        while queue:
            try:
                return await scrape_pod(session, f"{queue.pop()}:{POD_PORT}")
            except ScrapeFailed as exc:
                failure = exc
        return ScrapeFailed(f"too few pods answered: {failure}")

    try:
        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
            tasks = [group.create_task(worker(), name="scrape pods") for _ in range(wanted)]
    except TimeoutError:
        raise ScrapeFailed(f"too few pods answered within {TIMEOUT:g} s") from None
    stats: list[Stat] = []
    for task in tasks:
        result = task.result()
        if isinstance(result, ScrapeFailed):
            raise result
        stats.append(result)
    return extrapolate(stats, total)
