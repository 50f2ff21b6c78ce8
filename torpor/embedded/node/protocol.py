"""What the node agent and the container runtime say to each other: JSON objects, one per line, over a Unix socket.

A request carries `id` and `do`; its answer carries the same `id` and either `ok` or `error`. After `attach` the runtime
also sends `event` objects. An `exec` has a connection of its own, with the command's standard streams attached to
the request as file descriptors; closing that connection kills the command.

Lines are bounded: a request may hold a pod's whole environment, an answer the list of all containers.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import orjson

from kncore.errors import KnError

__all__ = [
    "EXEC_FDS",
    "LINE_LIMIT_BYTES",
    "BadCommand",
    "Exit",
    "Lines",
    "Mount",
    "Run",
    "RuntimeRefused",
    "encode",
]

LINE_LIMIT_BYTES = 8 * 1024 * 1024
"""Longest message; a ConfigMap in the environment may have 1 MiB, JSON may double it."""
EXEC_FDS = 3
"""Descriptors sent with an `exec`: stdin, stdout, stderr."""

Kind = Literal["exec", "queue-proxy"]


class BadCommand(KnError):
    """A message that the runtime does not understand; the sender's fault."""


class RuntimeRefused(KnError):
    """The runtime could not do what it was asked; `reason` is a container state's reason (`StartError`)."""

    def __init__(self, message: str, reason: str = "RuntimeError") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A directory or file that the container shall see at an absolute path."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """One container to start."""

    container: str
    """Unique for ever: every start of a container has a new one. Marks its processes in their environment."""
    pod: str
    """UID of the pod."""
    name: str
    kind: Kind
    argv: tuple[str, ...]
    """Program and arguments; ignored for `queue-proxy`."""
    env: Mapping[str, str]
    """The whole environment, nothing is added but the marker."""
    cwd: str
    log: str
    """File for standard output and error, see `crilog`."""
    mounts: tuple[Mount, ...] = ()
    memory_bytes: int = 0
    """Memory limit; 0: none."""
    cpu_milli: int = 0
    """CPU limit in thousandths of a core; 0: none."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The node agent's own notes, handed back by `attach` so that a new agent can take over."""

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> Self:
        """The container a `run` message describes.

        Raises:
            BadCommand: a field is missing or of the wrong type.
        """
        try:
            made = cls(
                container=_text(message["container"]),
                pod=_text(message["pod"]),
                name=_text(message["name"]),
                kind=message["kind"],
                argv=tuple(_text(one) for one in message.get("argv", ())),
                env={_text(key): _text(value) for key, value in message["env"].items()},
                cwd=_text(message["cwd"]),
                log=_text(message["log"]),
                mounts=tuple(Mount(**one) for one in message.get("mounts", ())),
                memory_bytes=int(message.get("memory_bytes", 0)),
                cpu_milli=int(message.get("cpu_milli", 0)),
                meta=dict(message.get("meta", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise BadCommand(f"run: {type(exc).__name__}: {exc}") from exc
        if made.kind not in ("exec", "queue-proxy"):
            raise BadCommand(f"run: unknown kind {made.kind!r}")
        if made.kind == "exec" and not made.argv:
            raise BadCommand("run: argv is empty")
        return made

    def message(self) -> dict[str, Any]:
        """What `parse` reads."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a container ended."""

    code: int
    """Exit status; 128 + signal for a process that a signal ended, as shells and kubelet count."""
    signal: int = 0
    at: float
    """Unix seconds."""
    oom_killed: bool = False


class Lines:
    """Cuts a byte stream into messages.

    Raises:
        BadCommand: (from `feed`) a line is longer than the limit or no JSON object.
    """

    def __init__(self, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages completed by `data`, in order."""
        self._rest += data
        if b"\n" not in data:
            if len(self._rest) > self._limit:
                raise BadCommand(f"message longer than {self._limit} bytes")
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        found = []
        for line in lines:
            try:
                message = orjson.loads(line)
            except orjson.JSONDecodeError as exc:
                raise BadCommand(f"not JSON: {exc}") from exc
            if not isinstance(message, dict):
                raise BadCommand("not a JSON object")
            found.append(message)
        return found


def encode(message: Mapping[str, Any]) -> bytes:
    """One line."""
    return orjson.dumps(message) + b"\n"


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"not a string without NUL: {value!r}")
    return value
