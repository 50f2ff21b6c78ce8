"""The reports of wrk, as it prints them."""

import math

import pytest

from benchmarks.load import parse

GOOD = """Running 5s test @ http://127.0.0.1:18480/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.61ms    3.21ms  41.10ms   89.01%
    Req/Sec    11.52k     1.11k   13.11k    74.00%
  Latency Distribution
     50%    5.32ms
     75%    6.10ms
     90%  950.00us
     99%    1.20s
  57332 requests in 5.02s, 8.97MB read
Requests/sec:  11420.72
Transfer/sec:      1.79MB
"""
BAD = GOOD.replace(
    "Requests/sec:",
    "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 90\nRequests/sec:",
)


def test_rate_and_latencies_are_read_with_their_units() -> None:
    load = parse(GOOD)
    assert (load.requests, load.seconds, load.errors) == (57332, 5.02, 0)
    assert load.rate == pytest.approx(11420.72, rel=1e-4)
    assert (load.p50, load.p99) == (pytest.approx(0.00532), pytest.approx(1.2))


def test_every_kind_of_failure_counts() -> None:
    assert parse(BAD).errors == 100


def test_latency_that_is_not_there_is_not_a_number() -> None:
    assert math.isnan(parse(GOOD.replace("50%", "51%", 1)).p50)


def test_other_text_is_refused() -> None:
    with pytest.raises(ValueError, match="not a report of wrk"):
        parse("unable to connect to 127.0.0.1:1 Connection refused")
