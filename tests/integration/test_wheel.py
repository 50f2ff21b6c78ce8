"""What users install: the wheel, alone in an environment that has torpor's dependencies but not this source tree."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("activator", "autoscaler", "controller", "eventing", "kncore", "queueproxy", "torpor")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by its own backend; the network is not asked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("torpor-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The `bin` folder of an environment with the wheel in it.

    A path file lends it this environment's third-party packages. Path files found on the way are not followed, so the
    editable install of this source tree stays out.
    """
    home = wheel.parent / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    shown = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    purelib = Path(shown.stdout.strip())
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (purelib / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(lent)))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return home / "bin"


def environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8", "NO_COLOR": "1"}


def test_it_holds_the_packages_whole_and_nothing_else(wheel: Path) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {Path(name).suffix for name in sources} >= {".py", ".typed", ".yaml", ".tsv", ".gz", ".jsonl"}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    assert held == sources


def test_the_command_starts_from_it(installed: Path, tmp_path: Path) -> None:
    where = [installed / "python", "-c", "import torpor, queueproxy; print(torpor.__file__, queueproxy.__file__)"]
    modules = subprocess.run(where, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert all(Path(path).is_relative_to(installed.parent) for path in modules.stdout.split())
    command = [installed / "torpor", "version"]
    told = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert told.stdout == f"torpor {version('torpor')}\n"


@pytest.mark.timeout(120)
def test_the_platform_starts_from_it_and_ends(installed: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    log = tmp_path / "up.log"
    options = {"cwd": tmp_path, "env": {**environment(tmp_path), "KUBECONFIG": str(state / "kubeconfig")}}
    command = [installed / "torpor", "up", "--state-dir", str(state), "--port", "18480"]
    with log.open("wb") as output:
        up = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
    try:
        deadline = time.monotonic() + 60
        while not (state / "run.json").exists():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        get = [installed / "torpor", "get", "crd", "-o", "name"]
        found = subprocess.run(get, capture_output=True, text=True, check=True, **options).stdout
        assert "customresourcedefinition.apiextensions.k8s.io/services.serving.knative.dev" in found.splitlines()
        get = [installed / "torpor", "get", "configmap", "config-autoscaler", "-n", "knative-serving", "-o", "json"]
        shown = subprocess.run(get, capture_output=True, text=True, check=True, **options).stdout
        assert json.loads(shown)["kind"] == "ConfigMap"
    finally:
        up.send_signal(signal.SIGINT)
        code = up.wait(40)
    assert code == 0, log.read_text()
