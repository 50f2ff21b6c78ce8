"""The comparison of proxies runs from a clone: ours and nginx, one load, a second each; figures are not judged.

Of the Go programs only the small backend is built here. The original's two take minutes the first time, so they take
part where an earlier run of the benchmarks left them in the cache.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers import programs

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed: the backend cannot be built"),
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed"),
]


@pytest.mark.timeout(180)
def test_proxies_take_turns_and_make_rows(tmp_path: Path) -> None:
    environment = {**os.environ, "TORPOR_BENCH_REVERSEPROXY": str(tmp_path / "left out")}
    if not programs.cached("queue").exists():
        environment["TORPOR_BENCH_QUEUE"] = str(tmp_path / "left out")
    environment["TORPOR_BENCH_ACTIVATOR"] = str(tmp_path / "left out")
    command = [
        *(sys.executable, "-m", "benchmarks", "peers", "--quick", "--wait", "0"),
        *("--only", "queue-proxy,get-64", "--out", str(tmp_path)),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = tmp_path.glob("peers-*.json")
    made = json.loads(path.read_text())
    taken = made["samples"]["queue-proxy"]["get-64"]
    assert {"torpor queue-proxy", "aiohttp"} <= set(taken)
    assert "go reverse proxy" in made["left_out"]
    assert all(sample["requests/s"] > 0 and sample["CPU us/request"] > 0 for runs in taken.values() for sample in runs)
    metrics = {row["metric"] for row in made["rows"] if row["peer"] == "aiohttp"}
    assert {"requests/s", "CPU us/request", "p50 ms", "p99 ms", "p99.9 ms"} == metrics
