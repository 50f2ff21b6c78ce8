"""The tables of a result, in Markdown: pure text."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["tables", "title"]

SHOWN = ("requests/s", "CPU us/request", "p99 ms", "MB/s", "CPU ms/100 MB")
"""Metrics of the long table; all are in the file."""
MEMORY = "RSS MB"


def title(made: Mapping[str, Any]) -> str:
    """One line: when, on what, which commit."""
    versions = made["versions"]
    return f"{made['at'][:10]}, {made['machine']['processor']}, one processor per proxy, commit {versions['commit']}"


def _parts(made: Mapping[str, Any]) -> str:
    """When and at which commit each part was measured, and how busy others kept the machine."""
    lines = ["| part | commit | took, s | others used of the machine before |", "|---|---|--:|--:|"]
    for name, part in made["parts"].items():
        busy = (part["others"] or {}).get("busy_before", 0.0)
        lines.append(f"| {name} | {part['commit']} | {part['took_seconds'] or 0:.0f} | {busy:.0%} |")
    return "\n".join(lines)


def tables(made: Mapping[str, Any]) -> str:
    """Goals with what was reached, then the figures beside every peer, then pass lines, then what was left out."""
    rows: Sequence[Mapping[str, Any]] = made["rows"]
    beside = [row for row in rows if row["peer"] != "pass line"]
    goals = [row for row in beside if row["goal"]]
    passes = [row for row in rows if row["peer"] == "pass line"]
    parts = [title(made) + "."]
    if goals:
        met = sum(bool(row["met"]) for row in goals)
        parts.append(f"### Goals: {met} of {len(goals)} met\n\n" + _table(goals))
    if passes:
        met = sum(bool(row["met"]) for row in passes)
        parts.append(f"### Pass lines: {met} of {len(passes)} passed\n\n" + _passes(passes))
    if features := made["summaries"].get("features"):
        parts.append("### What features cost, microseconds of CPU per request\n\n" + _features(features))
    if attacks := made["summaries"].get("attacks"):
        parts.append("### A bystander's p99 during attacks\n\n" + _attacks(attacks))
    shown = [row for row in beside if row["metric"] in SHOWN or row["metric"].startswith(MEMORY)]
    if shown:
        parts.append("### Beside every peer\n\n" + _table(shown))
    left = [
        f"- {name}, {who}: {why.splitlines()[0]}"
        for name, whos in made["left_out"].items()
        for who, whys in whos.items()
        for why in whys
    ]
    left += [f"- {name}: {why}" for name, why in made["failed"].items()]
    parts.append("### When\n\n" + _parts(made))
    if left:
        parts.append("### Not measured\n\n" + "\n".join(left))
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| scenario | metric | beside | ours | theirs | ratio | goal | |", "|---|---|---|--:|--:|--:|---|---|"]
    for row in rows:
        verdict = "" if row["met"] is None else "met" if row["met"] else "**missed**"
        names = f"{row['scenario']} | {row['metric']} | {row['peer']}"
        figures = f"{_number(row['ours'])} | {_number(row['theirs'])} | {_number(row['ratio'], 3)}"
        lines.append(f"| {names} | {figures} | {row['goal'] or ''} | {verdict} |")
    return "\n".join(lines)


def _passes(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| scenario | metric | pass line | ours | |", "|---|---|--:|--:|---|"]
    for row in rows:
        sign = ">=" if row["goal"].startswith(">=") else "<="
        verdict = "passed" if row["met"] else "**failed**"
        bound, ours = _number(row["theirs"]), _number(row["ours"])
        lines.append(f"| {row['scenario']} | {row['metric']} | {sign} {bound} | {ours} | {verdict} |")
    return "\n".join(lines)


def _features(summary: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    lines = ["| feature | heads that repeat | heads that differ |", "|---|--:|--:|"]
    for costs in summary.values():
        lines += [f"| {name} | {same:.2f} | {differ:.2f} |" for name, (same, differ) in costs.items()]
    return "\n".join(lines)


def _attacks(summary: Mapping[str, Mapping[str, float]]) -> str:
    lines = ["| attack | alone, ms | during, ms |", "|---|--:|--:|"]
    lines += [f"| {name} | {one['p99_alone_ms']:.2f} | {one['p99_during_ms']:.2f} |" for name, one in summary.items()]
    return "\n".join(lines)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{float(f'{value:.{digits}g}'):,g}" if abs(value) < 1e4 else f"{value:,.0f}"
