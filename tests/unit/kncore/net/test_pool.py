"""The pool's own part, without connections; with them it is tested on sockets."""

from types import SimpleNamespace
from typing import Any

import pytest

from kncore.net.http2.address import Http2Address
from kncore.net.pool import Pool, UpstreamAddress


class Connection(SimpleNamespace):
    """One in HTTP/2, as far as an address knows it."""

    __hash__ = object.__hash__  # type: ignore[assignment]


async def test_an_address_may_be_forgotten_by_what_a_visit_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Pool() as pool:
        one, other = pool.upstream("127.0.0.1", 1), pool.upstream("127.0.0.1", 2)
        seen: list[float] = []
        assert isinstance(one, UpstreamAddress)
        monkeypatch.setattr(one, "expire", lambda now: pool.forget(one))
        monkeypatch.setattr(other, "expire", seen.append)
        pool.visit(7.0)
        assert seen == [7.0]
        assert pool.statistics().upstreams == 1


async def test_who_waits_for_a_connection_that_takes_no_more_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Pool() as pool:
        address = pool.upstream("127.0.0.1", 1, http2=True)
        assert isinstance(address, Http2Address)
        dialled: list[object] = []
        monkeypatch.setattr(pool, "dial", dialled.append)
        full: Any = Connection(limit=1, streams={1: None}, greeted=True, retire=lambda: None)
        address._open.append(full)
        exchange: Any = SimpleNamespace(head=SimpleNamespace(upgrade=b""), upstream_failed=lambda failure: None)
        address.submit(exchange)
        address._dials -= 1
        address._failed("connection refused")
        assert address.waiting == 1, "a stream may end"
        address.closing(full)  # GOAWAY, while its stream goes on
        assert dialled == [address, address]


async def test_a_connection_that_nobody_took_yet_gets_no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Pool() as pool:
        address = pool.upstream("127.0.0.1", 1, http2=True)
        assert isinstance(address, Http2Address)
        monkeypatch.setattr(pool, "dial", lambda address: None)
        exchange: Any = SimpleNamespace(head=SimpleNamespace(upgrade=b""))
        address.submit(exchange)
        started: list[object] = []
        early: Any = Connection(
            agreed=True, limit=100, streams={}, greeted=True, start=started.append, retire=lambda: None
        )
        early.transport = SimpleNamespace(is_closing=lambda: False)
        address.roomy(early)  # its SETTINGS came before whoever dialled it went on, or gave it up
        assert not started
        address._take(early)
        assert started == [exchange]
