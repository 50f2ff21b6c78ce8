"""One evaluation loop for all revisions: every two seconds each, and at once when a sleeping one is poked.

A decider is a revision's `Evaluator` plus the last result that the KPA reconciler reads. All run on one task, ordered
by a heap of due times: an evaluation is some arithmetic on windows, so a thousand revisions need no thousand tasks.
Their phases are spread, so that a restart does not leave a thousand evaluations to one moment. A change of the result
is announced through `on_change`, which queues the PodAutoscaler; nothing here writes to the API server.
"""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from autoscaler.collect import Collector, NoData, NotCollecting
from autoscaler.decide import TICK, Decision, Evaluator, Observed, Spec, initial_excess_burst_capacity
from autoscaler.explain import Explanations
from autoscaler.scale import UNKNOWN
from kncore.clock import Clock
from kncore.wire import Stat

__all__ = ["Key", "MultiScaler", "Result", "Statistics"]

Key = tuple[str, str]

BATCH: Final = 100
"""Evaluations in a row before other tasks get their turn: a few milliseconds."""
_GOLDEN: Final = 0.6180339887  # multiples of it fall evenly into 0..1, however many there are

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What the KPA reconciler reads: pods wanted (UNKNOWN before the first evaluation) and excess burst capacity."""

    desired: int
    excess_burst_capacity: int


@dataclass(frozen=True)
class Statistics:
    """Deciders now, and what they did since the start."""

    deciders: int
    evaluations: int
    pokes: int
    """Evaluations made out of turn to wake a revision."""
    invalid: int
    """Evaluations skipped for want of data."""


class _Decider:
    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.result = Result(UNKNOWN, initial_excess_burst_capacity(evaluator.spec))


class MultiScaler:
    """The deciders of every revision, by PodAutoscaler `(namespace, name)`.

    Args:
        ready_pods: ready pods of a revision now; None when they cannot be counted, which makes the evaluation invalid.
        on_change: called when a result changed in a way the reconciler must act on.
    """

    name = "multiscaler"

    def __init__(
        self,
        collector: Collector,
        ready_pods: Callable[[Key], int | None],
        explanations: Explanations,
        clock: Clock,
        on_change: Callable[[Key], None],
    ) -> None:
        self._collector = collector
        self._ready_pods = ready_pods
        self._explanations = explanations
        self._clock = clock
        self._on_change = on_change
        self._deciders: dict[Key, _Decider] = {}
        self._due: list[tuple[float, int, Key, _Decider]] = []
        self._order = itertools.count()
        self._added = asyncio.Event()
        self._evaluations = self._pokes = self._invalid = 0

    def ensure(self, key: Key, spec: Spec) -> Result:
        """The revision's current result; its decider is made on first sight and follows `spec` from then on."""
        decider = self._deciders.get(key)
        if decider is None:
            decider = _Decider(Evaluator(spec, self._ready_pods(key), self._clock.wall()))
            self._deciders[key] = decider
            order = next(self._order)
            first = self._clock.monotonic() + TICK * (1 - (order * _GOLDEN) % 1 / 2)
            heapq.heappush(self._due, (first, order, key, decider))
            self._added.set()
        elif decider.evaluator.spec != spec:
            decider.evaluator.update(spec)
        return decider.result

    def forget(self, key: Key) -> None:
        """Stop evaluating a deleted revision."""
        self._deciders.pop(key, None)
        self._explanations.forget(key)

    def revisions(self) -> list[Key]:
        """Every revision that is evaluated."""
        return list(self._deciders)

    def poke(self, key: Key, stat: Stat) -> None:
        """A stat arrived: evaluate at once if the revision sleeps and the stat shows someone waiting.

        A revision that was not evaluated yet may well be asleep: after a restart of the autoscaler nobody should wait
        for its first tick. (The original pokes at exactly 0.)
        """
        decider = self._deciders.get(key)
        if decider is None or decider.result.desired > 0 or not stat.average_concurrent_requests > 0:
            return
        self._pokes += 1
        self._explanations.woken(key, self._clock.wall())
        self._evaluate(key, decider)

    def statistics(self) -> Statistics:
        """Deciders and evaluations."""
        return Statistics(len(self._deciders), self._evaluations, self._pokes, self._invalid)

    async def run(self) -> None:
        """Evaluate each decider when it is due; never returns."""
        while True:
            self._added.clear()
            wait = self._run_due()
            try:
                async with asyncio.timeout(wait):
                    await self._added.wait()
            except TimeoutError:
                pass

    def _run_due(self) -> float | None:
        """Evaluate what is due, within a batch; seconds until the next one is, None when there is none."""
        now = self._clock.monotonic()
        for _ in range(BATCH):
            if not self._due:
                return None
            due, _, key, decider = self._due[0]
            if due > now:
                return due - now
            if self._deciders.get(key) is not decider:  # forgotten, or made anew since
                heapq.heappop(self._due)
                continue
            self._evaluate(key, decider)
            following = due + TICK
            # After a pause of the process one evaluation makes up for all that were missed.
            heapq.heapreplace(
                self._due, (following if following > now else now + TICK, next(self._order), key, decider)
            )
        return 0.0

    def _evaluate(self, key: Key, decider: _Decider) -> None:
        now = self._clock.wall()
        ready = self._ready_pods(key)
        read = self._collector.rps if decider.evaluator.spec.metric == "rps" else self._collector.concurrency
        try:
            if ready is None:
                raise NoData
            load = read(key, now)
        except (NoData, NotCollecting):
            self._invalid += 1
            return
        self._evaluations += 1
        decision = decider.evaluator.evaluate(Observed(ready=ready, stable=load.stable, panic=load.panic), now)
        self._explanations.decided(key, decision)
        self._publish(key, decider, decision)

    def _publish(self, key: Key, decider: _Decider, decision: Decision) -> None:
        before = decider.result
        decider.result = Result(decision.desired, decision.excess_burst_capacity)
        sign_changed = (before.excess_burst_capacity < 0) != (decision.excess_burst_capacity < 0)
        if before.desired != decision.desired or sign_changed:
            log.debug(
                "decision changed",
                extra={"knative.dev/key": "/".join(key), "desired": decision.desired, "bound": decision.bound},
            )
            self._on_change(key)
