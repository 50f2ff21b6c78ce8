"""What the API server needs of a node: a pod's logs, and commands run inside it.

The server owns HTTP (chunks, WebSocket channels, error objects); the node owns processes and files. `PodAccess` is the
seam between them; `torpor.embedded.node.access` implements it. Errors are `StatusError`, so that a node can word what
it refuses (`errors.bad_request`: container still creating, no previous log).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["ExecSession", "LogOptions", "PodAccess"]


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Query parameters of `pods/<name>/log`."""

    follow: bool = False
    """Stay and deliver lines as they come, until the container ends."""
    previous: bool = False
    """The log of the container's last finished run instead of the current one."""
    timestamps: bool = False
    """Begin each line with its RFC 3339 time and a space."""
    tail_lines: int | None = None
    """Only so many lines from the end; None is all."""
    since: float | None = None
    """Only lines written at this Unix time or later; None is all."""
    limit_bytes: int | None = None
    """Stop after so many bytes; None is no limit."""


class ExecSession(Protocol):
    """One command under way in a container. Closing it kills the command."""

    async def read(self) -> tuple[int, bytes] | None:
        """Next piece of output as (1 for stdout or 2 for stderr, bytes); None when both have ended."""

    async def write(self, data: bytes) -> None:
        """Feed stdin; waits while the command does not read."""

    async def close_stdin(self) -> None:
        """The command reads end of file."""

    def resize(self, columns: int, rows: int) -> None:
        """The client's terminal changed; no effect without a tty."""

    async def wait(self) -> int:
        """Exit code, 128 + signal when killed."""

    async def aclose(self) -> None:
        """Kill the command if it still runs and release everything; may be called more than once."""


class PodAccess(Protocol):
    """A node's door into its pods. Namespace, pod and container were checked against the Pod object by the caller."""

    def log(self, namespace: str, pod: str, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The container's output in pieces of any size; close the iterator to stop following.

        Raises:
            StatusError: on the first step, when there is no log to read.
        """

    async def exec(
        self, namespace: str, pod: str, container: str, command: tuple[str, ...], *, stdin: bool, tty: bool
    ) -> ExecSession:
        """Start a command with the container's environment and working directory.

        Raises:
            StatusError: the container does not run, or the command cannot be started.
        """
