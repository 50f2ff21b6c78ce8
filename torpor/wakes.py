"""Where a cold start's time went, put together from those who saw each part.

The activator knows when the request came, when a pod answered its probe and when the first byte was forwarded; the
autoscaler when it decided and wrote the scale; the node when it started the pod's processes and found the app
listening. All write Unix times on one machine, so the parts simply follow one another and add up to the whole:

    decide    request arrived -> decision made
    scale     -> new scale acknowledged by the API server
    pod       -> processes of the pod started
    app       -> app listens (its own start-up)
    probe     -> activator knows the pod is ready
    forward   -> first byte of the answer

The node's times are on the pod and go with it. Where they are missing, `start` stands for app and probe, and, of a pod
that is gone, for its start as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from kncore.api import meta

__all__ = ["PARTS", "ColdStart", "compose", "latest"]

PARTS = ("decide", "scale", "pod", "app", "probe", "start", "forward")
TIMELINE = "torpor.dev/timeline"


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """One wake-up. Seconds."""

    revision: str
    at: float
    """Unix time of the request."""
    total: float
    parts: Mapping[str, float]
    """By name, in the order of `PARTS`; a part nobody reported is missing and its time is in the next one."""

    @property
    def cold(self) -> bool:
        """False if the pod was there already and the activator only had to find it ready."""
        return not self.parts.get("pod", 1) == self.parts.get("app", 1) == 0

    @property
    def overhead(self) -> float:
        """What the platform added to the app's own start; all of it where the app's part is not known."""
        return self.total - self.parts.get("app", 0.0)


def compose(
    wake: Mapping[str, Any], decisions: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]
) -> ColdStart:
    """Put one wake-up together.

    Observers differ in what they see first: the API server's answer may reach the autoscaler after the node has acted
    on it, and the activator's probe may beat the node's look at the app. The later part's observer is believed then,
    and the earlier part ends when the later one does.

    Args:
        wake: the activator's record: requestedAt, probedAt, firstByteAt (Unix seconds, null if unknown) and pod
            ("ip:port").
        decisions: what the autoscaler explains of the revision, None if nothing.
        pods: pods of the revision, still existing ones; the one with the wake's address is used.
    """
    start = float(wake["requestedAt"])
    end = float(wake["firstByteAt"] or wake["probedAt"] or start)
    decided, scaled = _scaling(decisions, start, end)
    node = _node_times(wake, pods)
    seen = (
        ("decide", decided),
        ("scale", scaled),
        ("pod", node.get("started")),
        ("app", node.get("appReady")),
        ("probe" if "appReady" in node else "start", wake.get("probedAt")),
        ("forward", wake.get("firstByteAt")),
    )
    moments = [(name, float(moment)) for name, moment in seen if moment is not None]
    parts: dict[str, float] = {}
    before = start
    for number, (name, _) in enumerate(moments):
        now = max(before, min(end, *(moment for _, moment in moments[number:])))
        parts[name] = now - before
        before = now
    return ColdStart(revision=str(wake["revision"]), at=start, total=end - start, parts=parts)


def latest(wakes: Sequence[Mapping[str, Any]], revision: str) -> Mapping[str, Any] | None:
    """The newest finished wake-up of a revision."""
    finished = [wake for wake in wakes if wake["revision"] == revision and wake.get("firstByteAt")]
    return max(finished, key=lambda wake: float(wake["requestedAt"]), default=None)


def _scaling(decisions: Mapping[str, Any] | None, start: float, end: float) -> tuple[float | None, float | None]:
    """When the autoscaler decided and scaled, if the wake-up was reported to it."""
    for wake in reversed((decisions or {}).get("wakes", [])):
        if start <= wake["reported"] <= end:
            return wake["decided"], wake["scaled"]
    return None, None


def _node_times(wake: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    address = str(wake.get("pod") or "").rpartition(":")[0]
    for pod in pods:
        if address and meta.at(pod, "status", "podIP") == address:
            try:
                times = orjson.loads(meta.annotations(pod).get(TIMELINE, "{}"))
            except orjson.JSONDecodeError:
                return {}
            if not isinstance(times, dict):
                return {}
            return {name: float(value) for name, value in times.items() if isinstance(value, int | float)}
    return {}
