"""A private view of the file system for one container, built in its own process before it executes.

Volumes must appear at absolute paths (`/etc/config`) that need not exist on this machine and must not be created
there. So the process leaves the machine's mount namespace (as root, or through a user namespace that maps the caller
to itself) and lays volumes over it:

- a target that exists is covered by the volume;
- a target whose parent directory exists somewhere below `/` gets an overlay on that directory, in which it is created;
- a target directly below `/` needs a new root: a tmpfs with every entry of `/` bound into it, then chroot.

Nothing of it is visible outside the process and its children. Where the kernel or a policy (AppArmor on Ubuntu, a
seccomp profile) forbids it, `enter` raises `OSError`; the container then runs without and the pod gets a warning that
names the directory under `TORPOR_MOUNT_ROOT` where the files are.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from torpor.embedded.node import linux
from torpor.embedded.node.protocol import Mount

__all__ = ["enter"]

_LOCKED_FLAGS = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME
"""Same numbers in statvfs(3) and mount(2)."""


def enter(mounts: Sequence[Mount], scratch: Path) -> None:
    """Move this process into a namespace of its own with `mounts` in place.

    Args:
        mounts: parents before children, as sorted by target.
        scratch: an empty directory that belongs to this container; holds overlays' upper layers and the new root.
    Raises:
        OSError: not permitted, or a mount failed; the process may be left with only some of them.
    """
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        linux.unshare(linux.CLONE_NEWNS)
    else:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    scratch.mkdir(parents=True, exist_ok=True)
    root = Path("/")
    if any(not Path(one.target).exists() and _ancestor(Path(one.target)) == Path("/") for one in mounts):
        root = _new_root(scratch / "root")
    covered: list[Path] = []
    for number, one in enumerate(sorted(mounts, key=lambda mount: mount.target)):
        target = root / one.target.lstrip("/")
        if not target.exists():
            ancestor = _ancestor(target)
            if ancestor != root and not any(ancestor.is_relative_to(done) for done in covered):
                _overlay(ancestor, scratch / f"overlay-{number}")
                covered.append(ancestor)
            if Path(one.source).is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
        linux.mount(one.source, str(target), flags=linux.MS_BIND | linux.MS_REC)
        if one.read_only:
            # In a user namespace the flags that came with the source's file system may not be dropped.
            kept = os.statvfs(target).f_flag & _LOCKED_FLAGS
            linux.mount("none", str(target), flags=linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | kept)
    if root != Path("/"):
        os.chroot(root)
        os.chdir("/")


def _ancestor(path: Path) -> Path:
    """The nearest parent directory that exists."""
    return next(parent for parent in path.parents if parent.is_dir())


def _overlay(directory: Path, scratch: Path) -> None:
    """Make `directory` writable without changing it."""
    for part in ("upper", "work"):
        (scratch / part).mkdir(parents=True, exist_ok=True)
    data = f"lowerdir={directory},upperdir={scratch / 'upper'},workdir={scratch / 'work'}"
    linux.mount("overlay", str(directory), "overlay", data=data)


def _new_root(root: Path) -> Path:
    """A tmpfs that shows all of `/` and has room for more entries."""
    root.mkdir(parents=True, exist_ok=True)
    linux.mount("tmpfs", str(root), "tmpfs", data="mode=755")
    for entry in Path("/").iterdir():
        place = root / entry.name
        if entry.is_symlink():
            place.symlink_to(entry.readlink())
            continue
        if entry.is_dir():
            place.mkdir()
        else:
            place.touch()
        linux.mount(str(entry), str(place), flags=linux.MS_BIND | linux.MS_REC)
    return root
