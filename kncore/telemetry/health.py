"""Whether a process can do its work: named conditions that must all hold, and draining.

Pure state; each process serves it where its probes look. Readiness fails while anything is missing or the process
drains, liveness only when a part says it is stuck: a missing dependency must not make the kubelet restart us in a
loop.
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Health", "Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """The state at one moment."""

    ready: bool
    alive: bool
    draining: bool
    missing: dict[str, str]
    """What keeps the process from being ready, with the reason."""


class Health:
    """What a process waits for before it is ready.

    Args:
        required: names that must be marked ok first; each starts as not ok.
    """

    def __init__(self, required: Iterable[str] = ()) -> None:
        self._missing = dict.fromkeys(required, "not started")
        self._stuck: dict[str, str] = {}
        self._draining = False

    def mark(self, name: str, ok: bool, reason: str = "") -> None:
        """A requirement holds, or does not (any more), with the reason for people."""
        if ok:
            self._missing.pop(name, None)
        else:
            self._missing[name] = reason or "not ready"

    def mark_stuck(self, name: str, reason: str) -> None:
        """Only a restart helps."""
        self._stuck[name] = reason

    def drain(self) -> None:
        """From now on not ready: stop sending new work here."""
        self._draining = True

    @property
    def ready(self) -> bool:
        return not self._missing and not self._stuck and not self._draining

    @property
    def alive(self) -> bool:
        return not self._stuck

    def statistics(self) -> Report:
        """The state and what is missing."""
        return Report(self.ready, self.alive, self._draining, {**self._missing, **self._stuck})
