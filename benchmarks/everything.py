"""Runs the benchmarks of the data plane one after another, in under 20 minutes, and keeps one result of them all.

Each is a process of its own, as if it had been typed. `results/latest.json` holds the rows of all (ours beside a peer
or a pass line) with the samples behind them, `results/latest.svg` a plot made from them, and `results/latest.md` the
tables. One that fails is told and leaves its rows out; the exit code then is 1. `--only` takes names of benchmarks and
renews their part of the last result (`soak`, which takes half an hour, only so).
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from benchmarks import machine, markdown, plot
from benchmarks.peers import programs
from benchmarks.peers.process import die_with_parent

__all__ = ["OPTIONAL", "PARTS", "TEXT", "document", "parts_of", "run"]

TEXT = "all of the data plane's benchmarks, one result: what `make bench` runs"
RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
PARTS: Mapping[str, Sequence[str]] = {
    "peers": (),
    "features": (),
    "dataplane-probe": (),
    "load-test": (),
    "scale-from-zero": (),
    "rollout-probe": (),
    "real-traffic": (),
    "fairness": ("--quick",),
    "overload": ("--quick",),
    "attacks": ("--quick",),
}
"""What `all` runs, in this order, and with which options: some measure longer by themselves than there is time here."""
OPTIONAL: Mapping[str, Sequence[str]] = {"soak": ()}
"""Run only if named."""
WITHIN = 2400.0
MACHINE = frozenset({"processor", "processors", "memory_mb", "kernel"})


def run(known: Collection[str], *, quick: bool, out: Path, patience: float, only: Sequence[str]) -> int:
    """Run all parts and write the results; returns the exit code.

    Args:
        known: names of benchmarks that there are.
        quick: short samples; the results then go to `out` instead of where the README looks for them.
        only: parts to run; none named is all but the optional. The others are kept from the last result.
    """
    begun = time.time()
    results = out if quick else RESULTS
    last = results / "latest.json"
    found = parts_of(orjson.loads(last.read_bytes())) if only and last.exists() else {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="torpor-bench-all-") as folder:
        for name, options in {**PARTS, **OPTIONAL}.items():
            if name not in (only or PARTS):
                continue
            if name not in known:
                failed[name] = "is not there"
                continue
            print(f"\n=== {name} ({time.time() - begun:.0f} s)", flush=True)
            extra = ["--quick"] if quick and "--quick" not in options else []
            wait = ["--wait", str(patience if name == "peers" else min(patience, 10.0))]
            into = Path(folder, name)
            command = [sys.executable, "-m", "benchmarks", name, "--out", str(into), *wait, *options, *extra]
            try:
                code = subprocess.run(
                    command, cwd=ROOT, check=False, timeout=WITHIN, preexec_fn=die_with_parent
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
            files = sorted(into.glob("*.json"))
            if files:
                found[name] = orjson.loads(files[-1].read_bytes())
            if code != 0 or not files:
                failed[name] = f"exit code {code}" if code >= 0 else f"took longer than {WITHIN:.0f} s"
    made = document(found, failed, begun=begun, took=time.time() - begun)
    results.mkdir(parents=True, exist_ok=True)
    last.write_bytes(orjson.dumps(made, option=orjson.OPT_INDENT_2) + b"\n")
    (results / "latest.svg").write_text(plot.draw(made["rows"], title=markdown.title(made)))
    text = markdown.tables(made)
    (results / "latest.md").write_text(text)
    print(f"\n{text}\n{results / 'latest.json'}, {made['took_seconds']:.0f} s")
    return 1 if failed else 0


def document(
    found: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str], *, begun: float, took: float
) -> dict[str, Any]:
    """One result out of those of the parts; the inverse of `parts_of`."""
    about = machine.describe()
    parts: dict[str, dict[str, Any]] = {}
    rows: list[Any] = []
    ordered = [name for name in (*PARTS, *OPTIONAL) if name in found]
    for name in ordered:
        part = found[name]
        parts[name] = {
            "at": part.get("at"),
            "took_seconds": part.get("took_seconds"),
            "commit": part.get("machine", {}).get("commit"),
            "others": part.get("others"),
            "rows": [len(rows), len(rows) + len(part.get("rows", ()))],  # from, to
        }
        rows += part.get("rows", ())
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun)),
        "took_seconds": round(took, 1),
        "machine": {key: value for key, value in about.items() if key in MACHINE},
        "versions": {
            **{key: value for key, value in about.items() if key not in MACHINE},
            **programs.versions(),
        },
        "parts": parts,
        "rows": rows,
        "left_out": {name: found[name]["left_out"] for name in ordered if found[name].get("left_out")},
        "failed": dict(failed),
        "summaries": {name: found[name].get("summary") for name in ordered},
        "samples": {name: found[name].get("samples") for name in ordered},
    }


def parts_of(made: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of a result, as `document` takes them."""
    return {
        name: {
            "at": part["at"],
            "took_seconds": part["took_seconds"],
            "machine": {"commit": part["commit"]},
            "others": part["others"],
            "rows": made["rows"][slice(*part["rows"])],
            "left_out": made["left_out"].get(name, {}),
            "summary": made["summaries"][name],
            "samples": made["samples"][name],
        }
        for name, part in made.get("parts", {}).items()
    }
