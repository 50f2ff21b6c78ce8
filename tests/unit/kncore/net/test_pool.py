"""The pool's own part, without connections; with them it is tested on sockets."""

import pytest

from kncore.net.pool import Pool, UpstreamAddress


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
