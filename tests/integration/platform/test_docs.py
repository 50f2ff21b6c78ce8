"""Every command in README.md and docs/ runs: each page is one shell script, on one platform.

Blocks of ```bash or ```sh run, unless the line before says `<!-- not run: reason -->`; a page's blocks share a shell,
which stops at the first command that fails. The clone is the working directory, the home is empty, and the port in URLs
becomes the platform's. Blocks in other languages are for reading.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import kubectl as programs

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
BASH = shutil.which("bash")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(text, reason not to run it) of each shell block."""
    for block in BLOCK.finditer(page.read_text()):
        if block["language"] in {"bash", "sh"}:
            yield block["text"], block["reason"] or ""


def script(page: Path, ingress: str, https: str) -> str:
    """The page as one script; each block says where it begins, so that a failure can be found."""
    ports = {"8080": ingress.rpartition(":")[2], "8443": https.rpartition(":")[2]}
    parts = ["set -euo pipefail"]
    for number, (text, reason) in enumerate(blocks(page), 1):
        if not reason:
            parts += [f"echo '--- block {number}' >&2", text]
    return re.sub(r"localhost:(8080|8443)\b", lambda found: f"localhost:{ports[found[1]]}", "\n".join(parts))


def runnable() -> list[Any]:
    """A test for each page with commands; those that use kubectl do so in the newest version there is."""
    newest = programs.parameters()[-1]
    made = []
    for page in PAGES:
        if list(blocks(page)):
            uses = "kubectl " in script(page, "", "")
            marks = newest.marks if uses else ()
            made.append(pytest.param(page, newest.values[0] if uses else None, marks=marks, id=page.name))
    return made


@pytest.mark.parametrize(("page", "kubectl"), runnable())
@pytest.mark.timeout(300)
def test_the_commands_of_a_page_run(
    page: Path, kubectl: programs.Kubectl | None, platform: Any, tmp_path: Path
) -> None:
    text = script(page, platform.running["ingress"], platform.running["https"])
    if "curl " in text and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    assert BASH is not None
    home = tmp_path / "home"
    home.mkdir()
    data = platform.get("configmap", "config-autoscaler", namespace="knative-serving")["data"]
    try:
        done = subprocess.run(
            [BASH, "-c", text],
            cwd=ROOT,
            env={
                **platform.environment,
                "HOME": str(home),
                "PATH": f"{commands(tmp_path, kubectl)}:{os.environ['PATH']}",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        restore = {"data": {"scale-down-delay": None, **data}}
        platform.torpor("patch", "configmap/config-autoscaler", "-n", "knative-serving", "-p", json.dumps(restore))
    assert done.returncode == 0, f"{page}\n{done.stdout}\n{done.stderr}"


def commands(tmp_path: Path, kubectl: programs.Kubectl | None) -> Path:
    """A directory for PATH with the `torpor` under test, and kubectl."""
    folder = tmp_path / "bin"
    folder.mkdir()
    torpor = folder / "torpor"
    torpor.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m torpor.cli.main "$@"\n')
    torpor.chmod(0o755)
    if kubectl is not None:
        (folder / "kubectl").symlink_to(programs.binary(kubectl))
    return folder


def test_every_page_is_well_formed_and_reachable() -> None:
    linked = {ROOT / "README.md"}
    for page in PAGES:
        text = page.read_text()
        assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0, f"{page}: a block is not closed"
        assert text.count("<!-- not run:") == sum(bool(reason) for _, reason in blocks(page)), (
            f"{page}: a reason is lost"
        )
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if not link.startswith(("http://", "https://")):
                target = (page.parent / link).resolve()
                assert target.exists(), f"{page}: {link} leads nowhere"
                linked.add(target)
    assert set(PAGES) <= linked, "no page leads to these"
