"""What benchmarks say about their samples must be right whatever the samples are."""

import pytest

from benchmarks.samples import Summary, percentile, table


@pytest.mark.parametrize(
    ("rank", "expected"),
    [(0, 1.0), (1, 1.0), (50, 50.0), (95, 95.0), (99, 99.0), (99.5, 100.0), (100, 100.0)],
)
def test_percentile_is_a_sample_that_was_taken(rank: float, expected: float) -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert percentile(samples, rank) == expected


def test_high_percentiles_of_few_samples_are_the_worst_one() -> None:
    assert percentile([3.0, 9.0, 1.0], 99) == 9.0


@pytest.mark.parametrize(("samples", "rank"), [([], 50), ([1.0], -1), ([1.0], 100.1)])
def test_percentile_of_nothing_is_refused(samples: list[float], rank: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(samples, rank)


def test_summary_scales_for_the_file() -> None:
    shown = Summary.of([0.002, 0.001, 0.004]).to_json(1000)
    assert shown == {"count": 3, "min": 1.0, "p50": 2.0, "p95": 4.0, "p99": 4.0, "max": 4.0}


def test_table_aligns_numbers_and_keeps_texts() -> None:
    lines = table(("a", "width"), {"one": (1.25, "x"), "thousand": (1234.5, "-")}, digits=2)
    assert lines == [
        "                 a  width",
        "one           1.25      x",
        "thousand  1,234.50      -",
    ]
