"""Logs and volumes on disk."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.embedded.node import logs
from torpor.embedded.node.crilog import LINE_BYTES, LogWriter, parse, stamp
from torpor.embedded.node.environment import ConfigMissing, Facts, References
from torpor.embedded.node.logs import Selection
from torpor.embedded.node.protocol import Mount
from torpor.embedded.node.volumes import File, UnsupportedVolume, files_of, link, mounts, write_files

FACTS = Facts(pod_ip="1", host_ip="2", cpu_milli=1, memory_bytes=1)


async def text(path: Path, **selection: Any) -> str:
    return b"".join([piece async for piece in logs.read(path, Selection(**selection))]).decode()


async def test_lines_come_back_whole_whatever_the_pieces_they_arrived_in(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "0.log")
    long = "x" * (2 * LINE_BYTES + 7)
    for piece in (b"a", b"b\nc\n", b"", b"\n", long.encode(), b"\nunfinished"):
        log.feed("stdout", piece, 1.5)
    log.feed("stderr", b"between\n", 2.0)
    log.finish(3.0)
    assert await text(tmp_path / "0.log") == f"ab\nc\n\n{long[: 2 * LINE_BYTES]}" + await tail_of(tmp_path, long)
    stored = [parse(line) for line in (tmp_path / "0.log").read_bytes().splitlines()]
    assert all(entry is not None and len(entry.text) <= LINE_BYTES for entry in stored)


async def tail_of(tmp_path: Path, long: str) -> str:
    """The stderr line may come between the pieces of the long one, as it did when they were written."""
    whole = await text(tmp_path / "0.log")
    rest = whole[whole.index("c\n\n") + 3 + 2 * LINE_BYTES :]
    assert sorted(rest.splitlines()) == sorted([long[2 * LINE_BYTES :], "between", "unfinished"])
    return rest


@given(st.binary(max_size=2000), st.lists(st.integers(1, 40), max_size=80))
def test_any_output_is_stored_exactly_however_it_arrives(data: bytes, sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = LogWriter(Path(directory, "0.log"))
        rest = data
        for size in sizes:
            log.feed("stdout", rest[:size], 0.0)
            rest = rest[size:]
        log.feed("stdout", rest, 0.0)
        log.finish(0.0)
        path = Path(directory, "0.log")
        entries = [parse(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
    stored = b"".join(entry.text + (b"\n" if entry.complete else b"") for entry in entries if entry)
    assert stored == data + (b"" if not data or data.endswith(b"\n") else b"\n")


async def test_rotation_keeps_two_files_and_reading_spans_both(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "0.log", rotate_bytes=2000)
    for number in range(100):
        log.feed("stdout", f"line {number}\n".encode(), 1000.0 + number)
    log.finish(0.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.log", "0.log.1"]
    assert all(path.stat().st_size < 2200 for path in tmp_path.iterdir())
    lines = (await text(tmp_path / "0.log")).splitlines()
    assert lines == [f"line {number}" for number in range(100 - len(lines), 100)]
    assert (await text(tmp_path / "0.log", tail_lines=60)).splitlines() == lines[-60:]
    assert (await text(tmp_path / "0.log", tail_lines=3)).splitlines() == lines[-3:]
    assert (await text(tmp_path / "0.log", tail_lines=0)) == ""
    assert (await text(tmp_path / "0.log", since=1098.0)).splitlines() == ["line 98", "line 99"]
    assert (await text(tmp_path / "0.log", timestamps=True, tail_lines=1)) == f"{stamp(1099.0)} line 99\n"


async def test_tail_finds_its_place_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(tmp_path / "0.log")
    for number in range(50):
        log.feed("stdout", b"y" * number + b"\n", 0.0)
    log.finish(0.0)
    whole = (await text(tmp_path / "0.log")).splitlines()
    for block in (16, 37, 64, 1000):
        monkeypatch.setattr(logs, "CHUNK_BYTES", block)
        for count in (1, 2, 17, 49, 50, 60):
            assert (await text(tmp_path / "0.log", tail_lines=count)).splitlines() == whole[-count:]


def test_full_disk_loses_output_but_never_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(tmp_path / "0.log")
    log.feed("stdout", b"before\n", 0.0)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        log.feed("stdout", b"lost\n" * 3, 0.0)
    lost = log.dropped_bytes
    assert lost > 15
    log.feed("stdout", b"after\n", 0.0)
    assert log.dropped_bytes == 0
    entries = [parse(line) for line in (tmp_path / "0.log").read_bytes().splitlines()]
    assert [entry.text for entry in entries if entry] == [
        b"before",
        f"[{lost} bytes of output were lost: the log could not be written]".encode(),
        b"after",
    ]


def test_unwritable_log_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = LogWriter(tmp_path / "file" / "0.log")
    log.create()
    log.feed("stdout", b"x\n", 0.0)
    log.finish(0.0)
    assert log.dropped_bytes > 0


def references(**objects: Any) -> References:
    return References(config_map=lambda name: objects.get(name), secret=lambda name: objects.get(name))


def files(volume: Any, **objects: Any) -> dict[str, tuple[bytes, int]]:
    pod = {"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}}}
    found = files_of(volume, pod, FACTS, references(**objects), lambda audience, _: f"for {audience}")
    return {file.path: (file.content, file.mode) for file in found}


def test_volume_sources() -> None:
    data = {"data": {"k": "v", "l": "w"}, "binaryData": {"b": "AAE="}}
    assert files({"configMap": {"name": "cm", "defaultMode": 0o400}}, cm=data) == {
        "k": (b"v", 0o400),
        "l": (b"w", 0o400),
        "b": (b"\x00\x01", 0o400),
    }
    only = {"configMap": {"name": "cm", "items": [{"key": "k", "path": "x/y", "mode": 0o600}]}}
    assert files(only, cm=data) == {"x/y": (b"v", 0o600)}
    assert files({"secret": {"secretName": "s"}}, s={"data": {"k": "djE="}}) == {"k": (b"v1", 0o644)}
    assert files({"secret": {"secretName": "s", "optional": True}}) == {}
    with pytest.raises(ConfigMissing, match='secret "s" not found'):
        files({"secret": {"secretName": "s"}})
    with pytest.raises(ConfigMissing, match='configmap "cm" references non-existent config key: z'):
        files({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}, cm=data)
    sources = [
        {"configMap": {"name": "cm", "items": [{"key": "k", "path": "k"}]}},
        {"secret": {"name": "gone", "optional": True}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"serviceAccountToken": {"path": "token", "audience": "me"}},
    ]
    assert files({"projected": {"sources": sources}}, cm=data) == {
        "k": (b"v", 0o644),
        "labels": (b'a="b"', 0o644),
        "token": (b"for me", 0o644),
    }


def write(directory: Path, **content: str) -> bool:
    return write_files(
        directory, [File(path=name, content=text.encode(), mode=0o644) for name, text in content.items()]
    )


def test_update_swaps_all_files_at_once_and_leaves_no_old_ones(tmp_path: Path) -> None:
    volume = tmp_path / "v"
    assert write(volume, a="1", b="2")
    assert (volume / "a").read_text() == "1"
    assert (volume / "a").is_symlink()
    opened = (volume / "a").open()
    assert not write(volume, a="1", b="2")
    assert write(volume, a="3", c="4")
    assert (volume / "a").read_text() == "3"
    assert not (volume / "b").exists()
    assert sorted(path.name for path in volume.iterdir() if not path.name.startswith("..")) == ["a", "c"]
    assert len([path for path in volume.iterdir() if path.name.startswith("..")]) == 2  # ..data and what it points at
    assert opened.read() == "1"  # who has it open reads on
    opened.close()
    with pytest.raises(OSError, match="leads out of the volume"):
        write_files(volume, [File(path="../x", content=b"", mode=0o644)])


def test_mounts_and_their_links(tmp_path: Path) -> None:
    pod = {
        "spec": {
            "volumes": [
                {"name": "e", "emptyDir": {}},
                {"name": "c", "configMap": {"name": "x"}},
                {"name": "host", "hostPath": {"path": str(tmp_path)}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "y"}},
            ]
        }
    }
    container = {
        "volumeMounts": [
            {"name": "e", "mountPath": "/data", "subPathExpr": "$(NAME)/logs"},
            {"name": "c", "mountPath": "/etc/config"},
            {"name": "host", "mountPath": "/host"},
        ]
    }
    made = mounts(container, pod, tmp_path / "volumes", {"NAME": "p"})
    assert made == [
        Mount(source=str(tmp_path / "volumes/e/p/logs"), target="/data"),
        Mount(source=str(tmp_path / "volumes/c"), target="/etc/config", read_only=True),
        Mount(source=str(tmp_path), target="/host"),
    ]
    assert (tmp_path / "volumes/e/p/logs").is_dir()
    link(tmp_path / "root", made)
    link(tmp_path / "root", made)
    (tmp_path / "volumes/e/p/logs/file").touch()
    assert (tmp_path / "root/data/file").exists()
    assert (tmp_path / "root/etc/config").is_dir()
    for bad, message in (
        ({"name": "claim", "mountPath": "/x"}, "persistentVolumeClaim, which needs a cluster"),
        ({"name": "e", "mountPath": "/x", "subPath": "../.."}, "must stay inside"),
    ):
        with pytest.raises(UnsupportedVolume, match=message):
            mounts({"volumeMounts": [bad]}, pod, tmp_path / "volumes", {})
