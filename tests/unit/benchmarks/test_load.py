"""The reports of load generators, as they print them."""

import pytest

from benchmarks.load import h2load, pace, wrk

WRK = """Running 1s test @ http://127.0.0.1:18900/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   366.64us  512.34us   8.58ms   92.44%
  167175 requests in 1.00s, 12.28MB read
Requests/sec: 166962.46

{"requests": 167175, "us": 1001270, "errors": 3, "p50": 250, "p99": 1380, "p999": 4100, "max": 8581}
"""
H2LOAD = """starting benchmark...
Application protocol: h2c

finished in 1.50s, 124160.00 req/s, 12.93MB/s
requests: 186240 total, 186300 started, 186240 done, 186233 succeeded, 4 failed, 2 errored, 1 timeout
status codes: 186240 2xx, 0 3xx, 0 4xx, 0 5xx
"""
LOG = ["1795572509635496\t200\t1000\n", "1795572509635497\t-1\t9000\n", "1795572509635498\t200\t3000\n"]


def test_wrk_tells_microseconds() -> None:
    load = wrk.parse(WRK)
    assert (load.requests, load.errors) == (167175, 3)
    assert load.rate == pytest.approx(166962.9, rel=1e-5)
    assert (load.p50, load.p99, load.p999, load.longest) == pytest.approx((0.00025, 0.00138, 0.0041, 0.008581))


def test_other_text_is_not_a_report_of_wrk() -> None:
    with pytest.raises(ValueError, match="not a report of wrk"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_wrk_is_told_what_to_send() -> None:
    assert "POST" not in wrk.script()
    assert 'string.rep("x", 1024)' in wrk.script(body=1024)
    assert "X-Request-Id" in wrk.script(vary=True)
    assert all("done = function" in text for text in (wrk.script(), wrk.script(body=0, vary=True)))


def test_h2load_counts_failures_and_takes_times_of_answered_requests_only() -> None:
    load = h2load.parse(H2LOAD, LOG)
    assert (load.requests, load.errors, load.seconds) == (186233, 7, 1.5)
    assert (load.p50, load.p99) == pytest.approx((0.001, 0.003))


@pytest.mark.parametrize(("text", "log"), [("", LOG), (H2LOAD, []), (H2LOAD, ["x\n"])])
def test_other_text_is_not_a_report_of_h2load(text: str, log: list[str]) -> None:
    with pytest.raises(ValueError, match="not a report of h2load"):
        h2load.parse(text, log)


def test_a_grpc_message_has_its_length_before_it() -> None:
    assert h2load.message(258) == b"\0\0\0\1\2" + b"x" * 258


def test_requests_that_were_due_and_never_sent_are_errors_of_an_open_loop() -> None:
    load = pace.parse(
        '{"requests":10,"errors":1,"seconds":2,"late":4,"p50":0.1,"p90":0.2,"p95":0.25,"p99":0.3,"p999":0.4,"max":0.5}'
    )
    assert (load.errors, load.rate, load.longest) == (5, 5.0, 0.5)
