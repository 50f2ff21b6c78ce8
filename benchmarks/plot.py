"""A plot of ratios as SVG: bars beside a line at 1, longer is better, all on one logarithmic scale. Pure text.

Where less is better (CPU, latency, memory) the bar is theirs / ours, so that a bar to the right always means that ours
is better by so much.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["draw"]

METRICS = ("requests/s", "CPU us/request", "p99 ms", "MB/s", "RSS MB, 1,000 connections")
LESS_IS_BETTER = ("CPU us/request", "p99 ms", "RSS MB, 1,000 connections")
COLOURS = {"requests/s": "#2b6cb0", "CPU us/request": "#2f855a", "p99 ms": "#b7791f", "MB/s": "#2b6cb0"}
OTHER = "#805ad5"
WIDTH, NAMES, LINE, TOP = 960, 330, 16, 70
LOW, HIGH = 0.2, 16.0


def draw(rows: Sequence[Mapping[str, Any]], *, title: str, peers: Sequence[str] | None = None) -> str:
    """The picture.

    Args:
        rows: as in `results/latest.json`.
        peers: beside whom; by default the original's two programs.
    """
    from benchmarks.goals import ORIGINALS

    wanted = [
        row
        for row in rows
        if row["peer"] in (peers or ORIGINALS) and row["metric"] in METRICS and row["ratio"] not in (None, 0)
    ]
    height = TOP + LINE * len(wanted) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        '<text x="10" y="22" font-size="15">Beside the original: how many times as good '
        "(more requests and bytes, less CPU, latency and memory)</text>",
        f'<text x="10" y="40" fill="#555">{escape(title)}</text>',
    ]
    for times in (0.25, 0.5, 1, 2, 3, 4, 8, 16):
        at = _x(times)
        stroke = "#333" if times == 1 else "#ddd"
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{height - 30}" stroke="{stroke}"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - 14}" text-anchor="middle" fill="#555">{times:g}x</text>')
    for number, row in enumerate(wanted):
        parts += _bar(row, TOP + LINE * number)
    return "\n".join([*parts, "</svg>", ""])


def _bar(row: Mapping[str, Any], top: int) -> list[str]:
    less = row["metric"] in LESS_IS_BETTER
    times = 1 / row["ratio"] if less else row["ratio"]
    one, at = _x(1), _x(times)
    colour = COLOURS.get(row["metric"], OTHER)
    name = f"{row['scenario']}, {row['metric']}"
    parts = [
        f'<text x="{NAMES - 8}" y="{top + 9}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{min(one, at):.1f}" y="{top}" width="{max(1.0, abs(at - one)):.1f}" height="{LINE - 5}" '
        f'fill="{colour}" fill-opacity="{1 if times >= 1 else 0.45}"/>',
        f'<text x="{max(one, at) + 5:.1f}" y="{top + 9}" fill="#333">{times:.2f}{_mark(row)}</text>',
    ]
    if row["goal"]:
        bound = float(row["goal"].split()[-1])
        goal = _x(1 / bound if less else bound)
        parts.append(
            f'<line x1="{goal:.1f}" x2="{goal:.1f}" y1="{top - 2}" y2="{top + LINE - 3}" stroke="#c53030" '
            'stroke-width="2"/>'
        )
    return parts


def _mark(row: Mapping[str, Any]) -> str:
    return "" if row["met"] is None else " met" if row["met"] else " missed"


def _x(times: float) -> float:
    """Where a ratio lies; beyond the edges it lies on them."""
    share = (math.log(min(max(times, LOW), HIGH)) - math.log(LOW)) / (math.log(HIGH) - math.log(LOW))
    return NAMES + share * (WIDTH - NAMES - 70)
