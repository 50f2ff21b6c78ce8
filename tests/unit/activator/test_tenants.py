"""Room to wait in: bounded for all, and shared so that nobody takes it all."""

import pytest

from activator.tenants import Crowded, Statistics, Tenants
from kncore.net.http1 import Limits


def test_one_tenant_gets_half_of_the_room_and_the_next_finds_some() -> None:
    tenants = Tenants(requests=100)
    greedy, modest = tenants.enter("greedy"), tenants.enter("modest")
    assert [greedy.hold(0) for _ in range(200)].count(True) == 50
    assert [modest.hold(0) for _ in range(200)].count(True) == 25
    assert not greedy.hold(0), "the other one's places are taken from nobody, but there are fewer for the greedy"
    assert tenants.statistics() == Statistics(tenants=2, waiting=75, waiting_bytes=0, refused=326)


def test_bytes_are_shared_too() -> None:
    tenants = Tenants(bytes=1000)
    greedy, modest = tenants.enter("greedy"), tenants.enter("modest")
    assert [greedy.hold(100) for _ in range(20)].count(True) == 5
    assert greedy.hold(0), "what holds nothing is not refused for it"
    assert modest.hold(200)
    assert not modest.hold(200)


def test_room_comes_back() -> None:
    tenants = Tenants(requests=10, bytes=100)
    tenant = tenants.enter("a")
    for _ in range(3):
        for size in (10, 20, 0):
            assert tenant.hold(size)
        for size in (20, 0, 10):
            tenant.free(size)
    assert (tenants.waiting, tenants.waiting_bytes, tenant.waiting, tenant.waiting_bytes) == (0, 0, 0, 0)


def test_who_had_a_place_gets_one_again() -> None:
    tenants = Tenants(requests=2)
    tenant = tenants.enter("a")
    assert tenant.hold(0)
    assert not tenant.hold(0)
    assert tenant.hold(0, always=True)
    assert tenants.waiting == 2


def test_tenant_ends_with_its_last_revision() -> None:
    tenants = Tenants(weights={"a": 3})
    first, second = tenants.enter("a"), tenants.enter("a")
    assert first is second
    assert first.party.weight == 3
    assert first.hold(7)
    tenants.leave(first)
    assert tenants.statistics().tenants == 1
    tenants.leave(second)
    assert tenants.statistics().tenants == 0
    first.free(7)
    assert tenants.waiting == 0
    assert tenants.enter("a") is not first


class Server:
    def __init__(self, connections: int, allowed: int) -> None:
        self.connections = connections
        self.limits = Limits(connections=allowed)


class Throttler:
    def __init__(self, held: int) -> None:
        self.held = held


def test_tenant_with_half_of_a_full_listener_gets_no_more_in() -> None:
    tenants = Tenants()
    greedy, modest = tenants.enter("greedy"), tenants.enter("modest")
    greedy.throttlers |= {Throttler(30), Throttler(19)}
    modest.throttlers.add(Throttler(1))
    full, empty = Server(76, 100), Server(3, 1000)
    tenants.look([full, empty])
    assert tenants.share == 50
    greedy.judge()
    greedy.throttlers.add(Throttler(1))
    with pytest.raises(Crowded, match="too many requests of this namespace"):
        greedy.judge()
    modest.judge()
    assert tenants.statistics().refused == 1
    full.connections = 75
    tenants.look([full, empty])
    assert tenants.share == 0, "nobody is asked"
