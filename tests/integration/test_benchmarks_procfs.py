"""What is read from /proc, checked against what this process knows of itself."""

import os
import socket
import subprocess
import sys
import time

import pytest

from benchmarks import procfs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def test_a_listening_socket_leads_to_its_process() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        host, port = listening.getsockname()
        assert procfs.listener(host, port, [os.getpid()]) is None  # bound, but not listening yet
        listening.listen()
        assert procfs.listener(host, port, [1, os.getpid()]) == os.getpid()
        assert procfs.listener("127.0.0.2", port, [os.getpid()]) is None


def test_children_are_descendants_and_have_no_memory_once_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in set(procfs.descendants(os.getpid()))
        assert procfs.memory(child.pid).rss > 0
        child.communicate(b"\n")
    assert child.pid not in set(procfs.descendants(os.getpid()))
    assert procfs.memory(child.pid) == procfs.Memory(rss=0, pss=0, uss=0)


def test_shares_of_memory_are_ordered() -> None:
    own = procfs.memory(os.getpid())
    assert 0 < own.uss <= own.pss <= own.rss


def test_cpu_time_grows_as_the_clock_of_the_process() -> None:
    before, begun = procfs.cpu_seconds([os.getpid()]), time.process_time()
    while time.process_time() - begun < 0.02:
        pass
    assert procfs.cpu_seconds([os.getpid()]) - before >= 0.015


def test_steal_is_part_of_busy_and_busy_of_all() -> None:
    times = procfs.machine_times()
    assert 0 <= times.steal <= times.busy <= times.total
