"""Memory and CPU limits through cgroup v2, where this user may make cgroups; where not, a reason to show.

A cgroup that hands controllers to its children must hold no process itself, so the runtime moves into a leaf of its
own first. That works when `torpor` is alone in a delegated cgroup (a container, `systemd-run --user --scope -p
Delegate=yes torpor up`), and fails harmlessly in a shell's cgroup.
"""

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["Cgroups"]

_NEEDED = frozenset({"memory", "cpu"})
_CPU_PERIOD = 100_000  # microseconds; the kernel's and kubelet's default


class Cgroups:
    """Makes and removes one cgroup per limited container below `root`; None means limits are not enforced."""

    def __init__(self, root: Path | None, reason: str = "") -> None:
        self._root = root
        self.reason = reason
        """Why limits are not enforced; empty if they are."""

    @classmethod
    def detect(
        cls, hierarchy: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
    ) -> "Cgroups":
        """What this process may do. Moves it into a leaf cgroup if that makes limits possible."""
        try:
            lines = membership.read_text(encoding="ascii").splitlines()
        except OSError:
            return cls(None, "this system has no cgroups")
        path = next((line[3:] for line in lines if line.startswith("0::")), None)
        if path is None or not (hierarchy / "cgroup.controllers").exists():
            return cls(None, "cgroup v2 is not mounted at /sys/fs/cgroup")
        own = hierarchy / path.lstrip("/")
        try:
            offered = set((own / "cgroup.controllers").read_text(encoding="ascii").split())
            if missing := _NEEDED - offered:
                return cls(None, f"cgroup {path} lacks the controllers {', '.join(sorted(missing))}")
            leaf = own / "torpor-runtime"
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
            (own / "cgroup.subtree_control").write_text("+memory +cpu", encoding="ascii")
        except OSError as exc:
            with suppress(OSError):
                (own / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
                (own / "torpor-runtime").rmdir()
            return cls(None, f"cgroup {path} is not ours to divide ({exc.strerror})")
        return cls(own)

    def create(self, container: str, *, memory_bytes: int, cpu_milli: int) -> int:
        """Descriptor of the new cgroup's `cgroup.procs`, or -1 if there is nothing to limit or no way to."""
        if self._root is None or not (memory_bytes or cpu_milli):
            return -1
        place = self._root / f"torpor-{container}"
        try:
            place.mkdir(exist_ok=True)
            if memory_bytes:
                (place / "memory.max").write_text(str(memory_bytes), encoding="ascii")
                with suppress(OSError):  # all of a container dies together, like with kubelet; older kernels lack it
                    (place / "memory.oom.group").write_text("1", encoding="ascii")
            if cpu_milli:
                quota = max(1000, cpu_milli * _CPU_PERIOD // 1000)
                (place / "cpu.max").write_text(f"{quota} {_CPU_PERIOD}", encoding="ascii")
            return os.open(place / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return -1

    def oom_killed(self, container: str) -> bool:
        """Whether the kernel killed something of the container for want of memory."""
        if self._root is None:
            return False
        try:
            text = (self._root / f"torpor-{container}" / "memory.events").read_text(encoding="ascii")
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in text.splitlines())

    def remove(self, container: str) -> None:
        """Drop the cgroup of a container whose processes are gone."""
        if self._root is not None:
            with suppress(OSError):
                (self._root / f"torpor-{container}").rmdir()
