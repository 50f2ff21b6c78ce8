import asyncio

import pytest

from kncore.net.ticker import FAST, SLOW, Ticker

pytestmark = pytest.mark.looptime


async def test_slow_when_nothing_is_due_and_fast_when_woken() -> None:
    loop = asyncio.get_running_loop()
    seen: list[float] = []
    busy = False

    def visit(now: float) -> bool:
        seen.append(now)
        return busy

    ticker = Ticker()
    ticker.add(visit)
    await asyncio.sleep(2 * SLOW + 0.01)
    assert len(seen) == 2
    busy = True
    ticker.wake()
    started = loop.time()
    await asyncio.sleep(10 * FAST + 0.001)
    assert len(seen) - 2 == pytest.approx((loop.time() - started) / FAST, abs=1)
    busy = False
    await asyncio.sleep(FAST)
    seen.clear()
    await asyncio.sleep(3 * SLOW)
    assert len(seen) == 3
    ticker.close()
    await asyncio.sleep(2 * SLOW)
    assert len(seen) == 3


async def test_discarded_participants_are_left_alone() -> None:
    calls: list[float] = []

    def visit(now: float) -> bool:
        calls.append(now)
        return False

    ticker = Ticker()
    ticker.add(visit)
    ticker.discard(visit)
    await asyncio.sleep(2 * SLOW)
    assert calls == []
    ticker.close()


async def test_a_participant_that_raises_stops_nobodys_clock() -> None:
    loop = asyncio.get_running_loop()
    raised: list[object] = []
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    calls: list[float] = []

    def broken(now: float) -> bool:
        raise LookupError

    def visit(now: float) -> bool:
        calls.append(now)
        return False

    ticker = Ticker()
    ticker.add(visit)
    ticker.add(broken)
    await asyncio.sleep(2 * SLOW + 0.01)
    ticker.close()
    assert len(calls) > 2
    assert {type(exc) for exc in raised} == {LookupError}
