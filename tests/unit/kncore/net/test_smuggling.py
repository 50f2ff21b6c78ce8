"""The smuggling table against the codec alone: fed at once and byte by byte, read again by a second implementation."""

import re
from collections.abc import Callable

import pytest

from tests.smuggling import ANSWERS, REQUESTS, Answer, Case, requests_according_to_h11

from .conftest import Relay

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
STEPS = pytest.mark.parametrize("step", [1 << 20, 1], ids=["at once", "byte by byte"])


def converse(relay: Relay, data: bytes, step: int) -> None:
    """Feed everything, answering each request as soon as it has arrived."""
    answered = 0
    for at in range(0, len(data), step):
        if relay.over:
            break
        relay.says(data[at : at + step])
        while len(relay.exchanges) > answered and relay.exchanges[-1].body_done and not relay.exchanges[-1].done:
            answered += 1
            relay.up.answers(OK)


def test_the_table_is_as_large_as_promised() -> None:
    assert len(REQUESTS) >= 450
    assert len({case.id for case in REQUESTS}) == len(REQUESTS)
    assert len(ANSWERS) >= 100


@STEPS
@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.id)
async def test_request(make_relay: Callable[..., Relay], case: Case, step: int) -> None:
    relay = make_relay()
    converse(relay, case.data, step)
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", relay.answer)]
    assert [status for status in statuses if status >= 200] == case.answers
    assert relay.over == (case.answers[-1] >= 400 or relay.exchanges[-1].head.keep_alive is False)
    seen: list[str] = []
    for up in relay.ups:
        requests, whole = requests_according_to_h11(up.got)
        seen += requests
        # a body may be found bad after its head was passed on: then the upstream never gets its end
        assert whole or up.wire.aborted
    assert seen == case.app
    assert [
        f"{e.method.decode()} {e.target.decode('latin-1')} {e.bytes_in}" for e in relay.exchanges if e.status == 200
    ] == seen


@STEPS
@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case.id)
async def test_answer(make_relay: Callable[..., Relay], case: Answer, step: int) -> None:
    relay = make_relay()
    relay.says(case.method.encode() + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
    up = relay.up
    for at in range(0, len(case.data), step):
        if not up.gone:
            up.answers(case.data[at : at + step])
    if case.closes and not up.gone:
        up.closes()
    got, cut = answer_of(relay.answer, case.method)
    if case.client == "502" and cut:  # the head was on its way before the body was found bad
        assert relay.over
    else:
        assert got + (" cut" if cut else "") == case.client
        assert relay.over != case.client_kept
    assert (up.free and not up.gone) == case.app_kept
    assert b"evil" not in relay.answer


def answer_of(data: bytes, method: str) -> tuple[str, bool]:
    """(`status body`, whether the body is not whole) of the final answer."""
    while True:
        head, _, body = data.partition(b"\r\n\r\n")
        status = int(head[9:12])
        if status >= 200:
            break
        data = body
    cut = False
    if method == "HEAD" or status in (204, 304):
        assert body == b""
    elif b"Transfer-Encoding: chunked" in head:
        text = b""
        while size := int(body.partition(b"\r\n")[0] or b"0", 16):
            body = body.partition(b"\r\n")[2]
            text += body[:size]
            body = body[size + 2 :]
        cut = not (body.startswith(b"0\r\n") and body.endswith(b"\r\n\r\n"))
        body = text
    else:
        found = re.search(rb"Content-Length: (\d+)", head)
        assert found is not None
        cut = len(body) < int(found[1])
    return f"{status} {'' if status == 502 else body.decode('latin-1')}".strip(), cut
