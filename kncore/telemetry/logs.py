"""Logs: one JSON object per line with the keys Knative's logs have, or readable lines on a terminal.

Components use the standard library's `logging`: the message is a constant phrase, variables go into `extra`:

    log.info("revision scaled", extra={"from": 0, "to": 1})

What a line is about (`knative.dev/key`, a trace id) is bound once with `bind` and follows the task, not the call chain.
"""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TextIO

__all__ = ["bind", "bind_task", "configure", "set_level"]

_PREFIX: Final = "knative.dev/"
_bound: ContextVar[Mapping[str, Any]] = ContextVar("kncore_log_fields", default={})  # noqa: B039  # never mutated

# Everything a LogRecord has by itself; what is beyond came in through `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "dpanic": logging.CRITICAL,
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Within the block, lines of this task carry these fields, each under `knative.dev/<name>`."""
    token = _bound.set({**_bound.get(), **{_PREFIX + name: value for name, value in fields.items()}})
    try:
        yield
    finally:
        _bound.reset(token)


def bind_task(**fields: Any) -> None:
    """As `bind`, until the current task ends: for the first line of a task's coroutine."""
    _bound.set({**_bound.get(), **{_PREFIX + name: value for name, value in fields.items()}})


def configure(component: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send the process's logs to `stream` (standard error), as JSON unless it is a terminal.

    Args:
        component: the name of the top logger, as shown in `logger`.
        level: a zap or Python level name.
        stream: where to write; each line is flushed.
    """
    out = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(out)
    readable = out.isatty() and "NO_COLOR" not in os.environ
    handler.setFormatter(_Console(readable) if out.isatty() else _Json(component))
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)


def set_level(level: str) -> None:
    """Change the level while running; an unknown name means info, since a typo must not silence errors."""
    logging.getLogger().setLevel(_LEVELS.get(level.lower(), logging.INFO))


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {**_bound.get(), **given}


def _timestamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.created % 1 * 1_000_000):06d}Z"


def _caller(record: logging.LogRecord) -> str:
    directory, _, name = record.pathname.rpartition(os.sep)
    return f"{directory.rpartition(os.sep)[2]}/{name}:{record.lineno}"


class _Json(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        logger = self._component if record.name == "root" else f"{self._component}.{record.name}"
        line: dict[str, Any] = {
            "severity": record.levelname,
            "timestamp": _timestamp(record),
            "logger": logger,
            "caller": _caller(record),
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = str(record.exc_info[1]) or type(record.exc_info[1]).__name__
            line["stacktrace"] = "".join(traceback.format_exception(record.exc_info[1]))
        # not orjson: with what it imports it is a megabyte of every sidecar, and a line is written once in a while
        return json.dumps(line, default=str, separators=(",", ":"))


_COLOURS: Final = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31;1", logging.DEBUG: "2"}


class _Console(logging.Formatter):
    """`12:00:00 W message key=value`, for people."""

    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {name.removeprefix(_PREFIX)}={value}" for name, value in _extras(record).items())
        line = f"{clock} {record.levelname[0]} {record.getMessage()}{fields}"
        code = _COLOURS.get(record.levelno) if self._colour else None
        if code:
            line = f"\x1b[{code}m{line}\x1b[0m"
        if record.exc_info and record.exc_info[1] is not None:
            line += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        return line
