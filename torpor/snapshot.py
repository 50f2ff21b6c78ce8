"""A copy of a program's directory, under a name made from its content: what makes a deployed revision immutable.

A revision must go on running the code it was made from after the directory was edited and deployed again, or splits
and rollbacks would compare the new code with itself. Directories that tools made (`.venv`, `node_modules`) are not
copied but linked: they are large, and not what people edit.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from kncore.errors import KnError
from torpor.embedded.images import IGNORED

__all__ = ["SnapshotFailed", "snapshot"]

LINKED = (".venv", "node_modules")


class SnapshotFailed(KnError):
    """A directory that could not be copied."""


def snapshot(source: Path, target: Path) -> Path:
    """Copy `source` to `target` unless `target` is there already; returns `target`.

    It appears whole or not at all: the copy is made beside it and renamed.

    Raises:
        SnapshotFailed: a file cannot be read, or there is no room.
    """
    if target.is_dir():
        return target
    source = source.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            _copy(source, fresh)
            with contextlib.suppress(FileExistsError):  # another deploy of the same content was quicker
                fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as exc:
        raise SnapshotFailed(f"cannot copy {exc.filename or source} to {target}: {exc.strerror}") from exc
    return target


def _copy(source: Path, target: Path) -> None:
    for place, directories, files in os.walk(source):
        here = target / Path(place).relative_to(source)
        here.mkdir(exist_ok=True)
        for name in [*directories, *files]:
            original = Path(place, name)
            if original.is_symlink():
                (here / name).symlink_to(_link(original, source))
            elif name in files and original.is_file():  # not sockets, pipes and devices
                shutil.copy2(original, here / name)
        for name in set(directories) & set(LINKED):
            if not (here / name).is_symlink():
                (here / name).symlink_to(Path(place, name), target_is_directory=True)
        directories[:] = [name for name in directories if name not in IGNORED]


def _link(original: Path, source: Path) -> str:
    """Where a copied link points: within the directory as before, out of it by its full path."""
    target = os.readlink(original)
    absolute = Path(os.path.normpath(original.parent / target))
    return target if not os.path.isabs(target) and absolute.is_relative_to(source) else str(absolute)
