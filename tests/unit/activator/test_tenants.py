"""Room to wait in: bounded for all, and shared so that nobody takes it all."""

from activator.tenants import Statistics, Tenants


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
