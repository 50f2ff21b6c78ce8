"""The state directory: where it is, who uses it, and what tells others how to reach the running platform.

`<state dir>/` holds `lock` (flock of the running `torpor up`), `run.json` (addresses of the running platform, for
`torpor status` and friends), `kubeconfig` (mode 0600), `apiserver/`, `node/` and `logs/`. Nothing outside it is
written.
"""

import fcntl
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import orjson

from kncore.errors import KnError

__all__ = ["InUse", "NotRunning", "Running", "StateDir", "default_state_dir"]


class InUse(KnError):
    """Another `torpor up` holds the state directory."""

    def __init__(self, path: Path, pid: str) -> None:
        super().__init__(
            f"{path} is in use by another `torpor up` (pid {pid or 'unknown'}): "
            "stop that one, or give this one another --state-dir"
        )
        self.path = path


class NotRunning(KnError):
    """No platform runs on the state directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no platform is running on {path}: start one with `torpor up`")


def default_state_dir() -> Path:
    """`$TORPOR_STATE_DIR`, else `$XDG_STATE_HOME/torpor`, else `~/.local/state/torpor`."""
    if explicit := os.environ.get("TORPOR_STATE_DIR"):
        return Path(explicit)
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "torpor"


@dataclass(frozen=True, kw_only=True)
class Running:
    """How to reach a running platform; written when it is ready, removed when it stops."""

    pid: int
    api_url: str
    kubeconfig: str
    ingress: str
    """host:port of the public listener."""
    internal: str
    """host:port of the activator's internal listener: the http_proxy of pods."""
    autoscaler: str
    """host:port of the stat server."""
    domain: str
    ready_seconds: float
    """From the start of `torpor up` to ready."""


@dataclass(frozen=True)
class StateDir:
    """A state directory that exists, mode 0700."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the directory if it is absent.

        Raises:
            KnError: it cannot be made or written.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (path / "logs").mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise KnError(
                f"cannot use {path} as state directory: {exc.strerror}; give another with --state-dir"
            ) from exc
        return cls(path)

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    def log(self, component: str) -> Path:
        """The log file of one component."""
        return self.path / "logs" / f"{component}.log"

    def lock(self) -> int:
        """Take the directory for this process; the returned descriptor holds it until closed or the process ends.

        Raises:
            InUse: another process has it.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise InUse(self.path, pid) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor

    def in_use(self) -> bool:
        """Whether some `torpor up` holds the directory."""
        try:
            os.close(self.lock())
        except InUse:
            return True
        return False

    def write_running(self, running: Running) -> None:
        """Publish the running platform; readers see the old file or the new one, never half of it."""
        temporary = self.path / "run.json.new"
        temporary.write_bytes(orjson.dumps(asdict(running), option=orjson.OPT_INDENT_2))
        temporary.replace(self.path / "run.json")

    def clear_running(self) -> None:
        """The platform stopped."""
        (self.path / "run.json").unlink(missing_ok=True)

    def running(self) -> Running:
        """The platform that runs here.

        Raises:
            NotRunning: none does, or it is not ready yet.
        """
        try:
            found = Running(**orjson.loads((self.path / "run.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            raise NotRunning(self.path) from None
        if not self.in_use():
            raise NotRunning(self.path)
        return found
