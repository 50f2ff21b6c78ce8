"""Every kubectl line of the guide for Serving, as written, and the kubectl habits around them."""

import asyncio
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKSUMS = {
    "hello/hello-service.yaml": "f7af2227b5d4fee7067bae277c4cd245b45144ba27a2fb3c3dddc33c7259f3ed",
    "autoscale/autoscale-service.yaml": "8822ea81226cdba506782aa7e2a2dddbc1cc4b3e3950662b7d0c69a8cd63a15b",
    "canary/canary-service.yaml": "0cac848acbb14f349ff973dc884c330ada081ba5fa9d36d67a99336b70d1d04b",
}


@pytest.mark.parametrize("example", CHECKSUMS)
def test_the_examples_are_the_guides_files(example: str) -> None:
    content = (Path(__file__).parents[3] / "examples" / example).read_bytes()
    assert hashlib.sha256(content).hexdigest() == CHECKSUMS[example]


@pytest.mark.timeout(240)
async def test_the_guide_from_top_to_bottom(platform, kubectl, http) -> None:
    patch = '{"data":{"ingress-class":"kourier.ingress.networking.knative.dev"}}'
    said = kubectl(
        *("patch", "configmap/config-network", "--namespace", "knative-serving", "--type", "merge", "--patch", patch)
    )
    assert said.startswith("configmap/config-network patched")

    hello = str(platform.examples / "hello" / "hello-service.yaml")
    assert kubectl("apply", "-f", hello) == "service.serving.knative.dev/hello created\n"
    kubectl("wait", "--for=condition=Ready", "ksvc/hello", "--timeout=60s")
    header, row = kubectl("get", "ksvc", "hello").splitlines()
    assert header.split() == ["NAME", "URL", "LATESTCREATED", "LATESTREADY", "READY", "REASON"]
    url = f"http://hello.default.localhost:{platform.running['ingress'].rpartition(':')[2]}"
    assert row.split() == ["hello", url, "hello-00001", "hello-00001", "True"]
    assert kubectl("get", "ksvc", "hello", "-o", "jsonpath={.status.url}") == url
    async with http.get(platform.ingress, headers={"Host": url.removeprefix("http://")}) as response:
        assert await response.text() == "Hello from hello-00001!\n"
    if shutil.which("curl"):  # resolves *.localhost by itself, as browsers do
        asked = ["curl", "-sS", "-m", "20", url]
        answer = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, check=True)
        assert answer.stdout == "Hello from hello-00001!\n"
    assert kubectl("apply", "-f", hello) == "service.serving.knative.dev/hello configured\n"

    kubectl("apply", "-f", str(platform.examples / "autoscale" / "autoscale-service.yaml"))
    kubectl("apply", "-f", str(platform.examples / "canary" / "web-app-v1.yaml"))
    kubectl("wait", "--for=condition=Ready", "ksvc/api-server", "ksvc/web-app", "--timeout=60s")
    kubectl("apply", "-f", str(platform.examples / "canary" / "canary-service.yaml"))
    for script, share in (("rollout-10.sh", 10), ("rollout-50.sh", 50), ("rollout-100.sh", 100)):
        text = (platform.examples / "canary" / script).read_text()
        body = text.partition("-p '")[2].rpartition("'")[0]
        assert kubectl("patch", "ksvc", "web-app", "--type", "merge", "-p", body).startswith(
            "service.serving.knative.dev/web-app patched"
        )
        kubectl("wait", "--for=condition=Ready", "ksvc/web-app", "--timeout=60s")
        traffic = json.loads(kubectl("get", "ksvc", "web-app", "-o", "json"))["status"]["traffic"]
        assert {t["revisionName"]: t["percent"] for t in traffic}["web-app-v2"] == share


@pytest.mark.timeout(240)
async def test_kubectl_habits(platform, kubectl) -> None:
    kubectl("apply", "-f", str(platform.examples / "hello" / "hello-service.yaml"))
    kubectl("wait", "--for=condition=Ready", "ksvc/hello", "--timeout=60s")

    described = kubectl("describe", "ksvc", "hello")
    assert "Latest Ready Revision Name:" in described
    assert "Events:" in described
    pod = kubectl("get", "pods", "-l", "serving.knative.dev/service=hello", "-o", "jsonpath={.items[0].metadata.name}")
    assert "listening on port" in kubectl("logs", pod, "-c", "user-container")
    assert kubectl("exec", pod, "-c", "user-container", "--", "sh", "-c", "echo $K_SERVICE") == "hello\n"
    assert "service.serving.knative.dev/hello labeled" in kubectl("label", "ksvc", "hello", "team=blue")
    assert "service.serving.knative.dev/hello annotated" in kubectl("annotate", "ksvc", "hello", "note=seen")
    assert kubectl("get", "ksvc", "-l", "team=blue", "-o", "name") == "service.serving.knative.dev/hello\n"
    platform.environment["KUBE_EDITOR"] = "sed -i s/team:.blue/team:\\ green/"
    assert "edited" in kubectl("edit", "ksvc", "hello")
    assert kubectl("get", "ksvc", "hello", "-o", "jsonpath={.metadata.labels.team}") == "green"
    manifest = (
        (platform.examples / "hello" / "hello-service.yaml").read_text().replace('value: "info"', 'value: "debug"')
    )
    changed = kubectl("diff", "-f", "-", stdin=manifest, check=False)
    assert "debug" in changed
    assert "containerConcurrency" in kubectl("explain", "ksvc.spec.template.spec")
    everything = kubectl("get", "all")
    for kind in (
        "service.serving.knative.dev/hello",
        "revision.serving.knative.dev/hello-00001",
        "route.serving",
        "pod/",
    ):
        assert kind in everything
    internal = kubectl("get", "kpa,sks,king", "-A")
    for kind in ("podautoscaler.autoscaling", "serverlessservice.networking", "ingress.networking"):
        assert kind in internal
    assert 'service.serving.knative.dev "hello" deleted' in kubectl("delete", "ksvc", "hello")
    assert "NotFound" in expect_failure(platform, "get", "ksvc", "hello")


def expect_failure(platform, *arguments: str) -> str:
    with pytest.raises(AssertionError) as failure:
        platform.kubectl(*arguments)
    return str(failure.value)


async def test_kubectl_get_watch_shows_a_service_become_ready(platform, kubectl) -> None:
    watch = subprocess.Popen(
        ["kubectl", "get", "ksvc", "-w"],
        env=platform.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        platform.apply(platform.manifest(name="seen", image="test.local/slow:1"))
        await platform.ready("seen")
        await asyncio.sleep(0.5)
    finally:
        watch.terminate()
        shown, _ = await asyncio.to_thread(watch.communicate, timeout=10)
    states = [line.split() for line in shown.splitlines() if line.startswith("seen ")]
    assert states[-1][-1] == "True"
    assert any("Unknown" in state for state in states[:-1])
