"""A snapshot is the directory as it was: later edits do not reach it, and it is there whole or not at all."""

import os
from pathlib import Path

import pytest

from torpor import snapshot as module
from torpor.snapshot import SnapshotFailed, snapshot


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "src"
    (place / "templates").mkdir(parents=True)
    (place / "app.py").write_text("one")
    (place / "templates" / "page.html").write_text("page")
    (place / "run").write_text("#!/bin/sh\n")
    (place / "run").chmod(0o755)
    return place


def test_edits_do_not_reach_it(source: Path, tmp_path: Path) -> None:
    copy = snapshot(source, tmp_path / "programs" / "app-1")
    (source / "app.py").write_text("two")
    (source / "templates" / "page.html").unlink()
    assert (copy / "app.py").read_text() == "one"
    assert (copy / "templates" / "page.html").read_text() == "page"
    assert os.access(copy / "run", os.X_OK)


def test_one_that_exists_is_used(source: Path, tmp_path: Path) -> None:
    copy = snapshot(source, tmp_path / "app-1")
    (source / "app.py").write_text("two")
    assert snapshot(source, tmp_path / "app-1") == copy
    assert (copy / "app.py").read_text() == "one"


def test_what_tools_made_is_linked_or_left(source: Path, tmp_path: Path) -> None:
    for name in (".venv/bin", "node_modules/x", "__pycache__", ".git"):
        (source / name).mkdir(parents=True)
    (source / ".venv" / "bin" / "python").touch()
    copy = snapshot(source, tmp_path / "app-1")
    assert (copy / ".venv").is_symlink()
    assert (copy / ".venv" / "bin" / "python").exists()
    assert (copy / "node_modules").resolve() == source / "node_modules"
    assert not (copy / "__pycache__").exists()
    assert not (copy / ".git").exists()


def test_links_lead_where_they_led(source: Path, tmp_path: Path) -> None:
    (tmp_path / "shared.txt").write_text("shared")
    (source / "inside").symlink_to("templates/page.html")
    (source / "outside").symlink_to("../shared.txt")
    (source / "templates" / "back").symlink_to("..")  # a loop, if it were followed
    (source / "dangling").symlink_to("nowhere")
    copy = snapshot(source, tmp_path / "deep" / "er" / "app-1")
    assert os.readlink(copy / "inside") == "templates/page.html"
    assert (copy / "outside").read_text() == "shared"
    assert (copy / "templates" / "back").resolve() == copy
    assert (copy / "dangling").is_symlink()


def test_pipes_are_not_read(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "pipe")
    assert not (snapshot(source, tmp_path / "app-1") / "pipe").exists()


def test_a_full_disk_leaves_nothing_behind(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(original: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(module.shutil, "copy2", full)
    with pytest.raises(SnapshotFailed, match="No space left on device"):
        snapshot(source, tmp_path / "programs" / "app-1")
    assert list((tmp_path / "programs").iterdir()) == []
