"""Rate, errors and duration of requests: one record at the end of each, a few lists of counters in between.

A `Requests` is what one process (a queue-proxy) or one revision (in an activator) has answered. Requests with the same
attributes share a `_Series`; finding it is one dictionary access, and an observation is a bisection per histogram. All
metrics that are about requests are read from the same series, so a request is recorded once however many there are:

    requests.record((b"GET", 200, b"http", "HTTP/1.1", b""), 0.013, 0.012, 0, 5)
    registry.add(requests.server)                   # http.server.*, and time spent waiting
    registry.add(requests.invocation)               # kn.serving.invocation.duration, http.client.request.duration

What is bounded: `limit` sets of attributes. Methods and route tags are the client's choice, so unknown methods count
as `_OTHER`, and what comes beyond the limit is counted in one series whose attributes are empty but for the tag
`kn:overflow`.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from kncore.telemetry.metrics import COUNT_BUCKETS, LATENCY_BUCKETS, Distribution, Metric, Point

__all__ = ["INVOCATION", "SERVER", "Key", "Requests", "route_tag"]

Key = tuple[bytes, int, bytes, str, bytes]
"""Method, status, scheme, protocol as `HTTP/1.1`, route tag."""

OVERFLOW: Final = b"kn:overflow"

_SHORT: Final = LATENCY_BUCKETS[0]
_METHODS: Final = frozenset(
    {b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"QUERY", b"TRACE"}
)
_ATTRIBUTES: Final = (
    "http.request.method",
    "http.response.status_code",
    "url.scheme",
    "network.protocol.version",
    "kn.route.tag",
)
_STATUS: Final = ("http.response.status_code",)


def _server(prefix: tuple[str, ...]) -> tuple[Metric, Metric, Metric, Metric]:
    names = (*prefix, *_ATTRIBUTES)
    return (
        Metric(
            "http.server.request.duration",
            "histogram",
            "s",
            "Time from a request's head to the end of its answer.",
            names,
            LATENCY_BUCKETS,
        ),
        Metric(
            "http.server.request.body.size", "histogram", "By", "Size of request bodies received.", names, COUNT_BUCKETS
        ),
        Metric(
            "http.server.response.body.size", "histogram", "By", "Size of response bodies sent.", names, COUNT_BUCKETS
        ),
        Metric(
            "torpor.request.queue.duration",
            "histogram",
            "s",
            "Time requests waited for their turn.",
            (*prefix, "kn.route.tag"),
            LATENCY_BUCKETS,
        ),
    )


SERVER: Final = _server(())
"""Of a process that serves one revision."""

_CLIENT_NAMES: Final = ("http.request.method", "http.response.status_code")
INVOCATION: Final = (
    Metric(
        "kn.serving.invocation.duration",
        "histogram",
        "s",
        "Time requests spent with the app, not counting the time they waited for their turn.",
        _STATUS,
        LATENCY_BUCKETS,
    ),
    Metric(
        "http.client.request.duration",
        "histogram",
        "s",
        "The same by method, as OpenTelemetry calls it.",
        _CLIENT_NAMES,
        LATENCY_BUCKETS,
    ),
)


class _Series:
    """Counters of the requests with one set of attributes."""

    __slots__ = ("inside", "key", "received", "sent", "total", "waited")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.total = Distribution(LATENCY_BUCKETS)
        self.waited = Distribution(LATENCY_BUCKETS)
        self.inside = Distribution(LATENCY_BUCKETS)
        self.received = Distribution(COUNT_BUCKETS)
        self.sent = Distribution(COUNT_BUCKETS)


class Requests:
    """What became of requests.

    Args:
        prefix: names of further attributes that all series of this object share, e.g. the revision's.
        values: of those attributes.
        limit: most sets of attributes.
    """

    def __init__(self, prefix: tuple[str, ...] = (), values: tuple[str, ...] = (), *, limit: int = 200) -> None:
        self.metrics = _server(prefix) if prefix else SERVER
        """What `server` yields points of."""
        self._values = values
        self._limit = limit
        self._by_key: dict[Key, _Series] = {}
        self._overflow: _Series | None = None

    def record(self, key: Key, total: float, inside: float, received: int, sent: int) -> None:
        """Count a request that is over.

        Args:
            total: seconds from its head to its end.
            inside: those since it had its turn; below 0 if it never had.
            received: bytes of its body.
            sent: bytes of the answer's.
        """
        series = self._by_key.get(key) or self._find(key)
        # Written out: a call of `Distribution.observe` costs as much as what it does. Most values are in the first
        # bucket, which needs no search.
        seen = series.total
        seen.counts[0 if total <= _SHORT else bisect_left(LATENCY_BUCKETS, total)] += 1
        seen.sum += total
        if inside >= 0:
            seen = series.inside
            seen.counts[0 if inside <= _SHORT else bisect_left(LATENCY_BUCKETS, inside)] += 1
            seen.sum += inside
            waited = total - inside
            seen = series.waited
            seen.counts[0 if waited <= _SHORT else bisect_left(LATENCY_BUCKETS, waited)] += 1
            seen.sum += waited
        seen = series.received
        if received:
            seen.counts[bisect_left(COUNT_BUCKETS, received)] += 1
            seen.sum += received
        else:
            seen.counts[0] += 1
        seen = series.sent
        seen.counts[bisect_left(COUNT_BUCKETS, sent)] += 1
        seen.sum += sent

    def _find(self, key: Key) -> _Series:
        """The series of a key that was not there before; several methods share the one of `_OTHER`."""
        if len(self._by_key) >= self._limit:
            if self._overflow is None:
                self._overflow = _Series((b"", 0, b"", "", OVERFLOW))
            return self._overflow
        if key[0] in _METHODS:
            made = self._by_key[key] = _Series(key)
        else:
            _, status, scheme, protocol, tag = key
            common: Key = (b"_OTHER", status, scheme, protocol, tag)
            made = self._by_key.get(common) or _Series(common)
            self._by_key[common] = self._by_key[key] = made
        return made

    def _series(self) -> list[_Series]:
        found = list({id(series): series for series in self._by_key.values()}.values())
        return [*found, self._overflow] if self._overflow is not None else found

    def server(self) -> Iterator[Point]:
        """Points of `metrics`."""
        duration, received, sent, queue = self.metrics
        waits: dict[tuple[str, ...], Distribution] = {}
        for series in self._series():
            method, status, scheme, protocol, tag = series.key
            values = (
                *self._values,
                method.decode(),
                str(status) if status else "",
                scheme.decode(),
                protocol.partition("/")[2].removesuffix(".0") if protocol != "HTTP/1.0" else "1.0",
                _text(tag),
            )
            yield duration, values, series.total
            yield received, values, series.received
            yield sent, values, series.sent
            _merge(waits, (*self._values, _text(tag)), series.waited)
        for key, seen in waits.items():
            yield queue, key, seen

    def invocation(self) -> Iterator[Point]:
        """Points of `INVOCATION`."""
        kn, client = INVOCATION
        by_status: dict[tuple[str, ...], Distribution] = {}
        by_method: dict[tuple[str, ...], Distribution] = {}
        for series in self._series():
            status = str(series.key[1]) if series.key[1] else ""
            _merge(by_status, (status,), series.inside)
            _merge(by_method, (series.key[0].decode(), status), series.inside)
        for values, seen in by_status.items():
            yield kn, values, seen
        for values, seen in by_method.items():
            yield client, values, seen

    def statistics(self) -> dict[str, int]:
        """Sets of attributes there are, and how many there may be."""
        return {"series": len(self._by_key), "limit": self._limit}


def _merge(into: dict[tuple[str, ...], Distribution], key: tuple[str, ...], seen: Distribution) -> None:
    if not seen.count:
        return
    sums = into.setdefault(key, Distribution(seen.bounds))
    sums.counts = [a + b for a, b in zip(sums.counts, seen.counts, strict=True)]
    sums.sum += seen.sum


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def route_tag(tag: bytes, default_route: bytes) -> bytes:
    """`kn.route.tag` of a request with these values of `Knative-Serving-Tag` and `-Default-Route` (serving §6.3)."""
    if not tag:
        return b"kn:default" if default_route else b"kn:disabled"
    return b"kn:undefined" if default_route == b"true" else tag
