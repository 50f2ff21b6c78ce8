"""When an ended container is started again: pure.

The first restart is immediate, then the waits are 10 s, 20 s, ... 300 s from the container's end; ten minutes without a
crash forget them. Source: kubernetes pkg/kubelet/kuberuntime (doBackOff), client-go util/flowcontrol/backoff.go.
"""

from dataclasses import dataclass

__all__ = ["Backoff", "restarts"]

FIRST = 10.0
LAST = 300.0
RESET = 600.0


@dataclass
class Backoff:
    """The restarts of one container."""

    first: float = FIRST
    last: float = LAST
    delay: float = 0.0
    """The wait in force, seconds; 0 until the container has been restarted once."""
    _updated: float = float("-inf")

    def ended(self, now: float) -> float:
        """The container ended: when it may start again, in the caller's clock."""
        if now - self._updated > RESET:
            self.delay = 0.0
        start = now + self.delay
        self.delay = min(self.last, self.delay * 2) if self.delay else self.first
        self._updated = start
        return start

    def resume(self, restarts: int, now: float) -> None:
        """Take over after a restart of the node agent, from the number of restarts so far."""
        self._updated = now
        self.delay = min(self.last, self.first * 2.0 ** min(restarts - 1, 16)) if restarts else 0.0


def restarts(policy: str, exit_code: int) -> bool:
    """Whether the pod's restart policy starts a container again after this exit."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)
