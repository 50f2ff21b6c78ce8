import asyncio

import pytest

from kncore.breaker import Breaker, Expired, QueueFull, Statistics


def breaker(slots: int = 1, queue: int = 2) -> Breaker:
    return Breaker(max_concurrency=slots, queue_depth=queue, initial_capacity=slots)


class Waiter:
    def __init__(self) -> None:
        self.count = 0

    def admitted(self) -> None:
        self.count += 1


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_serves_in_order_of_arrival() -> None:
    slots = breaker(queue=10)
    order: list[int] = []

    async def request(n: int) -> None:
        async with slots.slot():
            order.append(n)
            await asyncio.sleep(0)

    await asyncio.gather(*(request(n) for n in range(6)))
    assert order == list(range(6))
    assert (slots.in_use, slots.waiting) == (0, 0)


async def test_refuses_beyond_the_queue() -> None:
    slots = breaker(slots=2, queue=1)
    assert slots.try_acquire()
    assert slots.try_acquire()
    assert not slots.try_acquire()
    assert not slots.enter(Waiter())
    with pytest.raises(QueueFull, match=r"^pending request queue full$") as caught:
        await slots.acquire()
    assert (caught.value.status, caught.value.depth) == (503, 1)
    assert slots.statistics() == Statistics(in_use=2, waiting=1, capacity=2, limit=3, refused=1)


async def test_with_reduced_capacity_the_queue_holds_what_slots_do_not() -> None:
    slots = Breaker(max_concurrency=2, queue_depth=1, initial_capacity=0)
    waiters = [Waiter() for _ in range(3)]
    assert [slots.enter(waiter) for waiter in waiters] == [False] * 3
    with pytest.raises(QueueFull):
        slots.enter(Waiter())
    slots.resize(2)
    assert [waiter.count for waiter in waiters] == [1, 1, 0]


async def test_nobody_overtakes_a_waiter() -> None:
    slots = breaker()
    slots.try_acquire()
    overtook: list[bool] = []

    class Greedy(Waiter):
        def admitted(self) -> None:
            super().admitted()
            slots.release()
            overtook.append(slots.try_acquire())

    first, second = Greedy(), Waiter()
    slots.enter(first)
    slots.enter(second)
    slots.release()
    assert overtook == [False]
    assert (first.count, second.count, slots.in_use) == (1, 1, 1)


async def test_a_long_queue_of_instant_requests_does_not_recurse() -> None:
    slots = breaker(queue=20_000)
    slots.try_acquire()

    class Instant(Waiter):
        def admitted(self) -> None:
            super().admitted()
            slots.release()

    waiters = [Instant() for _ in range(20_000)]
    for waiter in waiters:
        slots.enter(waiter)
    slots.release()
    assert all(waiter.count == 1 for waiter in waiters)
    assert (slots.in_use, slots.waiting) == (0, 0)


async def test_a_cancelled_waiter_gives_its_place_back() -> None:
    slots = breaker()
    async with slots.slot():
        waiting = asyncio.ensure_future(slots.acquire())
        await settled()
        waiting.cancel()
        await settled()
        assert slots.waiting == 0
    assert slots.in_use == 0
    assert waiting.cancelled()


async def test_cancelled_in_the_tick_of_admission_passes_the_slot_on() -> None:
    slots = breaker()
    await slots.acquire()
    first, second = asyncio.ensure_future(slots.acquire()), asyncio.ensure_future(slots.acquire())
    await settled()
    slots.release()
    first.cancel()  # admitted, but has not run yet
    await settled()
    assert first.cancelled()
    assert second.done()
    assert not second.cancelled()
    assert slots.in_use == 1


async def test_cancelled_before_admission_in_one_tick_passes_the_slot_on() -> None:
    slots = breaker()
    await slots.acquire()
    first, second = asyncio.ensure_future(slots.acquire()), asyncio.ensure_future(slots.acquire())
    await settled()
    first.cancel()
    slots.release()
    await settled()
    assert second.done()
    assert (slots.in_use, slots.waiting) == (1, 0)


async def test_a_deadline_that_passes_is_a_typed_error() -> None:
    slots = breaker()
    await slots.acquire()
    with pytest.raises(Expired, match=r"^context deadline exceeded$") as caught:
        await slots.acquire(asyncio.get_running_loop().time() - 1)
    assert caught.value.status == 503
    assert slots.waiting == 0
    slots.release()
    await slots.acquire(asyncio.get_running_loop().time() - 1)  # a free slot is not waited for


async def test_shrinking_below_what_is_in_use_hands_nothing_out_until_drained() -> None:
    slots = breaker(slots=3)
    for _ in range(3):
        slots.try_acquire()
    waiter = Waiter()
    slots.enter(waiter)
    slots.resize(1)
    slots.release()
    slots.release()
    assert (waiter.count, slots.in_use) == (0, 1)
    slots.release()
    assert (waiter.count, slots.in_use) == (1, 1)


async def test_an_error_in_the_block_releases() -> None:
    slots = breaker()
    with pytest.raises(LookupError):
        async with slots.slot():
            raise LookupError
    assert slots.in_use == 0


def test_releasing_twice_is_a_bug_that_shows() -> None:
    with pytest.raises(RuntimeError, match="twice"):
        breaker().release()


def test_a_breaker_must_make_sense() -> None:
    with pytest.raises(ValueError, match="initial_capacity=2"):
        Breaker(max_concurrency=1, queue_depth=0, initial_capacity=2)
