import pytest
from hypothesis import given
from hypothesis import strategies as st

from kncore.net.chunked import ChunkedReader, chunk
from kncore.net.errors import BadMessage


def read(data: bytes, step: int) -> tuple[bytes, list[bytes], int]:
    """(body, trailers, bytes used) of a chunked body fed in steps."""
    reader = ChunkedReader()
    pieces: list[bytes] = []
    used = 0
    for at in range(0, len(data), step):
        part = data[at : at + step]
        used += reader.feed(part, 0, pieces)
        if reader.done:
            break
    assert reader.done
    return b"".join(pieces), reader.trailers, used


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    step=st.integers(1, 50),
    behind=st.binary(max_size=9),
)
def test_what_is_written_is_read_back_whatever_the_reads(pieces: list[bytes], step: int, behind: bytes) -> None:
    data = b"".join(chunk((piece,)) for piece in pieces) + chunk((), (b"X-A: 1",))
    assert read(data + behind, step) == (b"".join(pieces), [b"X-A: 1"], len(data))


def test_one_chunk_for_all_pieces() -> None:
    assert chunk((b"ab", b"c")) == b"3\r\nabc\r\n"
    assert chunk((b"ab",), ()) == b"2\r\nab\r\n0\r\n\r\n"
    assert chunk((), (b"A: b",)) == b"0\r\nA: b\r\n\r\n"
    assert chunk((b"",)) == b""


@given(data=st.binary(max_size=60), step=st.integers(1, 60))
def test_any_bytes_end_in_a_verdict_independent_of_the_reads(data: bytes, step: int) -> None:
    def verdict(step: int) -> object:
        try:
            return read(data + b"\r\n0\r\n\r\n" * 30, step)
        except BadMessage:
            return "bad"
        except AssertionError:
            return "unfinished"

    assert verdict(step) == verdict(1000)


def test_a_long_line_in_single_bytes_is_refused_early() -> None:
    reader = ChunkedReader()
    for _ in range(1026):
        reader.feed(b"1", 0, [])
    with pytest.raises(BadMessage):
        reader.feed(b"1", 0, [])
