"""The real kubectl against the embedded API server, in the versions that `tests/kubectl.py` finds or builds.

Each version gets a server, a home and caches of its own, so nothing is read from or left in the user's.
"""

import asyncio
import os
import re
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests import kubectl as programs
from torpor.embedded.apiserver.pods import ExecSession, LogOptions
from torpor.embedded.apiserver.server import ApiServer

KSVC = """
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: NAME
spec:
  template:
    metadata:
      annotations:
        autoscaling.knative.dev/target: "TARGET"
    spec:
      containers:
      - image: ghcr.io/myorg/hello-app:latest
        ports:
        - containerPort: 8080
        env:
        - name: LOG_LEVEL
          value: info
"""

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: REPLICAS
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: web
        image: nginx:1.27
"""


class Command:
    """A process of this machine in the place of one in a container."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._streams = {1: process.stdout, 2: process.stderr}

    async def read(self) -> tuple[int, bytes] | None:
        for channel, stream in list(self._streams.items()):
            assert stream is not None
            if data := await stream.read(65_536):
                return channel, data
            del self._streams[channel]
        return None

    async def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def resize(self, columns: int, rows: int) -> None:
        pass

    async def wait(self) -> int:
        return await self._process.wait()

    async def aclose(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Node:
    """Every pod has the same log; commands run here."""

    async def log(self, namespace: str, pod: str, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        lines = [f"{pod}/{container} line {number}\n".encode() for number in range(5)]
        for line in lines[-options.tail_lines :] if options.tail_lines else lines:
            yield line

    async def exec(
        self, namespace: str, pod: str, container: str, command: tuple[str, ...], *, stdin: bool, tty: bool
    ) -> ExecSession:
        pipe = subprocess.PIPE
        return Command(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe))


class Running:
    """A server in a thread of its own, since kubectl is waited for synchronously."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = asyncio.new_event_loop()
        self.server = ApiServer(directory / "state", pods=Node())
        self._thread = threading.Thread(target=self.loop.run_forever, name="api server")

    def __enter__(self) -> "Running":
        self._thread.start()
        self.call(self.server.start())
        self.server.write_kubeconfig(self.directory / "kubeconfig")
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def call(self, action: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(action, self.loop).result(20)

    def patch(self, path: str, body: Any) -> Any:
        """What a controller or node would write."""

        async def send() -> Any:
            context = ssl.create_default_context(cadata=self.server.ca_pem)
            headers = {"Authorization": f"Bearer {self.server.token}", "Content-Type": "application/merge-patch+json"}
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http,
                http.patch(self.server.url + path, data=orjson.dumps(body), headers=headers) as answer,
            ):
                assert answer.status == 200, await answer.text()
                return await answer.json()

        return self.call(send())


@dataclass
class Kubectl:
    """One kubectl with a home of its own."""

    binary: str
    home: Path
    running: Running
    version: tuple[int, int]

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KUBECACHEDIR": str(self.home / "cache"),
            "KUBECONFIG": str(self.running.directory / "kubeconfig"),
        }

    def run(self, *words: str, stdin: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.binary, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**self.env, **env},
            cwd=self.home,
        )

    def __call__(self, *words: str, stdin: str = "", **env: str) -> str:
        """What it prints; it must succeed."""
        done = self.run(*words, stdin=stdin, **env)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def fails(self, *words: str, stdin: str = "") -> str:
        """What it complains of; it must fail."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode != 0, f"kubectl {' '.join(words)} should fail: {done.stdout}"
        return done.stderr

    def popen(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.binary, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env
        )


@pytest.fixture(scope="module", params=programs.parameters())
def kubectl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    binary = programs.binary(request.param)
    directory = tmp_path_factory.mktemp("kubectl")
    home = directory / "home"
    home.mkdir()
    with Running(directory) as running:
        yield Kubectl(binary, home, running, request.param.version)


@pytest.fixture
def ns(kubectl: Kubectl, request: pytest.FixtureRequest) -> str:
    """A namespace for one test."""
    name = re.sub(r"[^a-z0-9]+", "-", request.function.__name__.removeprefix("test_"))[:50].strip("-")
    assert kubectl("create", "ns", name) == f"namespace/{name} created\n"
    return name


def ksvc(name: str = "hello", target: int = 100) -> str:
    return KSVC.replace("NAME", name).replace("TARGET", str(target))


def deployment(replicas: int = 2) -> str:
    return DEPLOYMENT.replace("REPLICAS", str(replicas))


def set_ready(kubectl: Kubectl, ns: str, name: str = "hello") -> None:
    status = {
        "observedGeneration": 1,
        "url": f"http://{name}.{ns}.localhost:8080",
        "latestCreatedRevisionName": f"{name}-00001",
        "latestReadyRevisionName": f"{name}-00001",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}],
    }
    path = f"/apis/serving.knative.dev/v1/namespaces/{ns}/services/{name}/status"
    kubectl.running.patch(path, {"status": status})


# ------------------------------------------------------------------------------------------------------------ basics


def test_version_discovery_and_identity(kubectl: Kubectl) -> None:
    assert "v1.33.0+torpor" in kubectl("version")
    resources = kubectl("api-resources")
    line = next(line for line in resources.splitlines() if "serving.knative.dev/v1 " in line and "ksvc" in line)
    assert line.split() == ["services", "kservice,ksvc", "serving.knative.dev/v1", "true", "Service"]
    assert "deployments" in kubectl("api-resources", "--api-group=apps", "-o", "name")
    assert "serving.knative.dev/v1" in kubectl("api-versions").splitlines()
    assert kubectl("auth", "can-i", "create", "ksvc").strip() == "yes"
    assert "kubernetes-admin" in kubectl("auth", "whoami")
    assert kubectl("get", "--raw", "/readyz") == "ok"
    namespaces = kubectl("get", "ns", "-o", "name").split()
    assert {"namespace/default", "namespace/knative-serving", "namespace/knative-eventing"} <= set(namespaces)


def test_apply_get_and_change_a_knative_service(kubectl: Kubectl, ns: str) -> None:
    assert kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc()) == "service.serving.knative.dev/hello created\n"
    set_ready(kubectl, ns)
    header, row = kubectl("get", "-n", ns, "ksvc", "hello").splitlines()
    assert header.split() == ["NAME", "URL", "LATESTCREATED", "LATESTREADY", "READY", "REASON"]
    assert row.split() == ["hello", f"http://hello.{ns}.localhost:8080", "hello-00001", "hello-00001", "True"]
    assert kubectl("get", "-n", ns, "ksvc", "hello", "-o", "jsonpath={.status.url}") == (
        f"http://hello.{ns}.localhost:8080"
    )
    shown = kubectl("get", "-n", ns, "ksvc", "hello", "-o", "yaml")
    assert "timeoutSeconds: 300" in shown  # admission's defaults
    assert "managedFields" not in shown
    assert kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc(target=7)) == (
        "service.serving.knative.dev/hello configured\n"
    )
    path = "jsonpath={.spec.template.metadata.annotations.autoscaling\\.knative\\.dev/target} {.metadata.generation}"
    assert kubectl("get", "-n", ns, "ksvc", "hello", "-o", path) == "7 2"
    assert kubectl("get", "-n", ns, "knative", "-o", "name") == "service.serving.knative.dev/hello\n"
    assert "hello" in kubectl("get", "ksvc", "-A", "--field-selector", f"metadata.namespace={ns}")
    assert kubectl("get", "-n", ns, "all", "-o", "name") == "service.serving.knative.dev/hello\n"
    columns = "custom-columns=N:.metadata.name,U:.status.url"
    assert kubectl("get", "-n", ns, "ksvc", "-o", columns).split()[:3] == ["N", "U", "hello"]
    assert "not found" in kubectl.fails("get", "-n", ns, "ksvc", "nobody")


def test_a_core_kind_is_patched_strategically(kubectl: Kubectl, ns: str) -> None:
    manifest = deployment()
    assert kubectl("apply", "-n", ns, "-f", "-", stdin=manifest) == "deployment.apps/web created\n"
    assert kubectl("apply", "-n", ns, "-f", "-", stdin=manifest) == "deployment.apps/web unchanged\n"
    assert kubectl("apply", "-n", ns, "-f", "-", stdin=deployment(3)) == "deployment.apps/web configured\n"
    added = '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"busybox"}]}}}}'
    assert kubectl("patch", "-n", ns, "deploy", "web", "-p", added) == "deployment.apps/web patched\n"
    images = kubectl("get", "-n", ns, "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].image}")
    assert sorted(images.split()) == ["busybox", "nginx:1.27"]
    assert kubectl("set", "image", "-n", ns, "deploy/web", "web=nginx:1.28") == "deployment.apps/web image updated\n"
    assert kubectl("scale", "-n", ns, "deploy/web", "--replicas=5") == "deployment.apps/web scaled\n"
    row = kubectl("get", "-n", ns, "deploy", "web", "-o", "wide").splitlines()[1].split()
    assert row[:2] == ["web", "0/5"]
    assert "side,web" in row or "web,side" in row


def test_patches_of_a_custom_kind(kubectl: Kubectl, ns: str) -> None:
    kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc())
    patched = "service.serving.knative.dev/hello patched\n"
    merge = '{"spec":{"template":{"metadata":{"labels":{"x":"y"}}}}}'
    assert kubectl("patch", "-n", ns, "ksvc", "hello", "--type", "merge", "-p", merge) == patched
    operations = '[{"op":"replace","path":"/spec/template/metadata/labels/x","value":"z"}]'
    assert kubectl("patch", "-n", ns, "ksvc", "hello", "--type", "json", "-p", operations) == patched
    assert "application/strategic-merge-patch+json is not supported by serving.knative.dev/v1, Kind=Service" in (
        kubectl.fails("patch", "-n", ns, "ksvc", "hello", "-p", merge)
    )
    label = "jsonpath={.spec.template.metadata.labels.x}"
    assert kubectl("get", "-n", ns, "ksvc", "hello", "-o", label) == "z"


def test_label_annotate_edit_replace_and_diff(kubectl: Kubectl, ns: str) -> None:
    kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc())
    assert kubectl("label", "-n", ns, "ksvc", "hello", "team=a") == "service.serving.knative.dev/hello labeled\n"
    assert kubectl("annotate", "-n", ns, "ksvc", "hello", "note=b") == "service.serving.knative.dev/hello annotated\n"
    assert kubectl("get", "-n", ns, "ksvc", "-l", "team in (a)", "-o", "name").strip() == (
        "service.serving.knative.dev/hello"
    )
    assert kubectl("get", "-n", ns, "ksvc", "-l", "team!=a", "-o", "name") == ""
    editor = kubectl.home / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/value: info/value: debug/" "$1"\n')
    editor.chmod(0o755)
    edited = kubectl("edit", "-n", ns, "ksvc", "hello", KUBE_EDITOR=str(editor))
    assert edited == "service.serving.knative.dev/hello edited\n"
    level = "jsonpath={.spec.template.spec.containers[0].env[0].value}"
    assert kubectl("get", "-n", ns, "ksvc", "hello", "-o", level) == "debug"
    changed = kubectl.run("diff", "-n", ns, "-f", "-", stdin=ksvc(target=5))
    assert changed.returncode == 1
    assert '+        autoscaling.knative.dev/target: "5"' in changed.stdout
    whole = kubectl("get", "-n", ns, "ksvc", "hello", "-o", "yaml")
    replaced = kubectl("replace", "-f", "-", stdin=whole.replace("value: debug", "value: warn"))
    assert replaced == "service.serving.knative.dev/hello replaced\n"
    assert kubectl("get", "-n", ns, "ksvc", "hello", "-o", level) == "warn"
    assert "the object has been modified" in kubectl.fails("replace", "-f", "-", stdin=whole)


def test_create_in_every_encoding(kubectl: Kubectl, ns: str) -> None:
    """From 1.32 on, these bodies are protobuf."""
    assert kubectl("create", "-n", ns, "configmap", "c", "--from-literal=a=b") == "configmap/c created\n"
    assert kubectl("create", "-n", ns, "secret", "generic", "s", "--from-literal=a=b") == "secret/s created\n"
    assert kubectl("create", "-n", ns, "serviceaccount", "who") == "serviceaccount/who created\n"
    assert kubectl("get", "-n", ns, "configmap", "c", "-o", "jsonpath={.data.a}") == "b"
    assert kubectl("get", "-n", ns, "secret", "s", "-o", "jsonpath={.data.a}") == "Yg=="
    assert 'configmaps "c" already exists' in kubectl.fails("create", "-n", ns, "configmap", "c")
    assert kubectl("create", "-n", ns, "-f", "-", stdin=ksvc("made")) == "service.serving.knative.dev/made created\n"
    dry = kubectl("create", "-n", ns, "configmap", "d", "--from-literal=a=b", "--dry-run=server")
    assert dry == "configmap/d created (server dry run)\n"
    assert "not found" in kubectl.fails("get", "-n", ns, "configmap", "d")


def test_a_pod_and_its_events_described(kubectl: Kubectl, ns: str) -> None:
    assert kubectl("run", "-n", ns, "p", "--image=busybox") == "pod/p created\n"
    uid = kubectl("get", "-n", ns, "pod", "p", "-o", "jsonpath={.metadata.uid}")
    event = f"""
apiVersion: v1
kind: Event
metadata: {{name: p.1, namespace: {ns}}}
involvedObject: {{apiVersion: v1, kind: Pod, name: p, namespace: {ns}, uid: {uid}}}
reason: Pulled
message: it is there
type: Normal
count: 1
firstTimestamp: "2024-01-01T00:00:00Z"
lastTimestamp: "2024-01-01T00:00:00Z"
source: {{component: kubelet}}
"""
    kubectl("create", "-f", "-", stdin=event)
    described = kubectl("describe", "-n", ns, "pod", "p")
    assert re.search(r"Normal\s+Pulled\s+.*it is there", described)
    assert "QoS Class:" in described
    assert "it is there" in kubectl("events", "-n", ns, "--for", "pod/p")
    assert "it is there" in kubectl("get", "-n", ns, "events")
    assert kubectl("delete", "-n", ns, "pod", "p").startswith('pod "p" deleted')


def test_logs_and_exec(kubectl: Kubectl, ns: str) -> None:
    pod = f"""
apiVersion: v1
kind: Pod
metadata: {{name: p, namespace: {ns}, labels: {{app: p}}}}
spec: {{nodeName: torpor, containers: [{{name: user-container, image: a}}, {{name: queue-proxy, image: b}}]}}
"""
    kubectl("apply", "-f", "-", stdin=pod)
    assert kubectl("logs", "-n", ns, "p", "-c", "queue-proxy", "--tail=1") == "p/queue-proxy line 4\n"
    assert len(kubectl("logs", "-n", ns, "-l", "app=p", "-c", "user-container", "-f").splitlines()) == 5
    assert "container nothing is not valid for pod p" in kubectl.fails("logs", "-n", ns, "p", "-c", "nothing")
    websockets = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "true"}  # the default from 1.31 on
    words = ("exec", "-n", ns, "p", "-c", "user-container")
    both = kubectl.run(*words, "--", "sh", "-c", "echo out; echo err >&2; exit 3", **websockets)
    assert (both.returncode, both.stdout) == (3, "out\n")
    assert "err\n" in both.stderr
    assert "command terminated with exit code 3" in both.stderr
    if kubectl.version >= (1, 30):  # before, its websocket protocol has no way to say that stdin has ended
        assert kubectl(*words, "-i", "--", "cat", stdin="typed\n", **websockets) == "typed\n"
    kubectl("delete", "-n", ns, "pod", "p", "--now", "--wait=false")


def test_describe_and_explain_a_knative_service(kubectl: Kubectl, ns: str) -> None:
    kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc())
    described = kubectl("describe", "-n", ns, "ksvc", "hello")
    assert re.search(r"Container Concurrency:\s+0", described)
    assert "<none>" in described.splitlines()[-1]  # Events
    explained = kubectl("explain", "ksvc.spec.template.spec.containers")
    assert "FIELD: containers <[]Object>" in explained
    assert "image" in explained
    assert "FIELD: replicas <integer>" in kubectl("explain", "deployment.spec.replicas")


def test_wait_for_conditions_and_values(kubectl: Kubectl, ns: str) -> None:
    kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc())
    waiting = kubectl.popen("wait", "-n", ns, "--for=condition=Ready", "ksvc/hello", "--timeout=20s")
    threading.Timer(0.7, set_ready, (kubectl, ns)).start()
    out, errors = waiting.communicate(timeout=25)
    assert (waiting.returncode, out) == (0, "service.serving.knative.dev/hello condition met\n"), errors
    established = kubectl("wait", "--for=condition=established", "crd/services.serving.knative.dev", "--timeout=5s")
    assert established.endswith("condition met\n")
    value = "--for=jsonpath={.status.latestReadyRevisionName}=hello-00001"
    assert kubectl("wait", "-n", ns, value, "ksvc/hello", "--timeout=5s").endswith("condition met\n")
    assert "timed out" in kubectl.fails("wait", "-n", ns, "--for=condition=Other", "ksvc/hello", "--timeout=1s")
    gone = kubectl.popen("wait", "-n", ns, "--for=delete", "ksvc/hello", "--timeout=20s")
    threading.Timer(0.7, kubectl, ("delete", "-n", ns, "ksvc", "hello")).start()
    assert gone.wait(25) == 0
    gone.communicate()


def test_watching_a_list(kubectl: Kubectl, ns: str) -> None:
    kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc())
    watching = kubectl.popen("get", "-n", ns, "ksvc", "-w")
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline().split()[0] == "NAME"
        assert watching.stdout.readline().split() == ["hello"]
        set_ready(kubectl, ns)
        assert watching.stdout.readline().split()[-1] == "True"
        kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc("other"))
        assert watching.stdout.readline().split() == ["other"]
    finally:
        watching.terminate()
        watching.communicate()


# ------------------------------------------------------------------------------------------------- server-side apply


def test_server_side_apply_owns_and_conflicts(kubectl: Kubectl, ns: str) -> None:
    def apply(manager: str, data: str, *more: str) -> Any:
        body = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {data}\n"
        words = ("apply", "-n", ns, "--server-side", f"--field-manager={manager}", *more, "-f", "-")
        return kubectl.run(*words, stdin=body)

    assert apply("one", "{a: '1', b: '1'}").stdout == "configmap/c serverside-applied\n"
    refused = apply("two", "{a: '2'}")
    assert refused.returncode == 1
    assert 'conflict with "one"' in refused.stderr
    assert ".data.a" in refused.stderr
    assert apply("two", "{a: '2'}", "--force-conflicts").stdout == "configmap/c serverside-applied\n"
    assert apply("one", "{b: '1'}").returncode == 0
    assert apply("one", "{}").returncode == 0
    assert kubectl("get", "-n", ns, "cm", "c", "-o", "jsonpath={.data}") == '{"a":"2"}'
    shown = kubectl("get", "-n", ns, "cm", "c", "-o", "yaml", "--show-managed-fields")
    assert "manager: two" in shown


def test_from_client_side_to_server_side_apply_and_back(kubectl: Kubectl, ns: str) -> None:
    kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc())
    moved = kubectl.run("apply", "-n", ns, "--server-side", "-f", "-", stdin=ksvc(target=3))
    assert (moved.returncode, moved.stdout) == (0, "service.serving.knative.dev/hello serverside-applied\n"), (
        moved.stderr
    )
    assert "non-fatal" not in moved.stderr
    path = "jsonpath={.spec.template.metadata.annotations.autoscaling\\.knative\\.dev/target}"
    assert kubectl("get", "-n", ns, "ksvc", "hello", "-o", path) == "3"
    kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc(target=4))
    assert kubectl("get", "-n", ns, "ksvc", "hello", "-o", path) == "4"
    assert kubectl("apply", "-n", ns, "--server-side", "--dry-run=server", "-f", "-", stdin=ksvc(target=9)) == (
        "service.serving.knative.dev/hello serverside-applied (server dry run)\n"
    )
    assert kubectl("get", "-n", ns, "ksvc", "hello", "-o", path) == "4"


# ------------------------------------------------------------------------------------------------------- bad input


def test_mistakes_are_told_plainly(kubectl: Kubectl, ns: str) -> None:
    unknown = kubectl.fails("apply", "-n", ns, "-f", "-", stdin=ksvc().replace("env:", "evn:"))
    assert 'strict decoding error: unknown field "spec.template.spec.containers[0].evn"' in unknown
    loose = kubectl.run("apply", "-n", ns, "--validate=warn", "-f", "-", stdin=ksvc("loose").replace("env:", "evn:"))
    assert loose.returncode == 0
    assert 'unknown field "spec.template.spec.containers[0].evn"' in loose.stderr
    wrong = kubectl.fails("apply", "-n", ns, "-f", "-", stdin=ksvc(target=0))
    assert 'admission webhook "validation.webhook.serving.knative.dev" denied the request: validation failed: ' in wrong
    typed = kubectl.fails("apply", "-n", ns, "-f", "-", stdin=DEPLOYMENT.replace("REPLICAS", "many"))
    assert "spec.replicas" in typed
    patch = '{"data":{"stable-window":"soon"}}'
    kubectl("create", "-n", "knative-serving", "configmap", "config-autoscaler")
    config = kubectl.fails(
        "patch", "configmap/config-autoscaler", "--namespace", "knative-serving", "--type", "merge", "-p", patch
    )
    assert 'admission webhook "config.webhook.serving.knative.dev" denied the request: validation failed: ' in config
    assert "stable-window" in config
    assert 'namespaces "nowhere" not found' in kubectl.fails("create", "-n", "nowhere", "configmap", "c")
    assert "is invalid: metadata.name" in kubectl.fails("create", "-n", ns, "configmap", "Not_Valid")


# --------------------------------------------------------------------------------------------------------- the end


def test_deleting(kubectl: Kubectl, ns: str) -> None:
    for name in ("a", "b", "c"):
        kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc(name))
    assert kubectl("delete", "-n", ns, "ksvc", "a").startswith('service.serving.knative.dev "a" deleted')
    assert 'services.serving.knative.dev "a" not found' in kubectl.fails("delete", "-n", ns, "ksvc", "a")
    assert kubectl("delete", "-n", ns, "ksvc", "a", "--ignore-not-found") == ""
    kubectl("delete", "-n", ns, "-f", "-", stdin=ksvc("b"))
    kubectl("patch", "-n", ns, "ksvc", "c", "--type=merge", "-p", '{"metadata":{"finalizers":["x.io/hold"]}}')
    deleting = kubectl.popen("delete", "-n", ns, "ksvc", "c")  # waits for the finalizer
    release = ("patch", "-n", ns, "ksvc", "c", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    threading.Timer(0.7, kubectl, release).start()
    assert deleting.wait(25) == 0
    deleting.communicate()
    kubectl("apply", "-n", ns, "-f", "-", stdin=ksvc("d"))
    kubectl("delete", "-n", ns, "ksvc", "--all")
    assert kubectl("get", "-n", ns, "ksvc", "-o", "name") == ""
    kubectl("apply", "-n", ns, "-f", "-", stdin=deployment())
    assert kubectl("delete", "ns", ns).startswith(f'namespace "{ns}" deleted')
    assert "not found" in kubectl.fails("get", "ns", ns)
    assert "this namespace may not be deleted" in kubectl.fails("delete", "ns", "knative-serving")


def test_a_definition_of_ones_own(kubectl: Kubectl, ns: str) -> None:
    definition = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.x.io}
spec:
  group: x.io
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer, default: 3}}}
"""
    kubectl("apply", "-f", "-", stdin=definition)
    kubectl("wait", "--for=condition=established", "crd/widgets.x.io", "--timeout=5s")
    kubectl("apply", "-n", ns, "-f", "-", stdin="apiVersion: x.io/v1\nkind: Widget\nmetadata: {name: w}\nspec: {}\n")
    header, row = kubectl("get", "-n", ns, "wd").splitlines()
    assert (header.split(), row.split()) == (["NAME", "SIZE"], ["w", "3"])
    kubectl("delete", "crd", "widgets.x.io")
    assert "the server doesn't have a resource type" in kubectl.fails("get", "-n", ns, "widgets.x.io")
