import pytest

from kncore.net.headers import forwarded, forwarded_for, options, value_of


@pytest.mark.parametrize(
    ("for_", "proto", "host", "expected"),
    [
        (None, None, None, None),
        (b"10.0.0.1", b"https", b"example.com", b"for=10.0.0.1;host=example.com;proto=https"),
        (b"10.0.0.1, 10.0.0.2,10.0.0.3", b"http", None, b"for=10.0.0.1;proto=http, for=10.0.0.2, for=10.0.0.3"),
        (b"::1, 2001:db8::2", None, None, b'for="[::1]", for="[2001:db8::2]"'),
        (None, b"http", None, b"proto=http"),
        (None, None, b"h", b"host=h"),
    ],
)
def test_forwarded_says_what_the_older_headers_said(
    for_: bytes | None, proto: bytes | None, host: bytes | None, expected: bytes | None
) -> None:
    assert forwarded(for_, proto, host) == expected


def test_forwarded_for_appends() -> None:
    assert forwarded_for(None, b"192.0.2.1") == b"X-Forwarded-For: 192.0.2.1"
    assert forwarded_for(b"10.0.0.1", b"192.0.2.1") == b"X-Forwarded-For: 10.0.0.1, 192.0.2.1"


def test_values_and_options() -> None:
    assert value_of(b"A: \t b c \t") == b"b c"
    assert value_of(b"A:") == b""
    assert options(b"Close ,, X-A,\tkeep-alive") == [b"close", b"x-a", b"keep-alive"]
