"""`torpor up` from the command to ready: on an empty state directory, and again on the one it left behind.

Ready means what `torpor up` means by it: the API server answers, all caches are complete, the autoscaler and both
listeners of the activator accept. It is measured from outside, process start and imports included. The control is
`python -c ''` of the same interpreter: what starting any process here takes.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.client import ask
from benchmarks.platform import start
from benchmarks.report import Report
from benchmarks.samples import Summary, table

__all__ = ["measure"]


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    await asyncio.to_thread(_measure, report)


def _measure(report: Report) -> None:
    count = report.options.samples(full=10, quick=2)
    series: dict[str, list[float]] = {"empty": [], "again": [], "stop": [], "python": []}
    for number in range(count):
        folder = Path(tempfile.mkdtemp(prefix="torpor-bench-"))
        try:
            for kind in ("empty", "again"):
                series["python"].append(_interpreter())
                started = start(folder)
                try:
                    host, _, port = started.running.ingress.rpartition(":")
                    if ask((host, int(port)), "/", "nobody.default.localhost").status != 404:
                        raise RuntimeError("ready, but the public listener does not answer as it should")
                finally:
                    series["stop"].append(started.stop())
                series[kind].append(started.took)
            report.note(
                f"start {number + 1} of {count}: {series['empty'][-1]:.2f} s on an empty state directory, "
                f"{series['again'][-1]:.2f} s again"
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    named = {
        "start, empty state directory": series["empty"],
        "start, existing state directory": series["again"],
        "stop (Ctrl-C)": series["stop"],
        "control: python -c ''": series["python"],
    }
    summaries = {name: Summary.of(taken) for name, taken in named.items()}
    report.samples.update({f"{name}_s": taken for name, taken in series.items()})
    report.summary.update({f"{name}_s": Summary.of(taken).to_json() for name, taken in series.items()})
    report.say(
        "torpor up, from the command to ready; seconds",
        *table(
            ("runs", "min", "median", "max"),
            {name: (str(one.count), one.low, one.p50, one.high) for name, one in summaries.items()},
            digits=3,
        ),
    )


def _interpreter() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", ""], check=True)
    return time.perf_counter() - begun
