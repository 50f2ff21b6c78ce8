"""Keys waiting to be worked on; time is the event loop's, and the loop's is looptime's."""

import asyncio
import random

import pytest

from kncore.kube.workqueue import TokenBucket, WorkQueue

pytestmark = pytest.mark.looptime


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_key_waits_once_however_often_it_is_added() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert queue.statistics().ready == 0


async def test_a_key_added_while_processed_comes_back_after_done_and_never_in_parallel() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert queue.statistics().ready == 0
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert queue.statistics().ready == 0
    assert queue.statistics().processing == 0


async def test_reminders_wait_for_changes_but_not_for_ever() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("slow", slow=True)
    for number in range(20):
        queue.add(f"fast {number}")
    order = []
    for _ in range(21):
        order.append(key := await queue.get())
        queue.done(key)
    assert order.index("slow") == 7
    assert len(set(order)) == 21


async def test_a_change_promotes_a_reminder() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b"):
        queue.add(key, slow=True)
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["b", "a"]
    assert queue.statistics().ready == 0


async def test_a_reminder_during_processing_stays_a_reminder_unless_a_change_joins() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a", slow=True)
    queue.done("a")
    queue.add("b")
    assert await queue.get() == "b"
    await queue.get()
    queue.add("a", slow=True)
    queue.add("a")
    queue.add("a", slow=True)
    queue.done("a")
    queue.add("c")
    assert await queue.get() == "a"


async def test_a_delayed_key_comes_when_it_is_due_and_the_earliest_wish_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    start = now()
    queue.add_after("a", 30.0)
    queue.add_after("b", 20.0)
    queue.add_after("a", 10.0)
    queue.add_after("a", 15.0)
    assert queue.statistics().delayed == 2
    assert (await queue.get(), now() - start) == ("a", pytest.approx(10.0))
    queue.done("a")
    assert (await queue.get(), now() - start) == ("b", pytest.approx(20.0))
    queue.done("b")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 100.0)  # the superseded wish for 30 s is gone
    assert queue.statistics().delayed == 0


async def test_retries_wait_twice_as_long_each_time_up_to_a_cap_until_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue(base=0.005, cap=1.0)
    waits = [queue.retry("a") for _ in range(10)]
    assert waits[:4] == pytest.approx([0.005, 0.01, 0.02, 0.04])
    assert waits[-2:] == [1.0, 1.0]
    assert queue.failures("a") == 10
    queue.forget("a")
    assert queue.retry("a") == pytest.approx(0.005)


async def test_many_failing_keys_share_ten_retries_a_second_after_a_burst() -> None:
    queue: WorkQueue[int] = WorkQueue()
    waits = [queue.retry(number) for number in range(120)]
    assert max(waits[:100]) == pytest.approx(0.005)
    assert waits[100] == pytest.approx(0.1)
    assert waits[119] == pytest.approx(2.0)
    queue.add(7)
    assert await queue.get() == 7  # a change is never held back


async def test_a_cancelled_worker_hands_its_wake_up_on() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first = asyncio.ensure_future(queue.get())
    second = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add("a")  # wakes the first
    first.cancel()
    assert await second == "a"
    assert first.cancelled()


async def test_a_worker_cancelled_while_waiting_leaves_nothing_behind() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    queue.add("a")
    assert await queue.get() == "a"


async def test_superseded_wishes_do_not_pile_up() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for step in range(10_000):
        queue.add_after("a", 20_000.0 - step)
    assert len(queue._heap) < 200
    queue.close()


def test_a_token_bucket_refills_with_time() -> None:
    bucket = TokenBucket(rate=2.0, burst=2)
    assert [bucket.reserve(0.0) for _ in range(4)] == pytest.approx([0.0, 0.0, 0.5, 1.0])
    assert bucket.reserve(10.0) == 0.0
    assert [bucket.take(10.0), bucket.take(10.0), bucket.take(10.4), bucket.take(10.5)] == [True, False, False, True]


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_the_order_no_change_is_missed_and_no_key_is_worked_on_twice_at_once(seed: int) -> None:
    """The promise that reconcilers rest on: after the last change of a key, its world is looked at once more."""
    dice = random.Random(seed)
    queue: WorkQueue[int] = WorkQueue()
    state = dict.fromkeys(range(5), 0)
    seen = dict.fromkeys(range(5), 0)
    busy: set[int] = set()

    async def work() -> None:
        while True:
            key = await queue.get()
            assert key not in busy
            busy.add(key)
            looked = state[key]
            await asyncio.sleep(dice.random())
            busy.discard(key)
            if dice.random() < 0.2:
                queue.retry(key)
            else:
                seen[key] = looked
                queue.forget(key)
            queue.done(key)

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work()) for _ in range(3)]
        for _ in range(300):
            key = dice.randrange(5)
            state[key] += 1
            match dice.randrange(3):
                case 0:
                    queue.add(key)
                case 1:
                    queue.add(key, slow=True)
                case 2:
                    queue.add_after(key, dice.random() * 3.0)
            await asyncio.sleep(dice.random() * 0.3)
            if dice.random() < 0.05:  # a worker dies between two keys and another takes its place
                victim = workers[dice.randrange(3)]
                if not busy:
                    victim.cancel()
                    workers[workers.index(victim)] = group.create_task(work())
        await asyncio.sleep(5000.0)
        assert seen == state
        statistics = queue.statistics()
        assert (statistics.ready, statistics.processing, statistics.delayed, statistics.failing) == (0, 0, 0, 0)
        for worker in workers:
            worker.cancel()


async def test_workers_cancelled_while_a_key_becomes_ready_end_quietly() -> None:
    queue: WorkQueue[str] = WorkQueue()
    workers = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for worker in workers:
        worker.cancel()
    queue.add("a")  # wakes whoever waits, and finds futures that are cancelled already
    ended = await asyncio.gather(*workers, return_exceptions=True)
    assert [type(end) for end in ended] == [asyncio.CancelledError] * 3
    assert await queue.get() == "a"
