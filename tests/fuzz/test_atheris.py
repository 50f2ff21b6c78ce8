"""Coverage-guided fuzzing, a few seconds of it, from what is known to be odd; and what it found, replayed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.smuggling import ANSWERS, REQUESTS

from .atheris_targets import TARGETS

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "data" / "corpus"
SECONDS = 3
SEEDS: dict[str, list[bytes]] = {
    "http1": [case.data for case in REQUESTS if len(case.data) < 1000],
    "response": [case.data for case in ANSWERS if len(case.data) < 1000],
    "chunked": [case.data.partition(b"\r\n\r\n")[2] for case in REQUESTS if case.id.startswith("chunks: ")],
}


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_before(name: str) -> None:
    found = sorted((CORPUS / name).iterdir())
    assert found
    for file in found:
        TARGETS[name](file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_for_a_few_seconds(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris, the fuzzer, is not installed")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"{number:04}").write_bytes(bytes((number % 7,)) + seed)
    command = [sys.executable, "-m", "tests.fuzz.atheris_targets", name, str(corpus), str(CORPUS / name)]
    limits = [
        f"-max_total_time={SECONDS}",
        "-max_len=2000",
        "-timeout=5",
        "-rss_limit_mb=2048",
        "-seed=1",
        f"-artifact_prefix={tmp_path}/",
    ]
    done = subprocess.run([*command, *limits], cwd=ROOT, capture_output=True, timeout=50, check=False)
    log = done.stderr.decode(errors="replace")
    found = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert done.returncode == 0, f"{found}\n{log[-3000:]}"
    assert "Done" in log
