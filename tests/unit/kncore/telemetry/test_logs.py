import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from kncore.telemetry import logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was: `configure` owns it for good."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_zaps_keys(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure("autoscaler", stream=stream)
    logging.getLogger("decide").info("revision scaled", extra={"from": 0, "to": 1})
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line.pop("caller").startswith("telemetry/test_logs.py:")
    assert line == {
        "severity": "INFO",
        "logger": "autoscaler.decide",
        "message": "revision scaled",
        "from": 0,
        "to": 1,
    }


async def test_bound_fields_follow_their_task(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure("controller", stream=stream)
    log = logging.getLogger("x")

    async def reconcile(key: str) -> None:
        with logs.bind(key=key):
            await asyncio.sleep(0)
            log.info("reconciled")
        log.info("idle")

    await asyncio.gather(reconcile("ns/a"), reconcile("ns/b"))
    seen = [(line["message"], line.get("knative.dev/key")) for line in lines(stream)]
    assert sorted(seen, key=str) == [("idle", None), ("idle", None), ("reconciled", "ns/a"), ("reconciled", "ns/b")]


def test_errors_carry_their_stack_and_odd_values_do_not_break_a_line(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure("x", stream=stream)
    try:
        raise LookupError("gone")
    except LookupError:
        logging.getLogger().exception("reconcile failed", extra={"odd": {1: object}, "bytes": b"\xff"})
    (line,) = lines(stream)
    assert (line["error"], line["logger"], line["severity"]) == ("gone", "x", "ERROR")
    assert "LookupError: gone" in line["stacktrace"]


def test_levels_change_while_running(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure("x", level="warn", stream=stream)
    logging.getLogger().info("hidden")
    logs.set_level("DEBUG")
    logging.getLogger().debug("seen")
    logs.set_level("lod")
    logging.getLogger().debug("hidden")
    logging.getLogger().info("seen")
    assert [line["message"] for line in lines(stream)] == ["seen", "seen"]


def test_people_get_readable_lines(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    logs.configure("x", stream=stream)
    with logs.bind(key="ns/a"):
        logging.getLogger().warning("pod crashed", extra={"code": 1})
    assert stream.getvalue().split(" ", 1)[1] == "W pod crashed key=ns/a code=1\n"
    assert "\x1b" not in stream.getvalue()
