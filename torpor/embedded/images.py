"""Which program stands behind an image name, on a machine without a container engine.

Two sources, asked in this order: what `torpor deploy` registered (exact names), and images files:

    images:
      - match: "ghcr.io/myorg/hello-app:*"   # an image name, or a pattern with *; without a tag it matches every tag
        dir: ./app                           # relative to this file
        command: ["python", "app.py"]        # the image's entry point; a container's `command` replaces it
        args: ["--verbose"]                  # optional; a container's `args` replace them
        env: {LOG_LEVEL: info}               # optional; a container's own `env` wins
        workingDir: src                      # optional, relative to `dir`

A *digest* is the SHA-256 of the entry and of the files in its directory. `resolve` notes which entry a digest stood
for, so that a revision pinned to `repo@sha256:...` finds its program again after the images file has changed. The
files themselves are used where they are, not copied.

Files are read again when they change; a file that became invalid keeps its last good content and says so once.
"""

import asyncio
import fcntl
import fnmatch
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson
import yaml

from controller.digest import ResolveError
from kncore.errors import ConfigError

__all__ = ["Image", "Images", "content_digest", "read_images_file"]

log = logging.getLogger(__name__)

IGNORED = frozenset(
    {".git", ".hg", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv", "__pycache__", "node_modules"}
)
"""Directories that do not belong to a program's identity: made by tools, or huge."""
MAX_HASHED_BYTES = 64 * 1024 * 1024
"""Larger files enter a digest by size and time of change instead of content."""
MAX_FILES = 50_000
MAX_DIGESTS = 2000
"""Digests remembered; the oldest are dropped first."""
CHECK_INTERVAL = 1.0

_KEYS = frozenset({"match", "dir", "command", "args", "env", "workingDir"})
_DOCKER_HUB = ("docker.io/library/", "docker.io/", "index.docker.io/library/", "index.docker.io/")


@dataclass(frozen=True, kw_only=True)
class Image:
    """One program, with what an image's metadata would say about it."""

    match: str
    directory: Path
    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    """Relative to the directory; empty: the directory itself."""

    @property
    def cwd(self) -> Path:
        """Where the program starts unless the container says otherwise."""
        return self.directory / self.working_dir

    def argv(self, command: Sequence[str] | None, args: Sequence[str] | None) -> tuple[str, ...]:
        """What to execute for a container's `command` and `args`: the former replaces entry point and arguments of
        the image, the latter alone only its arguments.

        `python` means the program's own `.venv`, else the interpreter that runs Torpor: a machine need not have a
        program called `python`, and its packages are the ones Torpor was installed with.
        """
        argv = (*(command or self.command), *((args or ()) if command or args else self.args))
        if argv[0] in ("python", "python3"):
            own = self.directory / ".venv" / "bin" / "python"
            argv = (str(own) if own.exists() else sys.executable, *argv[1:])
        return argv

    def environment(self) -> dict[str, str]:
        """The variables that come with the image. Output of a Python program is not held back until it ends."""
        own = self.directory / ".venv" / "bin"
        path = [*([str(own)] if own.is_dir() else []), str(Path(sys.executable).parent)]
        path += ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"]
        return {"PATH": ":".join(dict.fromkeys(path)), "PYTHONUNBUFFERED": "1", **self.env}

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "match": self.match,
            "dir": str(self.directory),
            "command": list(self.command),
            "args": list(self.args),
            "env": dict(self.env),
            "workingDir": self.working_dir,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """An entry of our own state files."""
        return cls(
            match=data["match"],
            directory=Path(data["dir"]),
            command=tuple(data["command"]),
            args=tuple(data.get("args", ())),
            env=dict(data.get("env", {})),
            working_dir=data.get("workingDir", ""),
        )

    def covers(self, image: str) -> bool:
        """Whether this entry is about the image."""
        pattern = _without_hub(self.match)
        name = _without_hub(image)
        repository, tag = _split_tag(name)
        if not _split_tag(pattern)[1] and "@" not in pattern:
            return fnmatch.fnmatchcase(repository, pattern)
        return fnmatch.fnmatchcase(f"{repository}:{tag or 'latest'}", pattern)


def read_images_file(path: Path) -> list[Image]:
    """The entries of an images file.

    Raises:
        ConfigError: naming the file, the entry and what to change.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}; check the path given with --images") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: is not valid YAML: {exc}") from exc
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise ConfigError(f"{path}: expected a list under the key `images`")
    problems: list[str] = []
    entries = []
    for number, entry in enumerate(data["images"]):
        try:
            entries.append(_entry(entry, path.parent))
        except ValueError as exc:
            problems.append(f"{path}: images[{number}]: {exc}")
    if problems:
        raise ConfigError("\n".join(problems))
    return entries


def _entry(entry: Any, base: Path) -> Image:
    if not isinstance(entry, dict):
        raise ValueError("expected a mapping with match, dir and command")
    if unknown := entry.keys() - _KEYS:
        raise ValueError(f"unknown key {', '.join(sorted(map(str, unknown)))}; known are {', '.join(sorted(_KEYS))}")
    match = entry.get("match")
    if not isinstance(match, str) or not match:
        raise ValueError("match must be an image name or a pattern such as ghcr.io/myorg/app:*")
    directory = entry.get("dir")
    if not isinstance(directory, str) or not directory:
        raise ValueError(f"{match}: dir must be the program's directory, relative to this file")
    place = (base / Path(directory).expanduser()).resolve()
    if not place.is_dir():
        raise ValueError(f"{match}: there is no directory {place}; create it or correct dir")
    command = _words(entry.get("command"), f"{match}: command")
    if not command:
        raise ValueError(f'{match}: command must name the program to run, e.g. ["python", "app.py"]')
    env = entry.get("env") or {}
    if not isinstance(env, dict) or not all(isinstance(key, str) for key in env):
        raise ValueError(f"{match}: env must be a mapping of names to values")
    if bad := [
        key for key, value in env.items() if not isinstance(value, str | int | float) or isinstance(value, bool)
    ]:
        raise ValueError(f"{match}: env {bad[0]} must be text or a number; put it in quotes")
    working_dir = entry.get("workingDir") or ""
    if not isinstance(working_dir, str) or not (place / working_dir).is_dir():
        raise ValueError(f"{match}: there is no directory {working_dir} below {place} for workingDir")
    return Image(
        match=match,
        directory=place,
        command=command,
        args=_words(entry.get("args"), f"{match}: args"),
        env={key: str(value) for key, value in env.items()},
        working_dir=working_dir,
    )


def _words(value: Any, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str | int | float) for one in value):
        raise ValueError(f"{what} must be a list of words")
    return tuple(map(str, value))


class Images:
    """The registry: finds programs, resolves digests (a `controller.digest.DigestResolver`), remembers both.

    Args:
        state: directory for what must survive a restart; shared with `torpor deploy`, which runs in another process.
        files: images files.
    Raises:
        ConfigError: an images file is invalid now, at the start; later on it would only be reported.
    """

    name = "images"

    def __init__(self, state: Path, files: Sequence[Path] = ()) -> None:
        self._registered_path = state / "registered-images.json"
        self._digests_path = state / "image-digests.json"
        state.mkdir(parents=True, exist_ok=True)
        self._files = tuple(files)
        self._stamps: dict[Path, tuple[int, int, int]] = {}
        self._from_files: dict[Path, list[Image]] = {}
        self._registered: dict[str, Image] = {}
        self._subscribers: list[Callable[[], None]] = []
        # Resolving hashes files in worker threads; the table of digests is the one thing they share.
        self._lock = threading.Lock()
        self._digests: dict[str, Image] = {
            digest: Image.from_json(entry) for digest, entry in _read_json(self._digests_path).items()
        }
        for path in self._files:
            self._stamps[path] = _stamp(path)
            self._from_files[path] = read_images_file(path)
        self._reload_registered()

    # Finding

    def find(self, image: str) -> Image | None:
        """The program behind an image reference, by tag or by digest, or None."""
        self.reload()
        repository, _, digest = image.partition("@")
        if not digest:
            return self._by_name(image)
        if (known := self._digests.get(digest)) is not None:
            return known
        # A digest from elsewhere, or a lost state file: fine if only one program can be meant.
        candidates = [one for one in self._all() if one.covers(repository) or _same_repository(one.match, repository)]
        return candidates[0] if len(candidates) == 1 else None

    def missing(self, image: str) -> str:
        """Why `find` found nothing, and what to do about it."""
        where = f"to {self._files[0]}" if self._files else "to an images file given with --images"
        return (
            f"no program on this machine stands for {image}: add an entry with match, dir and command {where}, "
            f"or run `torpor deploy DIR`"
        )

    def _all(self) -> Iterator[Image]:
        yield from self._registered.values()
        for entries in self._from_files.values():
            yield from entries

    def _by_name(self, image: str) -> Image | None:
        return next((one for one in self._all() if one.covers(image)), None)

    # Resolving

    async def resolve(
        self, image: str, *, namespace: str, service_account: str, pull_secrets: Sequence[str], deadline: float
    ) -> str:
        """`repository@sha256:...` for the present content of the program behind an image name.

        Raises:
            ResolveError: no program stands for it, or its files cannot be read in time.
        """
        entry = self.find(image)
        if entry is None:
            raise ResolveError(self.missing(image))
        try:
            async with asyncio.timeout_at(deadline):
                digest = await asyncio.to_thread(content_digest, entry)
        except OSError as exc:
            raise ResolveError(f"{entry.directory} cannot be read: {exc.strerror}") from exc
        except TimeoutError as exc:
            raise ResolveError(f"{entry.directory} was not read in time; keep large data out of it") from exc
        with self._lock:
            if self._digests.get(digest) != entry:
                self._digests[digest] = entry
                while len(self._digests) > MAX_DIGESTS:
                    del self._digests[next(iter(self._digests))]
                _write_json(self._digests_path, {key: one.to_json() for key, one in self._digests.items()})
        return f"{_split_tag(image.partition('@')[0])[0]}@{digest}"

    # Registering

    def register(
        self, image: str, directory: Path, command: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> Image:
        """Let an image name stand for a program from now on, in this and every other process on this state.

        Raises:
            ConfigError: the directory does not exist, or the command is empty.
        """
        place = directory.resolve()
        if not place.is_dir():
            raise ConfigError(f"{directory}: there is no such directory")
        if not command:
            raise ConfigError(f"{image}: the command is empty")
        made = Image(match=image, directory=place, command=tuple(command), env=dict(env or {}))
        with _locked(self._registered_path):
            entries = _read_json(self._registered_path)
            entries[image] = made.to_json()
            _write_json(self._registered_path, entries)
        self._reload_registered()
        return made

    # Following changes

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` after entries came, went or changed."""
        self._subscribers.append(changed)

    async def run(self) -> None:
        """Look for changes until cancelled; `find` looks by itself, this is for who waits for an image to appear."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            self.reload()

    def reload(self) -> bool:
        """Read again what changed on disk; True if anything did. Costs one stat(2) per file."""
        changed = False
        for path in self._files:
            stamp = _stamp(path)
            if stamp == self._stamps[path]:
                continue
            self._stamps[path] = stamp
            try:
                self._from_files[path] = read_images_file(path)
                changed = True
            except ConfigError as exc:
                log.error("images file is invalid; its last good content stays in force", extra={"error": str(exc)})
        if _stamp(self._registered_path) != self._stamps.get(self._registered_path):
            self._reload_registered()
            changed = True
        if changed:
            for subscriber in self._subscribers:
                subscriber()
        return changed

    def _reload_registered(self) -> None:
        self._stamps[self._registered_path] = _stamp(self._registered_path)
        entries = _read_json(self._registered_path)
        self._registered = {image: Image.from_json(entry) for image, entry in entries.items()}


def content_digest(image: Image) -> str:
    """`sha256:<hex>` over the entry and the names, modes and contents of its files.

    Raises:
        OSError: the directory cannot be read, or holds more than `MAX_FILES` files.
    """
    total = hashlib.sha256(orjson.dumps({**image.to_json(), "dir": ""}, option=orjson.OPT_SORT_KEYS))
    for number, path in enumerate(_files(image.directory)):
        if number >= MAX_FILES:
            raise OSError(0, f"more than {MAX_FILES} files; keep data out of the program's directory")
        total.update(b"\0" + os.fsencode(path.relative_to(image.directory)) + b"\0")
        try:
            stat = path.lstat()
            if path.is_symlink():
                total.update(b"link" + os.fsencode(os.readlink(path)))
            elif stat.st_size > MAX_HASHED_BYTES:
                total.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
            else:
                executable = b"x" if stat.st_mode & 0o100 else b"-"
                total.update(executable + hashlib.sha256(path.read_bytes()).digest())
        except FileNotFoundError:
            continue  # an editor's temporary file
    return f"sha256:{total.hexdigest()}"


def _files(directory: Path) -> Iterator[Path]:
    def refuse(exc: OSError) -> None:
        raise exc

    for place, directories, files in os.walk(directory, onerror=refuse):
        directories[:] = sorted(name for name in directories if name not in IGNORED)
        yield from (path for name in sorted(files) if (path := Path(place, name)).is_file() or path.is_symlink())


def _split_tag(image: str) -> tuple[str, str]:
    """(repository, tag); a colon before the last slash belongs to a port."""
    head, colon, tag = image.rpartition(":")
    return (image, "") if not colon or "/" in tag else (head, tag)


def _without_hub(image: str) -> str:
    return next((image[len(prefix) :] for prefix in _DOCKER_HUB if image.startswith(prefix)), image)


def _same_repository(pattern: str, repository: str) -> bool:
    return fnmatch.fnmatchcase(_without_hub(repository), _split_tag(_without_hub(pattern))[0])


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes whenever the file does: (inode, size, time of change in ns); zeros while there is none."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0, 0
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _read_json(path: Path) -> dict[str, Any]:
    """Our own file's content; empty if there is none or it was damaged (all of it can be found out again)."""
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    fresh.replace(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing the file meanwhile."""
    with path.with_suffix(".lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
