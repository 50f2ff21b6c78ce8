import asyncio
import signal

import pytest

from kncore import runtime


class Recorder:
    """A part that notes when it starts and ends."""

    def __init__(self, name: str, log: list[str], *, slow: int = 0, fails: bool = False) -> None:
        self.name = name
        self.log = log
        self.slow = slow
        self.fails = fails

    async def run(self) -> None:
        self.log.append(f"start {self.name}")
        if self.fails:
            raise LookupError(self.name)
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(self.slow):
                await asyncio.sleep(0)
            self.log.append(f"end {self.name}")


async def test_parts_end_in_reverse_order_each_before_the_next_after_draining() -> None:
    log: list[str] = []
    stop = asyncio.Event()
    parts = [Recorder("a", log), Recorder("b", log, slow=3), Recorder("c", log, slow=5)]

    async def drain() -> None:
        log.append("drain")

    serving = asyncio.ensure_future(runtime.serve(parts, stop, drain=drain))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stop.set()
    await serving
    assert log == ["start a", "start b", "start c", "drain", "end c", "end b", "end a"]


async def test_a_part_that_fails_takes_the_others_down() -> None:
    log: list[str] = []
    with pytest.raises(ExceptionGroup) as caught:
        await runtime.serve([Recorder("a", log), Recorder("b", log, fails=True)], asyncio.Event())
    assert caught.group_contains(LookupError)
    assert log[-1] == "end a"


async def test_a_part_that_will_not_end_does_not_hold_up_the_others() -> None:
    log: list[str] = []
    stop, release, other_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Other(Recorder):
        async def run(self) -> None:
            try:
                await super().run()
            finally:
                other_ended.set()

    class Stubborn(Recorder):
        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await release.wait()
                log.append("end stubborn")

    serving = asyncio.ensure_future(runtime.serve([Other("a", log), Stubborn("s", log)], stop, grace=0))
    await asyncio.sleep(0)
    stop.set()
    await other_ended.wait()
    release.set()
    await serving
    assert log == ["start a", "end a", "end stubborn"]


async def test_the_first_signal_stops_and_the_second_exits() -> None:
    exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = runtime.stop_on_signals((signal.SIGUSR1,), exit_now=exited.set_result)
    try:
        signal.raise_signal(signal.SIGUSR1)
        await stop.wait()
        assert not exited.done()
        signal.raise_signal(signal.SIGUSR1)
        assert await exited == 128 + signal.SIGUSR1
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)


async def test_cleanup_survives_cancellation_and_then_delivers_it() -> None:
    release, finished = asyncio.Event(), []

    async def work() -> str:
        await release.wait()
        finished.append(True)
        return "done"

    ending = asyncio.ensure_future(runtime.cleanup(work(), bound=60))
    for _ in range(3):
        await asyncio.sleep(0)
        ending.cancel()
    await asyncio.sleep(0)
    assert not ending.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert finished == [True]


async def test_cleanup_returns_raises_and_is_bounded() -> None:
    async def fine() -> int:
        return 3

    async def broken() -> None:
        raise LookupError

    async def endless() -> None:
        await asyncio.Event().wait()

    assert await runtime.cleanup(fine(), bound=60) == 3
    with pytest.raises(LookupError):
        await runtime.cleanup(broken(), bound=60)
    with pytest.raises(TimeoutError, match="within 0 s"):
        await runtime.cleanup(endless(), bound=0)
