"""What becomes of bytes in the HTTP/1.1 codec, however they are cut: for fuzzing by hypothesis and by atheris alike."""

import asyncio
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

from kncore.net.chunked import ChunkedReader
from kncore.net.errors import BadMessage
from tests.smuggling import requests_according_to_h11
from tests.unit.kncore.net.conftest import Relay

__all__ = ["ANSWER", "answer_of", "body_of", "outcome", "run"]

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
HELD = 2 * 256 * 1024
"""What a connection may keep of what it was sent: a head or a tail, and a read."""


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(work)


async def outcome(data: bytes, cuts: list[int]) -> tuple[Any, ...]:
    """What became of the bytes: requests seen, status of the refusal, whether the connection goes on."""
    relay = Relay()
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    answered = 0
    for start, end in pairwise(places):
        if relay.over or start == end:
            continue
        relay.says(data[start:end])
        while len(relay.exchanges) > answered and relay.exchanges[-1].body_done and not relay.exchanges[-1].done:
            answered += 1
            relay.up.answers(ANSWER)
        for _ in range(3):
            await asyncio.sleep(0)  # what takes turns
        assert held(relay) <= HELD
    complete = [exchange for exchange in relay.exchanges if exchange.body_done]
    seen = [requests_according_to_h11(up.got) for up in relay.ups]
    assert all(
        whole or up.wire.aborted or not relay.exchanges[-1].body_done
        for (_, whole), up in zip(seen, relay.ups, strict=True)
    )
    assert [request for requests, _ in seen for request in requests] == [
        f"{exchange.method.decode()} {exchange.target.decode('latin-1')} {exchange.bytes_in}" for exchange in complete
    ]
    return (
        [(exchange.method, exchange.target, exchange.host, exchange.bytes_in) for exchange in complete],
        bool(relay.refusals),
        relay.over,
    )


def held(relay: Relay) -> int:
    """Bytes that the client's connection keeps."""
    connection = relay.connection
    return len(connection._partial or b"") + len(connection._tail) + len(connection._same)


async def answer_of(data: bytes, cuts: list[int]) -> tuple[int, int, bool] | None:
    """(status, bytes of body passed on, whether the connection is over); None if it was not passed on as whole."""
    relay = Relay()
    relay.says(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for start, end in pairwise(places):
        if start != end and not relay.up.gone:
            relay.up.answers(data[start:end])
    if not relay.up.gone:
        relay.up.closes()
    assert len(relay.exchanges) == 1
    assert relay.exchanges[0].done
    if relay.exchanges[0].error is not None:  # 502, or a cut body if the head was on its way already: the reads decide
        assert relay.over or relay.exchanges[0].status == 502
        return None
    return relay.exchanges[0].status, relay.exchanges[0].bytes_out, relay.over


def body_of(data: bytes, step: int) -> tuple[bytes, list[bytes], int] | str:
    """(body, trailers, bytes used) of a chunked body fed in steps, or what is wrong with it."""
    reader = ChunkedReader()
    pieces: list[bytes] = []
    used = 0
    try:
        for at in range(0, len(data), step):
            part = data[at : at + step]
            pos = 0
            while pos < len(part) and not reader.done:
                pos = reader.feed(part, pos, pieces)
            used += pos
    except BadMessage:
        return "bad"
    return (b"".join(pieces), reader.trailers, used) if reader.done else "unfinished"
