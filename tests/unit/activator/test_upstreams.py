"""Addresses are kept as long as somebody uses them, and hosts of the world within a bound."""

import pytest

from activator.upstreams import ELSEWHERE, Upstreams, split_address


class Pool:
    def __init__(self) -> None:
        self.kept: set[tuple[object, ...]] = set()

    def upstream(self, host: str, port: int, *, http2: bool = False) -> tuple[object, ...]:
        made = (host, port, "h2c") if http2 else (host, port)
        self.kept.add(made)
        return made

    def forget(self, upstream: tuple[object, ...]) -> None:
        self.kept.remove(upstream)


def test_address_is_forgotten_when_its_last_user_drops_it() -> None:
    pool = Pool()
    upstreams = Upstreams(pool)
    assert upstreams.take("10.1.0.1:8012") == ("10.1.0.1", 8012)
    upstreams.take("10.1.0.1:8012")  # a new pod that got the old one's IP
    upstreams.drop("10.1.0.1:8012")
    assert pool.kept == {("10.1.0.1", 8012)}
    upstreams.drop("10.1.0.1:8012")
    assert pool.kept == set()
    assert upstreams.statistics() == {"pods": 0, "elsewhere": 0}


def test_an_address_in_http2_is_another_one() -> None:
    pool = Pool()
    upstreams = Upstreams(pool)
    upstreams.take("10.1.0.1:8013")
    assert upstreams.take("10.1.0.1:8013", True) == ("10.1.0.1", 8013, "h2c")
    upstreams.drop("10.1.0.1:8013", True)
    assert pool.kept == {("10.1.0.1", 8013)}


@pytest.mark.parametrize(
    ("address", "expected"), [("10.1.0.1:8012", ("10.1.0.1", 8012)), ("[fd00::1]:8012", ("fd00::1", 8012))]
)
def test_split_address(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        (b"example.com", ("example.com", 80)),
        (b"example.com:8080", ("example.com", 8080)),
        (b"[::1]:8080", ("::1", 8080)),
        (b"[::1]", ("::1", 80)),
        (b"127.0.0.1:9", ("127.0.0.1", 9)),
        (b"my_host", ("my_host", 80)),
    ],
)
def test_hosts_elsewhere(authority: bytes, expected: tuple[str, int]) -> None:
    assert Upstreams(Pool()).elsewhere(authority) == expected


@pytest.mark.parametrize(
    "authority",
    [b"", b":80", b"a..b", b"x" * 64 + b".com", b"example.com:99999", b"example.com:0", b"a b", b"\xe4.com", b"a.:80"],
)
def test_what_is_no_host_is_not_dialled(authority: bytes) -> None:
    """A name that the resolver cannot even encode must not get as far as the resolver."""
    pool = Pool()
    assert Upstreams(pool).elsewhere(authority) is None
    assert pool.kept == set()


def test_hosts_elsewhere_are_bounded_and_the_ones_in_use_stay() -> None:
    pool = Pool()
    upstreams = Upstreams(pool)
    for number in range(ELSEWHERE * 2):
        upstreams.elsewhere(b"favourite.example.com")
        upstreams.elsewhere(b"h%d.example.com" % number)
    assert len(pool.kept) == ELSEWHERE
    assert ("favourite.example.com", 80) in pool.kept
