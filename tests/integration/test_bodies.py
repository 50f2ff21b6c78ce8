"""Large bodies stay with whoever offers them: `benchmarks.bodies` in small."""

import pytest

from benchmarks.bodies import Transfer, run

MB = 1_000_000


@pytest.mark.parametrize("upload", [True, False], ids=["upload", "download"])
async def test_large_body_passes_and_little_is_held(upload: bool) -> None:
    sample = await run(Transfer(upload=upload, size=200 * MB))
    assert sample.moved == 200 * MB
    assert sample.grown < 2 * MB


@pytest.mark.parametrize("upload", [True, False], ids=["slow app", "slow client"])
async def test_little_is_held_for_a_side_that_is_slow(upload: bool) -> None:
    sample = await run(Transfer(upload=upload, size=10_000 * MB, connections=20, pause=0.05), enough=2.0)
    assert 0 < sample.moved < 2_000 * MB
    assert sample.grown < 2 * MB
