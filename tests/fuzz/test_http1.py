"""Byte-level fuzzing of the HTTP/1 codec: whatever arrives, and however it is cut, the outcome is the same and
nothing breaks.

The table of known attacks (`tests/data/smuggling`) is the seeds here.
"""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.smuggling import REQUESTS

from .codec import answer_of, outcome, run

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


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.lists(st.sampled_from(RESPONSE_TOKENS) | st.binary(max_size=4), max_size=12).map(b"".join),
    cuts=st.lists(st.integers(0, 1000), max_size=5),
)
def test_answers_mean_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole = run(answer_of(data, []))
    assert run(answer_of(data, cuts)) == whole
    assert run(answer_of(data, list(range(len(data))))) == whole
