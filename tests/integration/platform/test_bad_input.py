"""A mistake gets one clear message (what, where, what to do) and leaves the running system and its state intact."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def refused(platform, *arguments: str, stdin: str | None = None) -> str:
    """What a `torpor` command that must fail says on stderr."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "torpor.cli.main", *arguments],
        env=platform.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        input=stdin,
    )
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(autouse=True)
def _stays_intact(platform):
    before = platform.get("namespaces", "default")["metadata"]["uid"]
    yield
    assert platform.get("namespaces", "default")["metadata"]["uid"] == before
    assert platform.process.poll() is None


async def test_unknown_image(platform) -> None:
    platform.apply(platform.manifest(name="lost", image="ghcr.io/nobody/nothing:1"))

    def failed() -> str:
        conditions = platform.get("ksvc", "lost").get("status", {}).get("conditions", [])
        failures = {c["type"]: c["message"] for c in conditions if c["status"] == "False"}
        return failures.get("ConfigurationsReady", "") if "Ready" in failures else ""

    message = await platform.eventually(failed, 15, "a failed Service")
    assert message.startswith(
        'Revision "lost-00001" failed with message: Unable to fetch image "ghcr.io/nobody/nothing:1"'
    )
    assert "torpor deploy" in message
    revision = platform.get("revision", "lost-00001")
    assert {c["reason"] for c in revision["status"]["conditions"] if c.get("reason")} >= {"ContainerMissing"}


def test_broken_yaml(platform, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("kind: Service\nmetadata: {name: x\n")
    said = refused(platform, "apply", "-f", str(broken))
    assert f"{broken}:3:1: not valid YAML" in said


def test_missing_file(platform) -> None:
    assert "no-such-file.yaml: No such file or directory" in refused(platform, "apply", "-f", "no-such-file.yaml")


def test_unknown_field(platform) -> None:
    manifest = platform.manifest(name="typo", image="test.local/slow:1")
    manifest["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    said = refused(platform, "apply", "-f", "-", stdin=json.dumps(manifest))
    assert (
        'standard input: service.serving.knative.dev/typo: unknown field "spec.template.spec.containers[0].imagee"'
        in said
    )


def test_wrong_annotation(platform) -> None:
    manifest = platform.manifest(
        name="typo", image="test.local/slow:1", annotations={"autoscaling.knative.dev/min-scale": "many"}
    )
    said = refused(platform, "apply", "-f", "-", stdin=json.dumps(manifest))
    assert "validation failed: invalid value: many: spec.template.metadata.annotations" in said
    assert "autoscaling.knative.dev/min-scale" in said


def test_wrong_configuration_is_refused_and_the_old_one_stays(platform) -> None:
    before = platform.get("configmap", "config-autoscaler", namespace="knative-serving")["data"]
    patch = json.dumps({"data": {"stable-window": "1s"}})
    said = refused(platform, "patch", "configmap/config-autoscaler", "-n", "knative-serving", "-p", patch)
    assert "stable-window = 1s, must be in" in said
    assert platform.get("configmap", "config-autoscaler", namespace="knative-serving")["data"] == before


@pytest.mark.timeout(120)
def test_a_taken_port_is_avoided_and_said_so(own_platform) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 18280))
        holder.listen()
        other = own_platform("--port", "18280")
    assert other.running["ingress"] != "127.0.0.1:18280"
    assert "port 18280 is taken; using " in (other.state.parent / "up.log").read_text()


def test_an_object_too_large_to_store_is_refused_whole(platform) -> None:
    big = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "big", "namespace": "default"},
        "data": {"x": "y" * (4 << 20)},
    }
    said = refused(platform, "apply", "-f", "-", stdin=json.dumps(big))
    assert "too large" in said.lower() or "exceeds" in said.lower()
    assert "not found" in refused(platform, "get", "configmap", "big", "-o", "name")
