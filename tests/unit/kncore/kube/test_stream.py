"""A watch's bytes: any cut of the stream gives the same lines, and nothing is understood that was not sent."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kncore.kube.client import WatchEvent
from kncore.kube.errors import Gone, InternalError, TooLarge
from kncore.kube.stream import Lines, parse_event


@given(st.lists(st.text("ab{}é", min_size=1), max_size=6), st.lists(st.integers(0, 40), max_size=8))
def test_lines_do_not_depend_on_where_the_network_cuts(texts: list[str], cuts: list[int]) -> None:
    data = b"".join(text.encode() + b"\n" for text in texts)
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    lines = Lines(1000)
    found = [line for start, end in pairwise(places) for line in lines.feed(data[start:end])]
    assert [line.decode() for line in found] == texts
    assert lines.unfinished == 0


def test_an_unfinished_line_is_counted() -> None:
    lines = Lines(1000)
    assert lines.feed(b"ab\ncd") == [b"ab"]
    assert lines.unfinished == 2
    assert lines.feed(b"\n\r\n\n") == [b"cd"]


def test_a_line_over_the_limit_is_refused_before_its_end_comes() -> None:
    lines = Lines(10)
    lines.feed(b"12345")
    with pytest.raises(TooLarge, match="more than 10 bytes"):
        lines.feed(b"678901")


def test_an_event() -> None:
    obj = {"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "7"}}
    assert parse_event(orjson.dumps({"type": "ADDED", "object": obj})) == WatchEvent("ADDED", obj)


def test_a_bookmark_needs_no_name() -> None:
    event = parse_event(b'{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"7"}}}')
    assert event.object["metadata"]["resourceVersion"] == "7"


def test_an_error_event_is_raised_as_what_it_says() -> None:
    with pytest.raises(Gone, match="too old") as caught:
        parse_event(
            b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old: 5 (9)"}}'
        )
    assert caught.value.status_code == 410


@pytest.mark.parametrize(
    "line",
    [
        b"<html>",
        b"[]",
        b"1",
        b'{"type":"ADDED"}',
        b'{"type":"ADDED","object":null}',
        b'{"type":"ADDED","object":{"metadata":{}}}',
        b'{"type":"ADDED","object":{"metadata":[]}}',
        b'{"type":"EXPLODED","object":{"metadata":{"name":"a"}}}',
        b'{"type":["ADDED"],"object":{"metadata":{"name":"a"}}}',
        b'\xff{"type"',
    ],
)
def test_what_is_not_an_event_is_an_error(line: bytes) -> None:
    with pytest.raises(InternalError, match="not a watch event"):
        parse_event(line)


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_parser(line: bytes) -> None:
    with pytest.raises(InternalError):
        parse_event(line)
