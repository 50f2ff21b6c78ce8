import pytest
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.span import format_span_id, format_trace_id

from kncore.telemetry.traces import Part, Span, Tracer, read_parent

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "value",
    [
        PARENT,
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-ff",
        f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
        f"cc-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.x",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x",
        "garbage",
    ],
)
def test_parents_are_read_as_opentelemetry_reads_them(value: str) -> None:
    context = TraceContextTextMapPropagator().extract({"traceparent": value})
    from opentelemetry.trace import get_current_span

    theirs = get_current_span(context).get_span_context()
    ours = read_parent(value.encode())
    if ours is None:
        assert not theirs.is_valid
    else:
        assert (format_trace_id(ours[0]), format_span_id(ours[1])) == (TRACE, SPAN)
        assert (theirs.trace_id, theirs.span_id, theirs.trace_flags) == ours


@pytest.mark.parametrize(
    ("rate", "parent", "sampled"),
    [
        (0.0, "", False),
        (0.0, PARENT, False),
        (1.0, "", True),
        (1.0, PARENT[:-1] + "0", True),
        (0.5, PARENT, True),
        (0.5, PARENT[:-1] + "0", False),
    ],
)
def test_sampling(rate: float, parent: str, sampled: bool) -> None:
    trace = Tracer(rate, lambda _: None).begin(parent.encode())
    assert trace.sampled is sampled
    name, _, value = trace.line.partition(b": ")
    assert name == b"traceparent"
    told = read_parent(value)
    assert told == (trace.id, trace.span, int(sampled))
    if parent:
        assert format_trace_id(trace.id) == TRACE


def test_new_traces_are_sampled_by_their_share() -> None:
    tracer = Tracer(0.25, lambda _: None)
    share = sum(tracer.begin(b"").sampled for _ in range(4000)) / 4000
    assert 0.2 < share < 0.3


def test_parts_are_nested_and_the_next_hop_hangs_below_the_last() -> None:
    kept: list[Span] = []
    tracer = Tracer(1.0, kept.extend)
    trace = tracer.begin(PARENT.encode())
    tracer.finish(trace, [Part("queue", 1.0, 4.0), Part("proxy", 2.0, 3.0)])
    outer, inner = kept
    assert (outer.parent, outer.remote, outer.server) == (int(SPAN, 16), True, True)
    assert (inner.parent, inner.remote, inner.server) == (outer.id, False, False)
    assert inner.id == trace.span
    assert {outer.trace, inner.trace} == {int(TRACE, 16)}
    root = tracer.begin(b"")
    tracer.finish(root, [Part("queue", 1.0, 4.0)])
    assert (kept[2].parent, kept[2].remote, kept[2].id) == (0, False, root.span)
