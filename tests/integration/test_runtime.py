"""The process runtime in real processes: signals, the event loop, and dying with a parent."""

import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
    import asyncio, gc
    from kncore import runtime

    class Part:
        name = "part"
        async def run(self):
            try:
                await asyncio.Event().wait()
            finally:
                print("ended", flush=True)

    async def drain():
        print("draining", flush=True)
        {drain}

    async def main():
        stop = runtime.stop_on_signals()
        loop = type(asyncio.get_running_loop()).__module__
        print(loop, gc.get_freeze_count() > 0, gc.get_threshold()[0], flush=True)
        await runtime.serve([Part()], stop, drain=drain)

    runtime.run(main)
"""


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-c", textwrap.dedent(code)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    try:
        yield child
    finally:
        child.kill()
        child.communicate(timeout=10)


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_in_order(number: signal.Signals) -> None:
    with process(SERVER.format(drain="pass")) as child:
        assert line(child) == "uvloop True 100000"
        child.send_signal(number)
        assert [line(child), line(child)] == ["draining", "ended"]
        assert child.wait(10) == 0


def test_a_second_signal_does_not_wait_for_the_drain() -> None:
    with process(SERVER.format(drain="await asyncio.Event().wait()")) as child:
        line(child)
        child.send_signal(signal.SIGTERM)
        assert line(child) == "draining"
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 128 + signal.SIGTERM


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a parent-death signal")
def test_a_child_dies_with_its_parent() -> None:
    code = """
        import os, signal, sys, time
        from kncore import runtime

        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            assert runtime.set_parent_death_signal(signal.SIGKILL, parent=os.getppid())
            os.write(writer, b"x")
            time.sleep(600)
        os.read(reader, 1)
        print(child, flush=True)
        time.sleep(600)
    """
    with process(code) as parent:
        grandchild = int(line(parent))
        # An open pidfd becomes readable when the process ends: no polling, and no race with a reused id.
        handle = os.pidfd_open(grandchild)
        try:
            parent.kill()
            ready, _, _ = select.select([handle], [], [], 10)
            assert ready == [handle]
        finally:
            os.close(handle)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a parent-death signal")
def test_a_parent_that_is_already_gone_counts_as_dead() -> None:
    code = """
        import os, signal
        from kncore import runtime
        print("up", flush=True)
        runtime.set_parent_death_signal(signal.SIGKILL, parent=os.getppid() + 1)
        print("unreachable", flush=True)
    """
    with process(code) as child:
        assert line(child) == "up"
        assert child.wait(10) == -signal.SIGKILL
