"""What is kept and shown of a run: one document, its tables and its plot, from rows alone."""

import xml.etree.ElementTree as ET
from typing import Any

import orjson
import pytest

from benchmarks import everything, markdown, plot
from benchmarks.__main__ import BENCHMARKS
from benchmarks.goals import Goal
from benchmarks.rows import Row
from benchmarks.scenarios.passline import PEER, PassLine
from benchmarks.soak import held

ROWS = [
    Row(
        scenario="queue-proxy/get-64",
        metric=metric,
        peer="knative queue-proxy",
        ours=ours,
        theirs=theirs,
        ratio=ours / theirs,
        goal=goal,
    ).to_json()
    for metric, ours, theirs, goal in (
        ("requests/s", 60000.0, 15000.0, Goal(at_least=3.0)),
        ("CPU us/request", 30.0, 60.0, Goal(at_most=1 / 3)),
        ("p50 ms", 1.0, 4.0, None),
    )
]


def part(rows: list[dict[str, Any]], left_out: dict[str, list[str]] | None = None) -> dict[str, Any]:
    return {
        "at": "1970-01-01T00:00:00+00:00",
        "took_seconds": 1.5,
        "machine": {"commit": "abc"},
        "rows": rows,
        "left_out": left_out or {},
        "summary": {},
        "samples": {"x": [1]},
        "others": {"busy_before": 0.25},
    }


@pytest.fixture
def made() -> dict[str, Any]:
    slow = PassLine(scenario="dataplane-probe/activator", metric="p95 ms", bound=110.0).row(120.0)
    found = {"peers": part(ROWS, {"nginx": ["h2c-get: no answer\nat all"]}), "dataplane-probe": part([slow.to_json()])}
    return everything.document(found, {"attacks": "exit code 1"}, begun=0.0, took=61.25)


def test_a_document_holds_the_rows_of_all_parts_and_what_failed(made: dict[str, Any]) -> None:
    assert [row["scenario"] for row in made["rows"]] == ["queue-proxy/get-64"] * 3 + ["dataplane-probe/activator"]
    assert set(made["rows"][0]) == {"scenario", "metric", "peer", "ours", "theirs", "ratio", "goal", "met"}
    assert made["failed"] == {"attacks": "exit code 1"}
    assert made["samples"]["peers"] == {"x": [1]}
    assert made["machine"]["processors"]
    assert made["versions"]["knative.dev/serving"].startswith("v")
    assert orjson.loads(orjson.dumps(made))["at"] == "1970-01-01T00:00:00Z"


def test_parts_can_be_renewed_one_by_one(made: dict[str, Any]) -> None:
    parts = everything.parts_of(made)
    assert everything.document(parts, {}, begun=0.0, took=1.0)["rows"] == made["rows"]
    parts["peers"] = part(ROWS[:1])
    again = everything.document(parts, {}, begun=0.0, took=1.0)
    assert [row["metric"] for row in again["rows"]] == ["requests/s", "p95 ms"]
    assert again["left_out"] == {}
    assert again["parts"]["dataplane-probe"]["commit"] == "abc"


def test_tables_say_what_is_met_and_what_is_missed(made: dict[str, Any]) -> None:
    text = markdown.tables(made)
    assert "### Goals: 1 of 2 met" in text
    assert "| queue-proxy/get-64 | requests/s | knative queue-proxy | 60,000 | 15,000 | 4 | >= 3 | met |" in text
    assert (
        "| queue-proxy/get-64 | CPU us/request | knative queue-proxy | 30 | 60 | 0.5 | <= 0.33 | **missed** |" in text
    )
    assert "### Pass lines: 0 of 1 passed" in text
    assert "| dataplane-probe/activator | p95 ms | <= 110 | 120 | **failed** |" in text
    assert "- peers, nginx: h2c-get: no answer\n" in text
    assert "- attacks: exit code 1" in text
    assert "| dataplane-probe | abc | 2 | 25% |" in text


def test_tables_show_what_features_cost_and_what_bystanders_notice(made: dict[str, Any]) -> None:
    made["summaries"] = {
        "features": {"queue-proxy": {"three timeouts": [0.5, 0.75]}},
        "attacks": {"slow heads": {"p99_alone_ms": 1.0, "p99_during_ms": 1.25}},
    }
    text = markdown.tables(made)
    assert "| three timeouts | 0.50 | 0.75 |" in text
    assert "| slow heads | 1.00 | 1.25 |" in text


def test_a_plot_is_an_image_with_a_bar_for_each_figure(made: dict[str, Any]) -> None:
    root = ET.fromstring(plot.draw(made["rows"], title="a < b"))
    texts = ["".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b" in texts
    assert "4.00 met" in texts
    assert "2.00 missed" in texts  # less CPU is better: half of it is twice as good
    assert not [text for text in texts if "p50" in text or PEER in text]


@pytest.mark.parametrize(
    ("line", "measured", "met"),
    [
        (PassLine(scenario="s", metric="m", bound=110.0), 110.0, True),
        (PassLine(scenario="s", metric="m", bound=110.0), 110.1, False),
        (PassLine(scenario="s", metric="m", bound=0.999, at_least=True), 0.999, True),
        (PassLine(scenario="s", metric="m", bound=0.999, at_least=True), 0.99, False),
        (PassLine(scenario="s", metric="errors", bound=0.0), 0.0, True),
        (PassLine(scenario="s", metric="errors", bound=0.0), 1.0, False),
    ],
)
def test_a_pass_line_bounds_a_figure(line: PassLine, measured: float, met: bool) -> None:
    assert line.row(measured).met is met


def test_everything_runs_what_can_be_run_by_itself() -> None:
    assert set(everything.PARTS) <= set(BENCHMARKS)


def test_what_a_proxy_holds_is_read_from_its_metrics() -> None:
    text = (
        "# TYPE torpor_pool_connections gauge\n"
        'torpor_pool_connections{torpor_state="idle"} 3\n'
        'torpor_pool_connections{torpor_state="used"} 0\n'
        "kn_serving_queue_depth 2.0\n"
        "torpor_pool_dials_total 99\n"
    )
    assert held(text) == {'torpor_pool_connections{torpor_state="idle"}': 3.0, "kn_serving_queue_depth": 2.0}
