"""The commands that need a whole platform: deploy, logs, status, run, doctor, and a second `up`."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FUNCTION = """
import os

async def handle(scope, receive, send):
    print("asked for", scope["path"], flush=True)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"VERSION " + os.environ.get("NAME", "nobody").encode()})
"""

NUMBERS = itertools.count(1)


def run(platform: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "torpor.cli.main", *arguments],
        env=platform.environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture
def greeter(tmp_path: Path) -> Path:
    """A directory with a function; its name is the test's own, because pods of a deleted service linger while they
    drain.
    """
    directory = tmp_path / f"greeter-{next(NUMBERS)}"
    directory.mkdir()
    (directory / "func.py").write_text(FUNCTION.replace("VERSION", "one"))
    return directory


async def answer(platform: Any, http: Any, greeter: Path, path: str = "/") -> str:
    url, headers = platform.url(greeter.name, path)
    async with http.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        text: str = await response.text()
        return text


@pytest.mark.timeout(120)
async def test_a_directory_becomes_a_service_and_its_old_revision_keeps_its_code(
    platform: Any, greeter: Path, http: Any
) -> None:
    done = run(platform, "deploy", str(greeter), "-e", "NAME=Ada")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"http://{greeter.name}.default.localhost:{platform.running['ingress'].rpartition(':')[2]}\n"
    assert "func.py defines handle()" in done.stderr
    assert f"Service '{greeter.name}' created in namespace 'default'" in done.stderr
    assert await answer(platform, http, greeter) == "one Ada"

    unchanged = run(platform, "deploy", str(greeter), "-e", "NAME=Ada", "-o", "json")
    assert f"Service '{greeter.name}' unchanged" in unchanged.stderr
    assert json.loads(unchanged.stdout)["status"]["latestReadyRevisionName"] == f"{greeter.name}-00001"

    (greeter / "func.py").write_text(FUNCTION.replace("VERSION", "two"))
    changed = run(platform, "deploy", str(greeter), "-e", "NAME=Ada")
    assert changed.returncode == 0, changed.stderr
    assert await answer(platform, http, greeter) == "two Ada"

    halves = [{"revisionName": f"{greeter.name}-0000{number}", "percent": 50} for number in (1, 2)]
    platform.torpor("patch", f"ksvc/{greeter.name}", "-p", json.dumps({"spec": {"traffic": halves}}))
    await platform.ready(greeter.name)
    await platform.eventually(
        lambda: len(platform.get("ksvc", greeter.name)["status"]["traffic"]) == 2, 10, "two traffic targets"
    )
    seen = sorted([await answer(platform, http, greeter) for _ in range(10)])
    assert seen == ["one Ada"] * 5 + ["two Ada"] * 5

    (greeter / "func.py").write_text(FUNCTION.replace("VERSION", "three"))
    pinned = run(platform, "deploy", str(greeter), "-e", "NAME=Ada")
    assert "note: it gets no requests: the Service's traffic names other revisions" in pinned.stderr


async def test_a_program_that_does_not_start_is_told_with_its_last_words(platform: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "app.py").write_text("import nowhere\n")
    done = run(platform, "deploy", str(broken))
    assert done.returncode == 1
    assert done.stdout == ""
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: Service 'broken' failed: RevisionFailed: ModuleNotFoundError: No module named")
    assert "torpor logs broken" in last


@pytest.mark.timeout(120)
async def test_logs_follow_a_service_through_sleep(platform: Any, greeter: Path, http: Any) -> None:
    assert run(platform, "deploy", str(greeter)).returncode == 0
    await answer(platform, http, greeter, path="/first")
    assert "asked for /first\n" in run(platform, "logs", greeter.name).stdout
    (pod,) = platform.pods(greeter.name)
    name = pod["metadata"]["name"]
    assert run(platform, "logs", f"pod/{name}", "--tail", "1").stdout == "asked for /first\n"
    queue_proxy = run(platform, "logs", f"revision/{greeter.name}-00001", "-c", "queue-proxy", "--tail", "1").stdout
    assert json.loads(queue_proxy)["severity"]
    await platform.asleep(greeter.name)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "torpor.cli.main", "logs", greeter.name, "-f"],
        env=platform.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        try:
            await answer(platform, http, greeter, path="/second")
            lines = [await asyncio.to_thread(following.stdout.readline) for _ in range(2)]
            assert sorted(line.partition(" ")[2] for line in lines) == ["asked for /first\n", "asked for /second\n"]
            pods = {line.partition(" ")[0] for line in lines}
            assert len(pods) == 2  # the one that drains, and the one that woke
            assert all(pod.startswith(f"{greeter.name}-00001-deployment-") for pod in pods)
            following.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(following.wait, 10) == 130
            assert following.stderr.read() == ""
        finally:
            following.kill()


@pytest.mark.timeout(120)
async def test_what_follows_goes_on_when_control_restarts(own_platform: Any, greeter: Path, http: Any) -> None:
    platform = own_platform()
    assert run(platform, "deploy", str(greeter)).returncode == 0
    command = [sys.executable, "-P", "-m", "torpor.cli.main"]
    with (
        subprocess.Popen(
            [*command, "logs", greeter.name, "-f"], env=platform.environment, stdout=subprocess.PIPE, text=True
        ) as logs,
        subprocess.Popen(
            [*command, "get", "ksvc", "-w"], env=platform.environment, stdout=subprocess.PIPE, text=True
        ) as watch,
    ):
        assert logs.stdout is not None
        assert watch.stdout is not None
        try:
            await answer(platform, http, greeter, path="/before")
            assert (await asyncio.to_thread(logs.stdout.readline)).endswith(" asked for /before\n")
            assert (await asyncio.to_thread(watch.stdout.readline)).startswith("NAME")
            assert (await asyncio.to_thread(watch.stdout.readline)).startswith(greeter.name)
            os.kill(platform.pid_of("torpor.embedded.control"), signal.SIGKILL)
            await answer(platform, http, greeter, path="/after")
            assert (await asyncio.to_thread(logs.stdout.readline)).endswith(" asked for /after\n")
            platform.torpor("patch", f"ksvc/{greeter.name}", "-p", '{"metadata":{"labels":{"seen":"yes"}}}')
            assert (await asyncio.to_thread(watch.stdout.readline)).startswith(greeter.name)
        finally:
            logs.send_signal(signal.SIGINT)
            watch.send_signal(signal.SIGINT)


async def test_logs_follow_an_app_through_its_restart(platform: Any, greeter: Path, http: Any) -> None:
    assert run(platform, "deploy", str(greeter)).returncode == 0
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "torpor.cli.main", "logs", greeter.name, "-f"],
        env=platform.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        try:
            heads = []
            for path in ("/before", "/after"):
                await answer(platform, http, greeter, path)
                head, _, line = (await asyncio.to_thread(following.stdout.readline)).partition(" ")
                assert line == f"asked for {path}\n"
                heads.append(head)
                app = platform.apps(greeter.name)[0]
                os.kill(app, signal.SIGKILL)
                # Reaped, and not only without an environment: that goes before the sockets are closed.
                await platform.eventually(lambda app=app: not Path(f"/proc/{app}").exists(), 5, "its end")
            assert heads[0] == heads[1]  # the same pod
        finally:
            following.kill()


def test_logs_of_what_is_not_there(platform: Any) -> None:
    for source, says in (("nope", 'services.serving.knative.dev "nope" not found'), ("pod/nope", 'pods "nope" not')):
        done = run(platform, "logs", source)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {says}")


async def test_logs_of_what_never_started_say_why(platform: Any) -> None:
    platform.apply(platform.manifest(name="lost", image="ghcr.io/nobody/nothing:1"))

    def failed() -> bool:
        conditions = platform.get("ksvc", "lost").get("status", {}).get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "False" for one in conditions)

    await platform.eventually(failed, 15, "a failed Service")
    done = run(platform, "logs", "lost")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("lost has no pods: ")
    assert "Unable to fetch image" in done.stderr


@pytest.mark.timeout(120)
async def test_status_tells_the_decision_and_where_the_cold_start_went(platform: Any, greeter: Path, http: Any) -> None:
    assert run(platform, "deploy", str(greeter)).returncode == 0
    await platform.asleep(greeter.name)
    assert "no load" in run(platform, "status").stdout
    await answer(platform, http, greeter)

    def timed() -> Any:
        (service,) = json.loads(run(platform, "status", "-o", "json").stdout)["items"]
        cold = service["revisions"][0]["coldStart"]
        return service if cold and "app" in cold["partsMs"] else None

    service = await platform.eventually(timed, 10, "a cold start with the node's times")
    (revision,) = service["revisions"]
    cold = revision["coldStart"]
    assert list(cold["partsMs"]) == ["decide", "scale", "pod", "app", "probe", "forward"]
    assert sum(cold["partsMs"].values()) == pytest.approx(cold["totalMs"], abs=1)
    assert cold["overheadMs"] == pytest.approx(cold["totalMs"] - cold["partsMs"]["app"], abs=0.2)
    assert (revision["name"], revision["percent"]) == (f"{greeter.name}-00001", 100)
    assert "Running" in [pod["state"] for pod in revision["pods"] if pod["ready"]]

    text = run(platform, "status").stdout
    title, header, row, *details = text.splitlines()
    assert title.split()[:2] == [f"default/{greeter.name}", "Ready"]
    assert header.split() == ["REVISION", "TRAFFIC", "PODS", "WANTED", "WHY"]
    assert row.split()[0] == f"{greeter.name}-00001"
    assert any("last cold start at" in line for line in details)
    assert run(platform, "status", "-o", "url").stdout == f"{service['status']['url']}\n"
    assert run(platform, "status", "-o", "name").stdout == f"service.serving.knative.dev/{greeter.name}\n"
    assert "no services in namespace kube-public" in run(platform, "status", "-n", "kube-public").stderr


@pytest.mark.timeout(120)
async def test_run_gives_a_command_the_names_of_the_cluster(platform: Any, greeter: Path) -> None:
    assert run(platform, "deploy", str(greeter)).returncode == 0
    url = f"http://{greeter.name}.default.svc.cluster.local/"
    code = f"import urllib.request as r; print(r.urlopen({url!r}).read().decode())"
    assert run(platform, "run", "--", sys.executable, "-c", code).stdout == "one nobody\n"
    assert run(platform, "run", "--", "sh", "-c", "exit 7").returncode == 7
    assert run(platform, "run", "--", "no-such-program").returncode == 127
    assert "KUBECONFIG" in run(platform, "run", "env").stdout


def test_doctor_finds_the_platform_well(platform: Any) -> None:
    done = run(platform, "doctor")
    assert done.returncode == 0, done.stdout
    for part in ("API server", "ingress", "activator", "autoscaler"):
        assert f"ok   {part} answers at 127." in done.stdout
    assert all(check["good"] for check in json.loads(run(platform, "doctor", "-o", "json").stdout)["items"])


def test_a_second_up_is_refused_and_the_first_goes_on(platform: Any) -> None:
    done = run(platform, "up", "--state-dir", str(platform.state))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {platform.state} is in use by another `torpor up` (pid {platform.process.pid}): "
        "stop that one, or give this one another --state-dir\n"
    )
    assert platform.process.poll() is None
    assert platform.get("namespaces", "default")["status"]["phase"] == "Active"
