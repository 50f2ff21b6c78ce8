import pytest

from kncore.wire import SCRAPE_LIMIT_BYTES, Stat, WireError, decode_messages, decode_stat, encode_stat, read_scrape_body


def test_zeros_are_left_out() -> None:
    assert encode_stat(Stat(request_count=-0.0)) == b""
    assert encode_stat(Stat(pod_name="p", timestamp=-1)) == b"\x0a\x01p\x38" + b"\xff" * 9 + b"\x01"


def test_a_message_without_a_stat_says_so() -> None:
    assert decode_messages(b"\x0a\x04\x0a\x02ns") == [("ns", "", None)]
    assert decode_messages(b"\x0a\x04\x12\x00\x1a\x00") == [("", "", Stat())]


def test_repeated_stats_merge() -> None:
    parts = b"".join(b"\x1a" + bytes([len(part)]) + part for part in (b"\x0a\x01a", b"\x38\x05"))
    assert decode_messages(b"\x0a" + bytes([len(parts)]) + parts) == [("", "", Stat("a", timestamp=5))]


def test_names_that_are_not_text_do_not_break_a_frame() -> None:
    assert decode_stat(b"\x0a\x02\xff\x41") == Stat("\ufffdA")


def test_a_lone_surrogate_is_not_sent() -> None:
    assert encode_stat(Stat("\ud800")) == b"\x0a\x01?"


def test_a_scrape_body_is_cut_at_its_limit() -> None:
    longest = encode_stat(Stat("x" * (SCRAPE_LIMIT_BYTES - 3)))
    assert len(longest) == SCRAPE_LIMIT_BYTES
    assert read_scrape_body(longest).pod_name.startswith("x")
    with pytest.raises(WireError):
        read_scrape_body(encode_stat(Stat("x" * SCRAPE_LIMIT_BYTES)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x05abc",
        b"\x11\x00",
        b"\x38" + b"\xff" * 10 + b"\x01",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x00\x00",
        b"\x0c",
        b"\x44",
        b"\x43",
        b"\x38",
    ],
)
def test_malformed_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_stat(data)


def test_deeply_nested_groups_are_skipped_without_recursion() -> None:
    depth = 50_000
    assert decode_stat(b"\x43" * depth + b"\x44" * depth + b"\x0a\x01p") == Stat("p")
