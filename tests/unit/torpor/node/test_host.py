"""Addresses, ports, networks, and the runtime's messages and records."""

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from torpor.embedded.node import cgroups, orphans, protocol
from torpor.embedded.node.host import Addresses, Exhausted, NetworkUnavailable, Ports, claim_network, find_network
from torpor.embedded.node.listening import listening_ports, listening_ports_in
from torpor.embedded.node.protocol import BadCommand, Lines, Mount, Run


def test_addresses_are_reused_as_late_as_possible() -> None:
    addresses = Addresses(ipaddress.IPv4Network("127.2.128.0/29"))
    assert [addresses.take() for _ in range(3)] == ["127.2.128.1", "127.2.128.2", "127.2.128.3"]
    addresses.free("127.2.128.1")
    assert addresses.take() == "127.2.128.4"
    assert not addresses.reserve("127.2.128.4")
    assert not addresses.reserve("127.3.128.5")
    assert not addresses.reserve("nonsense")
    assert addresses.reserve("127.2.128.5")
    assert [addresses.take(), addresses.take()] == ["127.2.128.6", "127.2.128.1"]
    with pytest.raises(Exhausted):
        addresses.take()
    assert len(addresses) == 6


def test_ports_skip_what_others_listen_on() -> None:
    ports = Ports()
    first = ports.take()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert taken in listening_ports()
        assert Ports(taken, taken + 40).take() != taken
    ports.free(first)
    assert ports.take() != first  # not at once
    used = Ports(first, first)
    used.reserve(first)
    with pytest.raises(Exhausted):
        used.take()


def test_two_instances_never_share_a_port_that_nobody_listens_on_yet() -> None:
    one, two = Ports(), Ports()
    first = one.take()
    second = two.take()
    assert first != second
    one.free(first)
    assert Ports(first, first).take() == first
    two.free(second)


@pytest.mark.parametrize("address", [("127.0.0.1", 0), ("::1", 0)], ids=["IPv4", "IPv6"])
def test_listeners_are_seen_and_connections_are_not(address: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as server, socket.socket(family) as client:
        server.bind(address)
        port = server.getsockname()[1]
        assert port not in listening_ports()
        server.listen()
        client.connect(server.getsockname()[:2])
        assert port in listening_ports()
        assert client.getsockname()[1] not in listening_ports()
        assert port in listening_ports_in([Path("/proc/net/tcp"), Path("/proc/net/tcp6")])


def test_two_instances_never_share_a_network() -> None:
    one = claim_network()
    two = claim_network()
    try:
        assert one.number != two.number
        assert find_network({"TORPOR_NET": one.prefix}) == one
        assert one.cluster_ips.subnet_of(ipaddress.IPv4Network(f"{one.prefix}.0.0/16"))
        assert not one.cluster_ips.overlaps(one.pod_ips)
    finally:
        one.release()
        two.release()
    again = claim_network(preferred=two.number)  # where this instance's Services have their addresses
    assert again.number == two.number
    other = claim_network(preferred=two.number)
    assert other.number != two.number
    other.release()
    again.release()


@pytest.mark.parametrize("value", ["", "127", "127.1", "127.300", "10.2", "127.x"])
def test_bad_network_names_are_refused(value: str) -> None:
    with pytest.raises(NetworkUnavailable):
        find_network({"TORPOR_NET": value})


RUN: dict[str, Any] = {
    "container": "c",
    "pod": "p",
    "name": "n",
    "kind": "exec",
    "argv": ["a", "b"],
    "env": {"K": "V"},
    "cwd": "/",
    "log": "/l",
}


def test_run_survives_the_wire() -> None:
    run = Run.parse({**RUN, "mounts": [{"source": "/s", "target": "/t", "read_only": True}], "meta": {"x": 1}})
    assert run.mounts == (Mount(source="/s", target="/t", read_only=True),)
    (message,) = Lines().feed(protocol.encode({"do": "run", **run.message()}))
    assert Run.parse(message) == run


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "vm"},
        {"argv": []},
        {"argv": "text"},
        {"env": {"K": 1}},
        {"env": {"K": "nul\0"}},
        {"env": None},
        {"cwd": None},
        {"mounts": [{"what": 1}]},
        {"memory_bytes": "x"},
    ],
)
def test_malformed_runs_are_refused(change: Any) -> None:
    if change == {"argv": "text"}:
        assert Run.parse({**RUN, **change}).argv == ("t", "e", "x", "t")  # harmless: a string is a sequence of words
        return
    with pytest.raises(BadCommand):
        Run.parse({**RUN, **change})


def test_lines_are_cut_anywhere_and_bounded() -> None:
    lines = Lines(limit_bytes=20)
    assert lines.feed(b'{"a":') == []
    assert lines.feed(b'1}\n{"b":2}\n{') == [{"a": 1}, {"b": 2}]
    for bad in (b"x" * 30, b"[]\n", b"nonsense\n"):
        with pytest.raises(BadCommand):
            Lines(limit_bytes=20).feed(bad)


def test_records_of_ended_containers_are_forgotten_and_torn_lines_ignored(tmp_path: Path) -> None:
    path = tmp_path / "running.jsonl"
    records, found = orphans.Records.take_over(path)
    assert found == []
    records.rewrite()
    records.started("a", os.getpid())
    records.started("b", os.getpid())
    records.ended("a")
    with path.open("ab") as file:
        file.write(b'{"container": "c", "pi')
    _, found = orphans.Records.take_over(path)
    assert [(one.container, one.pid) for one in found] == [("b", os.getpid())]


def test_no_process_is_killed_for_having_a_reused_pid() -> None:
    """We have the pid of a record, but another start time, boot or marker: we live on."""
    stat = Path(f"/proc/{os.getpid()}/stat").read_text(encoding="ascii")
    ticks = int(stat.rsplit(")", 1)[1].split()[19])
    boot = orphans.boot_id()
    parent = os.getppid()
    suspects = [
        orphans.Record("a", parent, ticks + 10**9, boot),
        orphans.Record("b", parent, 1, boot),
        orphans.Record("c", parent, ticks, "another boot"),
    ]
    assert orphans.kill_survivors(suspects, patience=0.2) == []


def test_limits_need_a_cgroup_of_our_own(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("12:cpu:/x\n", encoding="ascii")
    assert "not mounted" in cgroups.Cgroups.detect(tmp_path, membership).reason
    membership.write_text("0::/mine\n", encoding="ascii")
    (tmp_path / "cgroup.controllers").write_text("", encoding="ascii")
    own = tmp_path / "mine"
    own.mkdir()
    (own / "cgroup.controllers").write_text("memory pids", encoding="ascii")
    assert cgroups.Cgroups.detect(tmp_path, membership).reason == "cgroup /mine lacks the controllers cpu"
    (own / "cgroup.controllers").write_text("memory cpu pids", encoding="ascii")
    found = cgroups.Cgroups.detect(tmp_path, membership)
    assert found.reason == ""
    assert (own / "cgroup.subtree_control").read_text() == "+memory +cpu"
    assert found.create("c", memory_bytes=0, cpu_milli=0) == -1
    (own / "torpor-c").mkdir()
    (own / "torpor-c" / "cgroup.procs").touch()
    fd = found.create("c", memory_bytes=1 << 20, cpu_milli=250)
    os.close(fd)
    assert (own / "torpor-c" / "memory.max").read_text() == str(1 << 20)
    assert (own / "torpor-c" / "cpu.max").read_text() == "25000 100000"
    assert not found.oom_killed("c")
    (own / "torpor-c" / "memory.events").write_text("low 0\noom_kill 1\n", encoding="ascii")
    assert found.oom_killed("c")
