"""How commands speak: results on stdout, everything else on stderr.

`-o` is json, yaml, name or url; without it people get tables. Colour only on a terminal, and never with NO_COLOR.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, TextIO

from kncore.errors import KnError

__all__ = ["Output", "columns", "emphasis", "fail", "name_of", "progress", "say", "show", "url_of", "widths"]


class Output(StrEnum):
    """Machine-readable forms of a result."""

    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    URL = "url"


_STYLES = {"good": "32", "bad": "31", "busy": "33", "dim": "2", "bold": "1"}
GAP = "   "


def _coloured(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def emphasis(text: str, style: str, *, stream: TextIO | None = None) -> str:
    """`text` in a style (good, bad, busy, dim, bold) where the stream (stderr) is a terminal that wants it."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if _coloured(stream or sys.stderr) else text


def say(text: str) -> None:
    """Tell a person something; scripts do not see it."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fail(text: str) -> None:
    """Tell why the command did not do what was asked."""
    say(f"{emphasis('error', 'bad')}: {text}")


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Show that something is under way, on a terminal; what `say` tells meanwhile scrolls above it."""
    if not _coloured(sys.stderr):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def name_of(obj: Mapping[str, Any]) -> str:
    """An object as `kubectl -o name` writes it: `service.serving.knative.dev/hello`."""
    group = str(obj.get("apiVersion", "")).rpartition("/")[0]
    name = (obj.get("metadata") or {}).get("name", "")
    return f"{str(obj.get('kind', '')).lower()}{'.' + group if group else ''}/{name}"


def url_of(obj: Mapping[str, Any]) -> str:
    """Where an object answers: `status.url`, or `status.address.url` of what is only addressable; "" if nowhere."""
    status = obj.get("status") or {}
    return str(status.get("url") or (status.get("address") or {}).get("url") or "")


def show(found: Mapping[str, Any], output: Output) -> None:
    """Print an object, or a list of them, in a machine-readable form.

    Raises:
        KnError: `url` of what has none; that of the others was printed.
    """
    items: Sequence[Mapping[str, Any]] = found.get("items", [found])
    match output:
        case Output.JSON:
            import orjson

            sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
        case Output.YAML:
            import yaml

            dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
            yaml.dump(found, sys.stdout, Dumper=dumper, sort_keys=False, allow_unicode=True)
        case Output.NAME:
            for item in items:
                sys.stdout.write(name_of(item) + "\n")
        case Output.URL:
            sys.stdout.writelines(url_of(item) + "\n" for item in items if url_of(item))
            if without := [name_of(item) for item in items if not url_of(item)]:
                raise KnError(f"no URL (yet): {', '.join(without)}")
    sys.stdout.flush()


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def columns(rows: Sequence[Sequence[str]], at_least: Sequence[int] = ()) -> str:
    """Rows as aligned text, the last column unpadded; as kubectl prints tables.

    Args:
        at_least: widths of columns printed before, for rows that continue a table.
    """
    wide = [max(pair) for pair in zip(widths(rows), at_least or [0] * len(rows[0]), strict=True)] if rows else []
    return "\n".join(
        GAP.join([*(cell.ljust(width) for cell, width in zip(row[:-1], wide, strict=False)), row[-1]]).rstrip()
        for row in rows
    )
