"""When a probe runs and what its results mean; how to ask is `checks.py`'s business.

`Spec` is a probe as written, `Tally` counts its results against the thresholds (pure), `watch` runs one for the life of
a container. Timing is the kubelet's, with one addition on the path of a cold start: until a readiness or startup
probe first succeeds it is repeated every 10 to 25 ms instead of every `periodSeconds`. Those extra attempts can only
succeed early; only attempts a period apart count as failures, so `failureThreshold` keeps its meaning.
Source: kubernetes pkg/kubelet/prober/worker.go.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Self

from kncore.api.meta import Obj

__all__ = ["Check", "Outcome", "Pace", "Spec", "Tally", "watch"]

Kind = Literal["startup", "readiness", "liveness"]

_EAGER = (0.010, 0.025, 0.25)
"""Seconds between attempts while waiting for the first success: at first, after 1 s, after 30 s."""
_UNHURRIED = 4
"""So many eager probes do not slow each other down."""
_EAGER_EXEC = 0.1
"""The same for a probe that starts a process each time."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one attempt."""

    ok: bool
    message: str = ""
    """Why not."""


Check = Callable[[float], Awaitable[Outcome]]
"""One attempt, given the loop time by which it must be done; never raises for a failed probe."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Timing of a probe, seconds, with Kubernetes' defaults."""

    kind: Kind
    handler: Obj
    """The probe as written; one of httpGet, tcpSocket, grpc, exec."""
    initial_delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3
    grace: int | None = None
    """`terminationGracePeriodSeconds` of the probe, for a restart that it causes."""

    @classmethod
    def parse(cls, kind: Kind, probe: Obj) -> Self:
        """A probe of a container; zero means the default, as in the API."""
        return cls(
            kind=kind,
            handler=probe,
            initial_delay=float(probe.get("initialDelaySeconds") or 0),
            period=float(probe.get("periodSeconds") or 10),
            timeout=float(probe.get("timeoutSeconds") or 1),
            success_threshold=int(probe.get("successThreshold") or 1),
            failure_threshold=int(probe.get("failureThreshold") or 3),
            grace=probe.get("terminationGracePeriodSeconds"),
        )


class Tally:
    """Consecutive results of one probe, and the verdict they amount to."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._run = 0
        self._last: bool | None = None

    def add(self, ok: bool) -> bool | None:
        """True or False once enough results in a row agree; None while they do not."""
        self._run = self._run + 1 if ok is self._last else 1
        self._last = ok
        needed = self._spec.success_threshold if ok else self._spec.failure_threshold
        return ok if self._run >= needed else None


class Pace:
    """How often probes that await their first success are repeated; one for all pods of a node.

    Many pods that start at once share the processor with their probes, so the more there are, the longer the pauses:
    twenty-five make about 350 attempts a second together instead of 2500.
    """

    def __init__(self) -> None:
        self.eager = 0
        """Probes that await their first success now."""

    def pause(self, waited: float, spec: Spec) -> float:
        """Seconds until the next attempt.

        Args:
            waited: seconds since the first attempt.
        """
        if "exec" in spec.handler:
            pause = _EAGER_EXEC
        else:
            pause = _EAGER[0] if waited < 1.0 else _EAGER[1] if waited < 30.0 else _EAGER[2]
        return min(pause * max(1.0, self.eager / _UNHURRIED), spec.period)


async def watch(
    spec: Spec,
    check: Check,
    tell: Callable[[bool, Outcome], None],
    *,
    started_at: float,
    failed: Callable[[Outcome], None] = lambda _: None,
    pace: Pace | None = None,
) -> None:
    """Run a probe until cancelled; a startup probe returns once it has a verdict.

    Args:
        tell: called with every change of the verdict (readiness), and with each verdict of the others.
        started_at: loop time at which the container started: `initialDelaySeconds` counts from there.
        failed: called with each attempt that counts as a failure, e.g. to record an Event.
        pace: shared by the probes of a node.
    """
    pace = pace or Pace()
    loop = asyncio.get_running_loop()
    tally = Tally(spec)
    told: bool | None = None
    begun = max(loop.time(), started_at + spec.initial_delay)
    counted_at = begun
    """When the next attempt counts in full."""
    await _until(begun)
    eager = spec.kind in ("startup", "readiness")
    pace.eager += eager
    try:
        while True:
            now = loop.time()
            outcome = await check(now + spec.timeout)
            if outcome.ok or now >= counted_at:
                counted_at = max(counted_at + spec.period, now)
                verdict = tally.add(outcome.ok)
                if not outcome.ok:
                    failed(outcome)
                if verdict is not None and (verdict is not told or spec.kind != "readiness"):
                    told = verdict
                    tell(verdict, outcome)
                    if spec.kind == "startup":
                        return
            if outcome.ok:
                pace.eager -= eager
                eager = False
            if eager:
                pause = pace.pause(loop.time() - begun, spec)
                await _until(min(loop.time() + pause, max(counted_at, loop.time())))
            else:
                await _until(now + spec.period)
    finally:
        pace.eager -= eager


async def _until(when: float) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, when - loop.time()))
