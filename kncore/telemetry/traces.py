"""Traces: W3C trace context, the decision to sample, and finished spans on their way to an exporter.

With tracing off a proxy passes `traceparent`, `tracestate` and `baggage` on untouched and invents none: a made-up
parent that is not sampled would keep an instrumented app from tracing at all. With tracing on it takes part:

    tracer = Tracer(rate=0.1, sink=export.put)
    trace = tracer.begin(exchange.value(b"traceparent"))   # keeps the caller's trace, or begins one
    ... trace.line ...                                     # the header for the next hop, whose parent is our last span
    if trace.sampled:
        tracer.finish(trace, (Part("queue", start, end, attributes), Part("kn.queueproxy.proxy", ...)))

Parts are nested: the first is the parent of the second, and so on. Nothing is timed for a trace that is not sampled.
What is bounded: finished spans are handed to `sink` at once and kept nowhere here.

Source: W3C Trace Context (a parent that is not understood is treated as absent); OpenTelemetry's ParentBased and
TraceIdRatioBased samplers.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import getrandbits
from typing import Final, NamedTuple

__all__ = ["Part", "Span", "Trace", "Tracer", "read_parent"]

_PARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
SAMPLED: Final = 1


class Part(NamedTuple):
    """One span of a request, before it has ids; times are Unix seconds."""

    name: str
    start: float
    end: float
    attributes: Mapping[str, str | int] = {}
    failed: str = ""
    """Why it did not end well; empty if it did."""


@dataclass(frozen=True, slots=True)
class Span:
    """A finished span."""

    trace: int
    id: int
    parent: int
    """0 for a root."""
    remote: bool
    """The parent is somebody else's."""
    server: bool
    """It is the process's side of a request."""
    part: Part


def read_parent(value: bytes) -> tuple[int, int, int] | None:
    """(trace, span, flags) of a `traceparent`; None if it is none."""
    found = _PARENT.fullmatch(value)
    if found is None or (found[1] == b"00" and found[5]):
        return None
    return int(found[2], 16), int(found[3], 16), int(found[4], 16)


class Trace:
    """What one request belongs to."""

    __slots__ = ("began", "id", "line", "parent", "replaces", "sampled", "span", "turn")

    def __init__(self, trace: int, parent: int, span: int, *, sampled: bool) -> None:
        self.id = trace
        self.parent = parent
        self.span = span
        """The span that the next hop sees as its parent: the innermost of ours."""
        self.sampled = sampled
        self.began = time.time() if sampled else 0.0
        """Unix time; of one that is not sampled nobody wants to know."""
        self.replaces = (b"traceparent",) if parent else (b"traceparent", b"tracestate")
        """Headers of the request that the next hop must not see: its state belongs to the trace that it came with."""
        self.turn = 0.0
        """Unix time at which the request had its turn, 0 before; noted by whoever gives it."""
        self.line = b"traceparent: 00-%032x-%016x-%02x" % (trace, span, SAMPLED if sampled else 0)
        """The header line for the next hop."""


class Tracer:
    """Begins traces and hands on spans.

    Args:
        rate: share of new traces recorded, 0..1. At 0 nothing is recorded and at 1 everything, whatever the caller
            decided, as in the original; in between the caller's decision is kept.
        sink: gets finished spans; must not block.
    """

    def __init__(self, rate: float, sink: Callable[[Sequence[Span]], None]) -> None:
        self._rate = rate
        self._bound = round(rate * (1 << 64))
        self._sink = sink

    def begin(self, traceparent: bytes) -> Trace:
        """Join the caller's trace, or begin one."""
        parent = read_parent(traceparent) if traceparent else None
        if parent is None:
            trace, span = getrandbits(128) or 1, 0
            sampled = self._rate >= 1 or trace & 0xFFFF_FFFF_FFFF_FFFF < self._bound
        else:
            trace, span, flags = parent
            sampled = self._rate >= 1 or (self._rate > 0 and bool(flags & SAMPLED))
        return Trace(trace, span, getrandbits(64) or 1, sampled=sampled)

    def finish(self, trace: Trace, parts: Sequence[Part], aside: Sequence[tuple[int, Part]] = ()) -> None:
        """The request is over.

        Args:
            parts: from the outermost to the innermost, each within the one before.
            aside: further ones, each with the number of the part that it belongs in.
        """
        spans = []
        parent, remote = trace.parent, bool(trace.parent)
        for number, part in enumerate(parts):
            own = trace.span if number == len(parts) - 1 else getrandbits(64) or 1
            spans.append(Span(trace.id, own, parent, remote, number == 0, part))
            parent, remote = own, False
        for number, part in aside:
            spans.append(Span(trace.id, getrandbits(64) or 1, spans[number].id, False, False, part))
        self._sink(spans)
