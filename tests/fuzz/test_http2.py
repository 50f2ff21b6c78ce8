"""Byte-level fuzzing of the HTTP/2 codec: whatever arrives, and however it is cut, nothing breaks, every byte of window
is accounted for, and what an HTTP/1 app gets is what was understood.
"""

import asyncio
import struct
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import hpack
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kncore.net.http2.compression import literal
from tests.smuggling import requests_according_to_h11
from tests.unit.kncore.net.http2.conftest import GREETING, Relay2

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"


def frame(kind: int, payload: bytes, flags: int, stream: int) -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


LINES = [
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"http"),
    (b":authority", b"h"),
    (b":path", b"/"),
    (b":path", b"/ HTTP/1.1\r\nhost: evil"),
    (b"host", b"h"),
    (b"host", b"i"),
    (b"content-length", b"3"),
    (b"content-length", b"0"),
    (b"transfer-encoding", b"chunked"),
    (b"te", b"trailers"),
    (b"cookie", b"a=b"),
    (b"x", b"y\r\n\r\nGET /evil HTTP/1.1\r\nhost: evil\r\n\r\n"),
    (b"x\r\nevil: 1", b"y"),
    (b"X", b"y"),
    (b"x", b"y"),
    (b"expect", b"100-continue"),
]
BASE = [LINES[0], *LINES[4:7]]
POST = [LINES[1], *LINES[4:7]]

lists = (
    st.sampled_from([BASE, POST, [*POST, LINES[10]], [(b"x-t", b"1")], [LINES[2], LINES[3], *BASE[1:]]])
    | st.lists(st.sampled_from(LINES), max_size=7)
    | st.lists(st.sampled_from(LINES), max_size=3).map(lambda more: [*BASE, *more])
)
blocks = (
    lists.map(lambda lines: b"".join(literal(*line) for line in lines))
    | lists.map(lambda lines: hpack.Encoder().encode(lines))
    | st.binary(max_size=8)
)
streams = st.sampled_from([0, 1, 1, 3, 3, 5, 7, 2])
payloads = st.sampled_from([b"", b"abc", b"a", bytes(4), bytes(5), bytes(6), bytes(8), b"\0\4\0\0\0\0"]) | st.binary(
    max_size=9
)
frames = (
    st.builds(frame, st.just(1), blocks, st.sampled_from([4, 5, 5, 1, 0]), streams)
    | st.builds(frame, st.just(9), blocks, st.sampled_from([4, 0]), streams)
    | st.builds(frame, st.just(0), payloads, st.sampled_from([0, 0, 1, 8]), streams)
    | st.builds(frame, st.integers(0, 11), payloads, st.sampled_from([0, 1, 4, 255]), streams)
    | st.binary(max_size=12)
)
soup = st.lists(frames, max_size=12).map(b"".join)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(work)


async def outcome(data: bytes, cuts: list[int]) -> tuple[Any, ...]:
    """How the connection ended, and why."""
    relay = Relay2(greeting=b"")
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for start, end in pairwise(places):
        if start != end:
            relay.says(data[start:end])
    served = relay.served
    result = relay.code, relay.endings
    for up in relay.ups:
        requests, whole = requests_according_to_h11(up.got)
        assert len(requests) <= 1
        assert b"evil" not in up.got
        exchange = up.connection._exchange
        if exchange is not None and not exchange.head.upgrade:
            assert whole == exchange.body_done
    if not served.over:
        held = sum(exchange.kept for exchange in served.streams.values())
        assert served._room + served._owed + held == relay.http2.connection_window
        for up in relay.ups:
            if up.connection._exchange is not None and not up.connection._exchange.head.upgrade:
                up.answers(ANSWER)
        assert all(exchange.tunnel for exchange in served.streams.values())
    relay.leaves()
    assert all(exchange.done for exchange in relay.exchanges)
    assert not served.streams
    assert not served.blocked
    return result


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=soup, cuts=st.lists(st.integers(0, 600), max_size=6))
@example(data=frame(1, b"".join(literal(*line) for line in POST), 4, 1) + frame(0, b"abc", 1, 1) * 2, cuts=[60])
def test_frames_mean_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    data = GREETING + data
    whole = run(outcome(data, []))
    assert run(outcome(data, cuts)) == whole
    assert run(outcome(data, list(range(len(data))))) == whole


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: GREETING + rest))
def test_any_bytes(data: bytes) -> None:
    run(outcome(data, []))
