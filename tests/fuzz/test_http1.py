"""Byte-level fuzzing of the HTTP/1 codec: whatever arrives, and however it is cut, the outcome is the same and
nothing breaks.

The table of known attacks (`tests/data/smuggling`) is the seeds here.
"""

import asyncio
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.smuggling import REQUESTS, requests_according_to_h11
from tests.unit.kncore.net.conftest import Relay

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SEEDS = [case.data for case in REQUESTS if len(case.data) < 400]
TOKENS = [
    b"GET / HTTP/1.1\r\n",
    b"POST /a HTTP/1.1\r\n",
    b"HEAD / HTTP/1.0\r\n",
    b"Host: h\r\n",
    b"Host: i\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive, x\r\n",
    b"Connection: upgrade\r\nUpgrade: w\r\n",
    b"Expect: 100-continue\r\n",
    b"X: y\r\n",
    b"3\r\nabc\r\n",
    b"1;x=y\r\n",
    b"0\r\n\r\n",
    b"0\r\nA: b\r\n\r\n",
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"abc", b"\xff"),
]

soup = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=4), max_size=14).map(b"".join)
mutated = st.builds(
    lambda seed, at, cut, put: seed[: at % (len(seed) + 1)] + put + seed[at % (len(seed) + 1) + cut :],
    st.sampled_from(SEEDS),
    st.integers(0, 500),
    st.integers(0, 3),
    st.binary(max_size=3) | st.sampled_from(TOKENS),
)


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


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=soup | mutated, cuts=st.lists(st.integers(0, 2000), max_size=6))
@example(data=b"\r\n\r\n\r\n", cuts=[])
@example(data=b"\0GET / HTTP/1.1\r\nHost: h\r\n\r\n", cuts=[1])
def test_requests_mean_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole = run(outcome(data, []))
    assert run(outcome(data, cuts)) == whole
    assert run(outcome(data, list(range(len(data))))) == whole


RESPONSE_TOKENS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No\r\n",
    b"HTTP/1.1 101 S\r\n",
    *TOKENS[5:],
]


async def answer_of(data: bytes, cuts: list[int]) -> tuple[int, int, bool]:
    """(status, bytes of body passed on, whether the connection goes on)."""
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
    return relay.exchanges[0].status, relay.exchanges[0].bytes_out, relay.over


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.lists(st.sampled_from(RESPONSE_TOKENS) | st.binary(max_size=4), max_size=12).map(b"".join),
    cuts=st.lists(st.integers(0, 1000), max_size=5),
)
def test_answers_mean_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole = run(answer_of(data, []))
    assert run(answer_of(data, cuts)) == whole
    assert run(answer_of(data, list(range(len(data))))) == whole
