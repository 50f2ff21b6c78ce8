"""How commands speak: results on stdout, everything else on stderr.

`-o` is json, yaml, name or url; without it people get tables. Colour only on a terminal, and never with NO_COLOR.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import orjson

from kncore.api import meta

__all__ = ["Output", "columns", "emphasis", "fail", "name_of", "say", "show"]


class Output(StrEnum):
    """Machine-readable forms of a result."""

    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    URL = "url"


_STYLES = {"good": "32", "bad": "31", "busy": "33", "dim": "2", "bold": "1"}


def emphasis(text: str, style: str, *, stream: Any = None) -> str:
    """`text` in a style (good, bad, busy, dim, bold) where the stream is a terminal that wants it."""
    stream = stream or sys.stderr
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def say(text: str) -> None:
    """Tell a person something; scripts do not see it."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fail(text: str) -> None:
    """Tell why the command did not do what was asked."""
    say(f"{emphasis('error', 'bad')}: {text}")


def name_of(obj: Mapping[str, Any]) -> str:
    """An object as `kubectl -o name` writes it: `service.serving.knative.dev/hello`."""
    group = obj.get("apiVersion", "").rpartition("/")[0]
    return f"{meta.kind(obj).lower()}{'.' + group if group else ''}/{meta.name(obj)}"


def show(found: Mapping[str, Any], output: Output) -> None:
    """Print an object, or a list of them, in a machine-readable form."""
    items: Iterable[Mapping[str, Any]] = found.get("items", [found])
    match output:
        case Output.JSON:
            sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
        case Output.YAML:
            import yaml

            yaml.dump(found, sys.stdout, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
        case Output.NAME:
            for item in items:
                sys.stdout.write(name_of(item) + "\n")
        case Output.URL:
            for item in items:
                sys.stdout.write(meta.at(item, "status", "url", default="") + "\n")


def columns(rows: Sequence[Sequence[str]], *, gap: str = "   ") -> str:
    """Rows as aligned text, the last column unpadded; as kubectl prints tables."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append(gap.join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)
