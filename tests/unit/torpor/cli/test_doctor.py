"""Each check on a machine that is fit and on one that is not, with what to do about it."""

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from torpor.cli import doctor
from torpor.cli.doctor import Check, checks
from torpor.state import Running, StateDir


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "kubectl"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def version(minor: str) -> str:
    return f"""echo '{{"clientVersion": {{"major": "1", "minor": "{minor}", "gitVersion": "v1.{minor}.0"}}}}'"""


@pytest.mark.parametrize(("minor", "good"), [("29", True), ("32", True), ("36+", True), ("28", False), ("9", False)])
def test_kubectl_must_be_new_enough(tmp_path: Path, minor: str, good: bool) -> None:
    found = doctor.kubectl(script(tmp_path, version(minor)))
    assert found.good is good
    assert f"v1.{minor}.0" in found.what
    assert "1.29" in found.fix


@pytest.mark.parametrize("body", ["exit 1", "echo nonsense", "echo '{}'", "echo '[]'"])
def test_a_kubectl_that_does_not_tell_its_version_is_a_problem(tmp_path: Path, body: str) -> None:
    assert not doctor.kubectl(script(tmp_path, body)).good


def test_no_kubectl_is_no_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor.kubectl()
    assert found.good
    assert "torpor apply" in found.what


@pytest.mark.parametrize(
    ("limits", "good", "command"),
    [
        ((1024, 524288), False, "ulimit -n 65536"),
        ((1024, 4096), False, "ulimit -n 4096"),
        ((1024, resource.RLIM_INFINITY), False, "ulimit -n 65536"),
        ((65536, 65536), True, ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), True, ""),
    ],
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], good: bool, command: str) -> None:
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: limits)
    found = doctor.open_files()
    assert found.good is good
    assert command in found.fix


def test_an_old_python_is_told() -> None:
    assert doctor.python((3, 12, 1)).good
    assert not doctor.python((3, 10, 4)).good


def test_addresses_of_pods() -> None:
    assert doctor.loopback().good
    found = doctor.loopback("192.0.2.1")  # a documentation address, nobody's own
    assert not found.good
    assert "ifconfig lo0 alias 192.0.2.1" in found.fix


def test_a_full_disk_and_one_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.disk(tmp_path / "not" / "made" / "yet", least=1).good
    assert not doctor.disk(tmp_path, least=1 << 60).good
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    found = doctor.disk(tmp_path, least=1)
    assert not found.good
    assert "cannot be written" in found.what


@pytest.fixture
def listener() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_taken_port_is_told_and_no_fault(listener: str) -> None:
    found = doctor.port(int(listener.rpartition(":")[2]))
    assert found.good
    assert "next free one" in found.what


def test_a_component_that_is_gone_is_found(listener: str, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{unused.getsockname()[1]}"
        found = list(doctor.listeners(platform(tmp_path, listener, autoscaler=dead)))
    assert [check.good for check in found] == [True, True, True, True, False]
    assert dead in found[4].what
    assert str(tmp_path / "logs") in found[4].fix


def test_a_kubeconfig_that_leads_elsewhere_is_told(listener: str, tmp_path: Path) -> None:
    running = platform(tmp_path, listener)
    config = (
        "current-context: c\ncontexts: [{name: c, context: {cluster: k}}]\nclusters: [{name: k, cluster: {server: %s}}]"
    )
    for name, server in (("own", running.api_url), ("other", "https://cluster.example.com")):
        (tmp_path / name).write_text(config % f'"{server}"')
    assert doctor.pointed_at(running, "").good
    assert doctor.pointed_at(running, str(tmp_path / "own")).good
    other = doctor.pointed_at(running, str(tmp_path / "other"))
    assert not other.good
    assert f"export KUBECONFIG={running.kubeconfig}" in other.fix
    assert not doctor.pointed_at(running, str(tmp_path / "absent")).good


def test_without_a_platform_the_machine_alone_is_examined(tmp_path: Path) -> None:
    found = list(checks(tmp_path / "state"))
    assert any("no platform is running" in check.what for check in found)
    assert not (tmp_path / "state").exists()


def test_the_exit_code_tells_whether_something_is_to_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "checks", lambda _: iter([Check(True, "fine", "unused"), Check(False, "bad", "do it")]))
    assert doctor.doctor(tmp_path) == 1
    assert capsys.readouterr().out == "ok   fine\nFIX  bad\n     do it\n"
    monkeypatch.setattr(doctor, "checks", lambda _: iter([Check(True, "fine")]))
    assert doctor.doctor(tmp_path) == 0


def platform(tmp_path: Path, address: str, *, autoscaler: str = "") -> Running:
    return Running(
        pid=1,
        api_url=f"https://{address}",
        kubeconfig=str(StateDir(tmp_path).kubeconfig),
        ingress=address,
        internal=address,
        autoscaler=autoscaler or address,
        domain="localhost",
        ready_seconds=1.0,
        https=address,
    )
