"""`python -O` takes assertions out: no verdict may hang on one (aiohttp, CVE-2025-69227)."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.smuggling import REQUESTS

PROGRAM = """
import asyncio, json, re
from tests.smuggling import REQUESTS
from tests.unit.kncore.net.conftest import Relay
from tests.unit.kncore.net.test_smuggling import converse

async def verdict(case):
    relay = Relay()
    converse(relay, case.data, 7)
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\\d{3}) ", relay.answer) if int(status) >= 200]

async def verdicts():
    return {case.id: await verdict(case) for case in REQUESTS if len(case.data) < 2000}

assert False, "this is not -O"
print(json.dumps(asyncio.run(verdicts())))
"""


def test_verdicts_without_assertions() -> None:
    command = [sys.executable, "-O", "-c", PROGRAM]
    done = subprocess.run(command, cwd=Path(__file__).parents[4], capture_output=True, timeout=50, check=True)
    verdicts = json.loads(done.stdout)
    assert len(verdicts) > 400
    assert verdicts == {case.id: case.answers for case in REQUESTS if case.id in verdicts}


def test_assertions_do_nothing_else() -> None:
    """None calls anything but `isinstance`: what is taken out leaves no work undone."""
    root = Path(__file__).parents[4]
    files = [*root.glob("kncore/net/**/*.py"), *root.glob("activator/*.py"), *root.glob("queueproxy/*.py")]
    found = [
        f"{file.name}: {line.strip()}"
        for file in files
        for line in file.read_text().splitlines()
        if re.match(r"\s*assert .*\(", line) and not re.match(r"\s*assert (not )?(isinstance|callable|len)\(", line)
    ]
    assert found == []
