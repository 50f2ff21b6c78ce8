"""Heads that differ in nothing but the time their client still waits."""

from typing import Any, cast

import hpack
import pytest

from kncore.net.exchange import Exchange
from kncore.net.heads import RequestHead
from kncore.net.http2 import headers
from kncore.net.http2.compression import Decoder, Field
from kncore.net.http2.frames import StreamFault
from kncore.net.http2.upstream import ClientConnection

Pairs = list[tuple[str, str]]

CALL: Pairs = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "h"),
    (":path", "/s/M"),
    ("te", "trailers"),
    ("grpc-timeout", "1S"),
    ("content-type", "application/grpc"),
]


def fields(pairs: Pairs) -> list[Field]:
    return Decoder().decode(hpack.Encoder().encode(pairs))


def within(timeout: str, pairs: Pairs | None = None) -> list[Field]:
    return fields([(name, timeout if name == "grpc-timeout" else value) for name, value in pairs or CALL])


def test_only_the_timeout_is_new() -> None:
    known: dict[tuple[bytes, ...], RequestHead] = {}
    first = headers.read_call(within("1S"), known)
    first.plan = first.sent = object()
    again = headers.read_call(within("999m"), known)
    assert again is not first
    assert (again.plan, again.sent, again.written) == (first.plan, first.sent, None)
    assert again.fields[b"grpc-timeout"] == b"grpc-timeout: 999m"
    assert first.fields[b"grpc-timeout"] == b"grpc-timeout: 1S"
    alone = headers.read_request(within("999m"), ended=False)
    for name in RequestHead.__slots__:
        if name not in ("plan", "sent"):
            assert getattr(again, name) == getattr(alone, name), name
    assert again.passing(frozenset()) == alone.passing(frozenset())
    assert len(known) == 1


@pytest.mark.parametrize(
    "more",
    [[("x", "1")], [("x", "1"), ("x", "2")], [("grpc-timeout", "2S")], [("content-length", "5")], [("x", "y" * 4000)]],
)
def test_other_heads_are_read_as_ever(more: Pairs) -> None:
    known: dict[tuple[bytes, ...], RequestHead] = {}
    for timeout in ("1S", "2S", "3S"):
        read = headers.read_call(within(timeout, CALL + more), known)
        alone = headers.read_request(within(timeout, CALL + more), ended=False)
        assert (read.fields, read.lines, read.repeated, read.length) == (
            alone.fields,
            alone.lines,
            alone.repeated,
            alone.length,
        )


def test_heads_without_a_timeout_are_not_kept_here() -> None:
    known: dict[tuple[bytes, ...], RequestHead] = {}
    headers.read_call(fields([pair for pair in CALL if pair[0] != "grpc-timeout"]), known)
    assert known == {}


def test_a_malformed_timeout_is_one_though_the_rest_is_known() -> None:
    known: dict[tuple[bytes, ...], RequestHead] = {}
    headers.read_call(within("1S"), known)
    with pytest.raises(StreamFault):
        headers.read_call(within("1\r\nx: y"), known)


def test_what_is_kept_is_bounded() -> None:
    known: dict[tuple[bytes, ...], RequestHead] = {}
    for number in range(1000):
        headers.read_call(within("1S", [*CALL, ("x", str(number))]), known)
    assert len(known) <= 64


@pytest.mark.parametrize("drop", [frozenset[bytes](), frozenset({b"grpc-timeout"})])
def test_a_timeout_that_a_route_replaces_is_not_passed_on(drop: frozenset[bytes]) -> None:
    known: dict[tuple[bytes, ...], RequestHead] = {}
    near = ClientConnection(cast("Any", None))
    add = (b"Grpc-Timeout: 5S",) if drop else ()
    for timeout in ("1S", "2S", "3S"):
        exchange = Exchange(headers.read_call(within(timeout), known), 0.0)
        exchange.add, exchange.drop, exchange.authority = add, drop, b"h"
        told = [
            field.value for field in Decoder().decode(near._request_block(exchange)) if field.name == b"grpc-timeout"
        ]
        assert told == [b"5S" if drop else timeout.encode()]
