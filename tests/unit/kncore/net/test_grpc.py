"""How gRPC calls are told apart, refused, and broken off."""

import pytest

from kncore.errors import KnError
from kncore.net import grpc
from kncore.net.errors import ConnectFailed, Overrun, UpstreamClosed, UpstreamError
from kncore.net.exchange import HOLD_LIMIT, REPEATS, Exchange
from kncore.net.heads import ResponseHead

from .calls import Call, Carrying, Silently

RETRY = (b"Content-Type: text/plain", b"X-Content-Type-Options: nosniff", b"Retry-After: 2", b"Server: us")


def ok() -> ResponseHead:
    head = ResponseHead()
    head.status, head.reason, head.lines, head.length = 200, b"OK", [b"content-type: application/grpc"], -1
    return head


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"Application/GRPC; charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/grpcx", False),
        (b"text/plain", False),
    ],
)
def test_calls_are_told_by_their_content_type(kind: bytes, call: bool) -> None:
    assert grpc.is_call({b"content-type": b"content-type: " + kind}) is call


def test_a_request_without_content_type_is_no_call() -> None:
    assert not grpc.is_call({})


@pytest.mark.parametrize(
    ("status", "code"), [(400, 13), (404, 12), (429, 8), (500, 13), (502, 14), (503, 14), (504, 4), (408, 4), (418, 2)]
)
def test_codes(status: int, code: int) -> None:
    assert grpc.code_of(status) == code


def test_messages_are_percent_encoded_and_short() -> None:
    assert grpc.trailers(503, b"100 % f\xc3\xbcll\n")[1] == b"grpc-message: 100 %25 f%C3%BCll"
    assert grpc.trailers(503, b"\n") == [b"grpc-status: 14"]
    assert len(grpc.trailers(503, b"x" * 10_000)[1]) < 1100


def test_a_refusal_keeps_what_is_not_about_the_body() -> None:
    assert grpc.refusal(503, b"full", RETRY) == [
        b"content-type: application/grpc",
        b"grpc-status: 14",
        b"grpc-message: full",
        b"Retry-After: 2",
        b"grpc-retry-pushback-ms: 2000",
        b"Server: us",
    ]


def test_our_own_errors_are_trailers_only_answers() -> None:
    call = Call()
    call.respond(503, b"pending request queue full\n", RETRY)
    [(status, lines, length, body, end)] = call.sent
    assert (status, length, body, end) == (200, -1, b"", True)
    assert lines[1:3] == [b"grpc-status: 14", b"grpc-message: pending request queue full"]
    assert call.own_status == 503


@pytest.mark.parametrize("call", [Call(b"text/plain"), Call(b"application/grpc-web")])
def test_other_requests_get_the_plain_status(call: Call) -> None:
    call.respond(503, b"full")
    assert call.sent[0][0] == 503


def test_our_own_good_answers_stay_as_they_are() -> None:
    call = Call()
    call.respond(200, b"queue")
    assert call.sent[0][3] == b"queue"
    assert call.own_status == 0


@pytest.mark.parametrize(
    ("error", "status", "code"), [(Overrun("late"), 504, b"4"), (UpstreamClosed("gone", written=True), 502, b"14")]
)
def test_a_call_cut_in_the_middle_ends_with_its_status(error: KnError, status: int, code: bytes) -> None:
    call = Call()
    call.answer(ok(), b"\0\0\0\0\1x", end=False)
    call.fail(status, b"request timeout", error)
    assert call.sent[1] == [b"grpc-status: " + code, b"grpc-message: request timeout"]
    assert (call.done, call.own_status) == (True, status)


def test_a_call_whose_client_cannot_take_trailers_is_cut() -> None:
    call = Call(trailing=False)
    call.answer(ok(), b"", end=False)
    call.upstream_cut(UpstreamClosed("gone", written=True))
    assert call.sent[1] == "cut "


def test_a_call_whose_upstream_breaks_off_is_unavailable() -> None:
    call = Call()
    call.answer(ok(), b"", end=False)
    call.upstream_cut(UpstreamClosed("the upstream went away", written=True))
    assert call.sent[1] == [b"grpc-status: 14", b"grpc-message: the upstream went away"]


# -- repeating ---------------------------------------------------------------------------------------------------------


def refused() -> UpstreamError:
    return UpstreamClosed("refused", written=False, reused=True)


@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_what_an_upstream_did_not_act_on_is_repeated_with_its_body(method: bytes) -> None:
    upstream, call = Silently(), Call(method=method)
    call.body(b"one", end=False)
    call.forward(upstream)
    first = Carrying()
    assert call.carry(first, keep=True) == [b"one"]
    call.body(b"two", end=True)
    call.upstream_failed(refused())
    assert upstream.given == [False, True]
    assert call.carry(Carrying(), keep=True) == [b"one", b"two"]


def test_repeating_has_an_end() -> None:
    upstream, call = Silently(), Call()
    call.forward(upstream)
    for _ in range(REPEATS + 1):
        call.carry(Carrying(), keep=True)
        call.upstream_failed(refused())
    assert upstream.given == [False] + [True] * REPEATS
    assert call.sent[0][1][1] == b"grpc-status: 14"


def test_a_post_that_may_have_been_acted_on_is_not_repeated() -> None:
    upstream, call = Silently(), Call()
    call.forward(upstream)
    call.carry(Carrying(), keep=True)
    call.body(b"x", end=True)
    call.upstream_failed(UpstreamClosed("reset", written=True, reused=True))
    assert upstream.given == [False]
    assert call.done


@pytest.mark.parametrize("large", [b"x" * (HOLD_LIMIT + 1), b""])
def test_nothing_is_repeated_once_its_body_is_not_kept(large: bytes) -> None:
    upstream, call = Silently(), Call()
    call.forward(upstream)
    call.carry(Carrying(), keep=True)
    call.body(b"x", end=False)
    if large:
        call.body(large, end=False)
    else:
        call.let_go()
    call.upstream_failed(refused())
    assert upstream.given == [False]


def test_a_post_to_an_upstream_that_cannot_tell_keeps_no_body() -> None:
    call = Call()
    call.forward(Silently())
    call.carry(Carrying())
    call.body(b"x", end=False)
    assert call._held is None


def test_a_post_whose_first_upstream_took_no_connection_goes_on_whole() -> None:
    others: list[UpstreamError] = []
    call = Call()
    call.body(b"x", end=True)

    def take(_: Exchange, failure: UpstreamError) -> bool:
        others.append(failure)
        return True

    call.forward(Silently(), on_failure=take)
    call.upstream_failed(ConnectFailed("refused"))
    assert others[0].replayable
    assert call.carry(Carrying()) == [b"x"]


def test_refusing_says_so_to_the_codec() -> None:
    call = Call()
    call.refuse()
    assert (call.refused, call.sent) == (True, ["cut "])
