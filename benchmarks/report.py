"""One result: the samples and the machine as a JSON file, a summary for people on stdout."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from benchmarks import machine
from benchmarks.machine import Calm
from benchmarks.rows import Row

__all__ = ["Options", "Report"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a benchmark was asked to run."""

    quick: bool = False
    """Enough to see that it works; too few samples to quote."""
    count: int | None = None
    """Samples to take; None is the benchmark's own number."""
    out: Path
    """Where the JSON file goes."""
    patience: float = 60.0
    """Seconds to wait for a calm machine."""

    only: frozenset[str] = frozenset()
    """Parts to measure; those of a kind of which none is named are all measured."""

    def chosen(self, part: str, kind: frozenset[str]) -> bool:
        """Whether to measure a part, one of a kind."""
        named = self.only & kind
        return not named or part in named

    def samples(self, full: int, quick: int) -> int:
        """How many to take."""
        return self.count or (quick if self.quick else full)


@dataclass
class Report:
    """Filled by a benchmark while it runs."""

    name: str
    options: Options
    calm: Calm
    lines: list[str] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    """Raw numbers by series; the unit ends each name."""
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    """Figures beside those of peers."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """By peer: what was not measured, and why."""
    begun: float = field(default_factory=time.time)

    def note(self, text: str) -> None:
        """Progress; also what a person sees while it runs."""
        print(f"[{time.time() - self.begun:6.1f} s] {text}", flush=True)

    def absent(self, who: str, why: str) -> None:
        """Tell that something is not measured."""
        self.left_out.setdefault(who, []).append(why)
        self.note(f"left out: {who}: {why}")

    def say(self, *lines: str) -> None:
        """Part of the summary."""
        self.lines.extend(lines)

    def finish(self) -> Path:
        """Print the summary and write the file; returns its path."""
        about = machine.describe()
        calm = self.calm.since()
        document = {
            "benchmark": self.name,
            "quick": self.options.quick,
            "at": datetime.fromtimestamp(self.begun, UTC).isoformat(timespec="seconds"),
            "took_seconds": round(time.time() - self.begun, 1),
            "machine": about,
            "others": calm,
            "summary": self.summary,
            "rows": [row.to_json() for row in self.rows],
            "left_out": self.left_out,
            "samples": self.samples,
        }
        self.options.out.mkdir(parents=True, exist_ok=True)
        stamp = datetime.fromtimestamp(self.begun, UTC).strftime("%Y%m%dT%H%M%SZ")
        path = self.options.out / f"{self.name}-{stamp}.json"
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        print()
        print("\n".join(self.lines))
        print()
        print(
            f"{about['processor']}, {about['processors']} processors, {about['kernel']}, {about['python']}, "
            f"uvloop {about['uvloop']}, httptools {about['httptools']}, nginx {about['nginx']}, wrk {about['wrk']}, "
            f"commit {about['commit']}"
        )
        print(
            f"others used {calm['busy_before']:.0%} of the machine before the start "
            f"(load {calm['load_before'][0]:.1f} before, {calm['load_after'][0]:.1f} after), "
            f"{calm['stolen']:.1%} of its time was stolen meanwhile"
        )
        print(path)
        return path
