"""The state directory: where it is, who uses it, and what tells others how to reach the running platform.

`<state dir>/` holds `lock` (flock of the running `torpor up`), `run.json` (addresses of the running platform, for
`torpor status` and friends), `kubeconfig` (mode 0600), `ca.crt` (who vouches for the ingress, for clients to trust) and
its key, `ingress/`, `images/` (what `torpor deploy` registered), `apiserver/`, `node/` and `logs/`. Nothing outside it
is written.

The lock is the truth: `run.json` counts only while its writer holds the lock. Who merely asks takes the lock shared for
a moment, so askers never disturb each other, and a starting `torpor up` waits them out.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import orjson

from kncore.errors import KnError

__all__ = ["InUse", "NotRunning", "Running", "StateDir", "default_state_dir", "find_state_dir"]

PRIVATE = ("apiserver", "logs", "node")
"""What others must not look into, whoever made the state directory: objects, logs, the files of Secrets."""
LOCK_PATIENCE = 0.3  # seconds; an asker holds the lock for some ten microseconds
LOCK_RETRY = 0.01


class InUse(KnError):
    """Another `torpor up` holds the state directory."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(
            f"{path} is in use by another `torpor up` (pid {pid or 'unknown'}): "
            "stop that one, or give this one another --state-dir"
        )
        self.path = path
        self.pid = pid


class NotRunning(KnError):
    """No platform runs on the state directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no platform is running on {path}: start one with `torpor up`")
        self.path = path


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`$TORPOR_STATE_DIR`, else `$XDG_STATE_HOME/torpor`, else `~/.local/state/torpor`."""
    if explicit := environ.get("TORPOR_STATE_DIR"):
        return Path(explicit).absolute()
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "torpor"


def find_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the platform is that a person works with: the directory `$KUBECONFIG` lies in if that is a state directory
    (as after the `export` line of `torpor up --state-dir`), else the default one.
    """
    if not environ.get("TORPOR_STATE_DIR") and (kubeconfig := environ.get("KUBECONFIG")):
        directory = Path(kubeconfig).absolute().parent
        if StateDir(directory).exists():
            return directory
    return default_state_dir(environ)


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
    https: str = ""
    """host:port of the public listener in TLS."""


@dataclass(frozen=True)
class StateDir:
    """A state directory, mode 0700; `create` makes one, the constructor only names it."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the directory if it is absent.

        Raises:
            KnError: it cannot be made or written.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in PRIVATE:
                (path / name).mkdir(mode=0o700, exist_ok=True)
                (path / name).chmod(0o700)
        except OSError as exc:
            raise KnError(
                f"cannot use {path} as state directory: {exc.strerror}; give another with --state-dir"
            ) from exc
        return cls(path)

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    @property
    def authority(self) -> Path:
        """The certificate of who vouches for the ingress, for clients to trust."""
        return self.path / "ca.crt"

    @property
    def ingress(self) -> Path:
        """The ingress's certificate and key."""
        return self.path / "ingress"

    @property
    def images(self) -> Path:
        """What `torpor deploy` registers, shared with the running platform."""
        return self.path / "images"

    def exists(self) -> bool:
        """Whether this is a state directory: `create` and `lock` have been here."""
        return (self.path / "lock").is_file() and (self.path / "logs").is_dir()

    def log(self, component: str) -> Path:
        """The log file of one component."""
        return self.path / "logs" / f"{component}.log"

    def lock(self) -> int:
        """Take the directory for this process; the returned descriptor holds it until closed or the process ends.

        A `run.json` left by a platform that was killed is removed.

        Raises:
            InUse: another process has it.
            KnError: the directory cannot be written.
        """
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise self._unusable(exc) from exc
        try:
            self._flock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            self.clear_running()
        except BaseException as exc:
            os.close(descriptor)
            if isinstance(exc, OSError):
                raise self._unusable(exc) from exc
            raise
        return descriptor

    def _flock(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InUse(self.path, self.holder()) from None
            time.sleep(LOCK_RETRY)

    def _unusable(self, exc: OSError) -> KnError:
        return KnError(f"cannot write in the state directory {self.path}: {exc.strerror}")

    def in_use(self) -> bool:
        """Whether some `torpor up` holds the directory."""
        return self.holder() is not None

    def holder(self) -> int | None:
        """Pid of the `torpor up` that holds the directory, 0 if it has not written it yet; None if nobody does."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back by closing
        except BlockingIOError:
            written = os.read(descriptor, 32).strip()
            return int(written) if written.isdigit() else 0
        finally:
            os.close(descriptor)
        return None

    def network(self) -> int | None:
        """Number of the loopback network that the last run had; None before the first."""
        try:
            return int((self.path / "network").read_text())
        except (OSError, ValueError):
            return None

    def keep_network(self, number: int) -> None:
        """Remember the loopback network: the stored Services have addresses in it."""
        (self.path / "network").write_text(f"{number}\n")

    def write_running(self, running: Running) -> None:
        """Publish the running platform; readers see the old file or the new one, never half of it.

        Raises:
            KnError: the directory cannot be written.
        """
        temporary = self.path / "run.json.new"
        try:
            temporary.write_bytes(orjson.dumps(asdict(running), option=orjson.OPT_INDENT_2))
            temporary.replace(self.path / "run.json")
        except OSError as exc:
            raise self._unusable(exc) from exc

    def clear_running(self) -> None:
        """The platform stopped."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "run.json").unlink()

    def running(self) -> Running:
        """The platform that runs here.

        Raises:
            NotRunning: none does, or it is not ready yet.
            KnError: the directory belongs to somebody else.
        """
        try:
            found = Running(**orjson.loads((self.path / "run.json").read_bytes()))
        except PermissionError as exc:
            raise KnError(f"cannot read {exc.filename}: {exc.strerror}") from exc
        except (OSError, ValueError, TypeError):
            raise NotRunning(self.path) from None
        if self.holder() != found.pid:
            raise NotRunning(self.path)
        return found
