"""`torpor apply`, `get`, `patch` and `delete` against the embedded API server, beside kubectl where there is one."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from tests import kubectl as programs
from torpor.cli.main import main

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "examples" / "hello" / "hello-service.yaml"
COMMAND = [sys.executable, "-P", "-m", "torpor.cli.main"]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """What it told as error, warnings aside."""
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]


Torpor: TypeAlias = Callable[..., Done]


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The embedded API server alone, in a process of its own."""
    state = tmp_path_factory.mktemp("apiserver")
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "torpor.embedded.apiserver", "--state-dir", str(state)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"https://")
        yield state / "kubeconfig"
        process.terminate()


@pytest.fixture
def torpor(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Torpor]:
    """Run the command in this process; objects it leaves in the namespace default are removed after the test."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str, kubeconfig: Path | None = None) -> Done:
        if kubeconfig is not None:
            monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        monkeypatch.setattr(sys, "argv", ["torpor", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code or 0
        assert isinstance(code, int)
        return Done(code, *capsys.readouterr())

    yield run
    for name in run("get", "ksvc,revision,pod", "-o", "name", kubeconfig=kubeconfig).out.split():
        kind, _, named = name.partition("/")
        run("patch", kind, named, "-p", '{"metadata": {"finalizers": null}}')
        run("delete", kind, named)


@pytest.fixture(params=programs.parameters()[-1:])
def kubectl(request: pytest.FixtureRequest, kubeconfig: Path, tmp_path: Path) -> Callable[..., str]:
    """The newest kubectl there is."""
    program = programs.binary(request.param)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments],
            env={**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    return run


def service(name: str = "hello", **spec: Any) -> dict[str, Any]:
    template = {"spec": {"containers": [{"image": "dev.local/hello"}]}}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"template": template, **spec},
    }


def write(tmp_path: Path, *objects: dict[str, Any]) -> str:
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    return str(path)


# apply


def test_an_object_is_created_then_unchanged_then_configured(torpor: Torpor, tmp_path: Path) -> None:
    assert torpor("apply", "-f", str(HELLO)).out == "service.serving.knative.dev/hello created\n"
    assert torpor("apply", "-f", str(HELLO)).out == "service.serving.knative.dev/hello unchanged\n"
    changed = tmp_path / "changed.yaml"
    changed.write_text(HELLO.read_text().replace('max-scale: "10"', 'max-scale: "5"'))
    assert torpor("apply", "-f", str(changed)).out == "service.serving.knative.dev/hello configured\n"


def test_the_servers_warnings_are_told_beside_the_result(torpor: Torpor) -> None:
    done = torpor("apply", "-f", str(HELLO))
    assert done.code == 0
    assert done.err.startswith("warning: Kubernetes default value is insecure")


def test_the_result_in_other_forms(torpor: Torpor, tmp_path: Path) -> None:
    one, two = write(tmp_path, service()), tmp_path / "two.yaml"
    two.write_text(yaml.safe_dump_all([service("a"), service("b")]))
    assert json.loads(torpor("apply", "-f", one, "-o", "json").out)["metadata"]["name"] == "hello"
    found = yaml.safe_load(torpor("apply", "-f", str(two), "-o", "yaml").out)
    assert [item["metadata"]["name"] for item in found["items"]] == ["a", "b"]
    names = torpor("apply", "-f", one, "-f", str(two), "-o", "name").out.split()
    assert names == [f"service.serving.knative.dev/{name}" for name in ("hello", "a", "b")]


def bad(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    made = service("bad")
    change(made)
    return made


@pytest.mark.parametrize(
    ("obj", "says"),
    [
        (
            bad(lambda o: o["spec"]["template"]["spec"]["containers"][0].update(imagee="x")),
            'service.serving.knative.dev/bad: unknown field "spec.template.spec.containers[0].imagee"',
        ),
        (bad(lambda o: o["spec"].update(templates={})), 'unknown field "spec.templates"'),
        (bad(lambda o: o.update(kind="Servic")), 'the server has no kind "Servic": did you mean "Service"?'),
        (bad(lambda o: o.update(kind="Zebra")), 'the server has no kind "Zebra": known are ksvc, revision'),
        (
            bad(lambda o: o.update(apiVersion="serving.knative.dev/v2")),
            "no Service in apiVersion serving.knative.dev/v2: did you mean serving.knative.dev/v1?",
        ),
        (bad(lambda o: o["metadata"].update(namespace="nowhere")), 'namespaces "nowhere" not found'),
        (bad(lambda o: o["metadata"].update(name="Bad_Name")), "Bad_Name"),
        (
            bad(
                lambda o: o["spec"]["template"].update(
                    metadata={"annotations": {"autoscaling.knative.dev/min-scale": "-1"}}
                )
            ),
            'admission webhook "validation.webhook.serving.knative.dev" denied the request: validation failed: '
            "expected 0 <= -1 <= 2147483647: spec.template.metadata.annotations.autoscaling.knative.dev/min-scale",
        ),
        (bad(lambda o: o["spec"]["template"]["spec"].update(containers=[])), "spec.template.spec.containers"),
    ],
)
def test_a_refusal_is_one_line_and_keeps_nothing_else_back(
    torpor: Torpor, tmp_path: Path, obj: dict[str, Any], says: str
) -> None:
    path = write(tmp_path, obj, service("good"))
    done = torpor("apply", "-f", path)
    assert done.code == 1
    assert done.out == "service.serving.knative.dev/good created\n"
    assert len(done.errors) == 1
    assert done.errors[0].startswith(f"{path}:1: ")
    assert says in done.errors[0]


def test_a_field_of_another_manager_is_only_taken_by_force(
    torpor: Torpor, kubectl: Callable[..., str], tmp_path: Path
) -> None:
    kubectl("apply", "-f", str(HELLO))
    changed = tmp_path / "changed.yaml"
    changed.write_text(HELLO.read_text().replace('max-scale: "10"', 'max-scale: "5"'))
    done = torpor("apply", "-f", str(changed))
    assert done.code == 1
    assert 'with "kubectl-client-side-apply"' in done.errors[0]
    assert done.errors[0].endswith("; --force-conflicts takes the fields over")
    assert torpor("apply", "-f", str(changed), "--force-conflicts").code == 0


def test_a_namespace_that_contradicts_the_option_is_refused_before_anything_is_sent(
    torpor: Torpor, tmp_path: Path
) -> None:
    elsewhere = bad(lambda o: o["metadata"].update(namespace="kube-public"))
    done = torpor("apply", "-n", "default", "-f", write(tmp_path, elsewhere))
    assert done.errors == [
        f'{tmp_path / "objects.yaml"}: service.serving.knative.dev/bad is in namespace "kube-public", '
        'not in "default" as -n says'
    ]


def test_broken_yaml_is_told_even_without_a_server(torpor: Torpor, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [\n")
    done = torpor("apply", "-f", str(tmp_path / "broken.yaml"), kubeconfig=tmp_path / "absent")
    assert done.errors == [f"{tmp_path / 'broken.yaml'}:2:1: not valid YAML: did not find expected node content"]


# get

STATUS = {
    "status": {
        "url": "http://hello.default.localhost",
        "latestCreatedRevisionName": "hello-00002",
        "latestReadyRevisionName": "hello-00001",
        "conditions": [{"type": "Ready", "status": "False", "reason": "RevisionFailed"}],
    }
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "labels": {"app": "x"}},
    "spec": {"containers": [{"name": "c", "image": "dev.local/c"}]},
}


def unaged(table: str) -> list[str]:
    """Lines without trailing blanks, ages as one word: they grow between two commands."""
    return [re.sub(r"\b\d+[smhd]\b", "AGE", line).rstrip() for line in table.splitlines()]


@pytest.mark.parametrize(
    "arguments",
    [
        "ksvc",
        "ksvc hello",
        "ksvc/hello",
        "services.serving.knative.dev",
        "ksvc -A",
        "all",
        "ns",
        "crd",
        "pods",
        "pods -l app=x",
        "cm -A",
        "ksvc,pods",
        "cm,ksvc -A",
    ],
)
def test_tables_are_kubectls(
    torpor: Torpor, kubectl: Callable[..., str], tmp_path: Path, arguments: str, kubeconfig: Path
) -> None:
    assert torpor("apply", "-f", write(tmp_path, service(), service("second"), POD)).code == 0
    kubectl("patch", "ksvc", "hello", "--subresource=status", "--type=merge", "-p", json.dumps(STATUS))
    ours = unaged(torpor("get", *arguments.split()).out)
    theirs = unaged(kubectl("get", *arguments.split()))
    assert [line.split() for line in ours] == [line.split() for line in theirs]
    assert ours[0].index("NAME") == theirs[0].index("NAME")
    assert len(ours) > 1


def test_the_columns_of_a_service(torpor: Torpor, tmp_path: Path) -> None:
    torpor("apply", "-f", write(tmp_path, service()))
    assert torpor("get", "ksvc").out == "NAME    URL   LATESTCREATED   LATESTREADY   READY   REASON\nhello\n"


def test_objects_in_other_forms(torpor: Torpor, tmp_path: Path) -> None:
    torpor("apply", "-f", write(tmp_path, service("a"), service("b")))
    assert json.loads(torpor("get", "ksvc", "a", "-o", "json").out)["metadata"]["name"] == "a"
    found = yaml.safe_load(torpor("get", "ksvc", "-o", "yaml").out)
    assert (found["kind"], len(found["items"])) == ("List", 2)
    assert torpor("get", "ksvc", "-o", "name").out.split() == [
        "service.serving.knative.dev/a",
        "service.serving.knative.dev/b",
    ]
    done = torpor("get", "ksvc", "a", "-o", "url")
    assert (done.code, done.out, done.errors) == (1, "", ["no URL (yet): service.serving.knative.dev/a"])


def test_what_is_not_there_is_said_on_stderr(torpor: Torpor, tmp_path: Path) -> None:
    empty = torpor("get", "ksvc")
    assert (empty.code, empty.out, empty.err) == (0, "", "no ksvc found in namespace default\n")
    torpor("apply", "-f", write(tmp_path, service()))
    done = torpor("get", "ksvc", "hello", "nope")
    assert done.code == 1
    assert done.out.split("\n")[1] == "hello"
    assert done.errors == ['services.serving.knative.dev "nope" not found']
    assert torpor("get", "ksvcs").errors == ['the server has no kind "ksvcs": did you mean "ksvc"?']


def test_selectors_that_are_none_are_the_servers_business(torpor: Torpor) -> None:
    done = torpor("get", "ksvc", "-l", "a in (")
    assert done.code == 1
    assert len(done.errors) == 1


def test_a_watch_prints_changes_until_interrupted(torpor: Torpor, kubeconfig: Path, tmp_path: Path) -> None:
    torpor("apply", "-f", write(tmp_path, service()))
    with subprocess.Popen(
        [*COMMAND, "get", "ksvc", "-w"],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stdout.readline().split() == [
            *("NAME", "URL", "LATESTCREATED", "LATESTREADY", "READY", "REASON"),
        ]
        assert watching.stdout.readline().split() == ["hello"]
        torpor("apply", "-f", write(tmp_path, service("later-one")))
        assert watching.stdout.readline().split() == ["later-one"]
        torpor("delete", "ksvc", "hello")
        assert watching.stdout.readline().split() == ["hello"]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130
        assert watching.stderr.read() == ""


def test_a_watch_of_one_name_tells_of_no_other(torpor: Torpor, kubeconfig: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "get", "ksvc", "mine", "-w"],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        time.sleep(1)  # it starts with nothing to show, so nothing says that it has started
        torpor("apply", "-f", write(tmp_path, service("other"), service("mine")))
        assert watching.stdout.readline().split()[0] == "NAME"
        assert watching.stdout.readline().split() == ["mine"]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130


# patch


def test_patches_of_each_type(torpor: Torpor, tmp_path: Path) -> None:
    torpor("apply", "-f", write(tmp_path, service(), POD))
    label = json.dumps({"metadata": {"labels": {"a": "b"}}})
    assert torpor("patch", "ksvc", "hello", "--type", "merge", "-p", label).out == (
        "service.serving.knative.dev/hello patched\n"
    )
    assert torpor("patch", "ksvc/hello", "-p", label).out == "service.serving.knative.dev/hello patched (no change)\n"
    operation = json.dumps([{"op": "replace", "path": "/metadata/labels/a", "value": "c"}])
    assert torpor("patch", "ksvc/hello", "--type", "json", "-p", operation).code == 0
    assert torpor("get", "ksvc", "-l", "a=c", "-o", "name").out == "service.serving.knative.dev/hello\n"
    assert torpor("patch", "pod/p", "--type", "strategic", "-p", label).out == "pod/p patched\n"
    refused = torpor("patch", "ksvc/hello", "--type", "strategic", "-p", label)
    assert refused.code == 1
    assert "application/merge-patch+json" in refused.errors[0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"spec": {"trafic": []}}, 'service.serving.knative.dev/hello: unknown field "spec.trafic"'),
        ({"spec": {"traffic": [{"percent": 50, "latestRevision": True}]}}, "Traffic targets sum to 50, want 100"),
    ],
)
def test_a_refused_patch_is_one_line(torpor: Torpor, tmp_path: Path, body: dict[str, Any], says: str) -> None:
    torpor("apply", "-f", write(tmp_path, service()))
    done = torpor("patch", "ksvc/hello", "-p", json.dumps(body))
    assert done.code == 1
    assert len(done.errors) == 1
    assert says in done.errors[0]


def test_the_guides_configmap_line_works_for_torpor_too(torpor: Torpor, tmp_path: Path) -> None:
    cm = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config-network", "namespace": "knative-serving"},
    }
    torpor("apply", "-f", write(tmp_path, cm))
    done = torpor(
        *("patch", "configmap/config-network", "--namespace", "knative-serving", "--type", "merge"),
        *("--patch", '{"data":{"ingress-class":"kourier.ingress.networking.knative.dev"}}'),
    )
    assert done.out == "configmap/config-network patched\n"
    bad_value = '{"data":{"autocreate-cluster-domain-claims":"maybe"}}'
    refused = torpor("patch", "configmap/config-network", "-n", "knative-serving", "-p", bad_value)
    assert refused.code == 1
    assert "autocreate-cluster-domain-claims" in refused.errors[0]


# delete


def test_deleting_by_name_and_by_file(torpor: Torpor, tmp_path: Path) -> None:
    path = write(tmp_path, service("a"), service("b"), POD)
    torpor("apply", "-f", path)
    assert torpor("delete", "ksvc", "a").out == 'service.serving.knative.dev "a" deleted\n'
    done = torpor("delete", "-f", path)
    assert done.code == 1  # a is gone already
    assert done.out == 'service.serving.knative.dev "b" deleted\npod "p" deleted\n'
    assert done.errors == ['services.serving.knative.dev "a" not found']
    assert torpor("get", "ksvc", "-o", "name").out == ""


def test_what_a_finalizer_holds_is_waited_for_and_then_told(
    torpor: Torpor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torpor.cli.objects.DELETE_TIMEOUT", 0.3)
    held = service()
    held["metadata"]["finalizers"] = ["example.com/hold"]
    torpor("apply", "-f", write(tmp_path, held))
    done = torpor("delete", "ksvc", "hello")
    assert done.code == 1
    assert done.out == 'service.serving.knative.dev "hello" deleted\n'
    assert done.errors == ["service.serving.knative.dev/hello still exists after 0 s (finalizers: example.com/hold)"]
    assert torpor("delete", "ksvc", "hello", "--no-wait").code == 0


# the way there


def test_a_server_that_is_gone_is_told_with_where_it_was_looked_for(
    torpor: Torpor, kubeconfig: Path, tmp_path: Path
) -> None:
    dead = tmp_path / "dead"
    dead.write_text(re.sub(r"https://127\.0\.0\.1:\d+", "https://127.0.0.1:1", kubeconfig.read_text()))
    done = torpor("get", "ksvc", kubeconfig=dead)
    assert done.code == 1
    assert len(done.errors) == 1
    assert done.errors[0].startswith(
        f"no answer from the API server at https://127.0.0.1:1 (from {dead}): is `torpor up` running?"
    )


def test_credentials_that_are_not_accepted_are_told(torpor: Torpor, kubeconfig: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    config = yaml.safe_load(kubeconfig.read_text())
    config["users"][0]["user"] = {"token": "wrong"}
    other.write_text(yaml.safe_dump(config))
    done = torpor("get", "ksvc", kubeconfig=other)
    assert done.code == 1
    assert done.errors[0].startswith("the API server at https://127.0.0.1:")
    assert f"does not accept the credentials in {other}" in done.errors[0]


def test_the_contexts_namespace_is_the_default(torpor: Torpor, kubeconfig: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    config = yaml.safe_load(kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = "kube-public"
    other.write_text(yaml.safe_dump(config))
    assert torpor("get", "cm", "-o", "name", kubeconfig=other).out == "configmap/kube-root-ca.crt\n"
    assert torpor("get", "ksvc", kubeconfig=other).err == "no ksvc found in namespace kube-public\n"


def test_a_reader_that_leaves_early_is_no_error(kubeconfig: Path) -> None:
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    crds = f"{' '.join(COMMAND)} get crd -o json"  # far more than a pipe holds
    done = subprocess.run(
        ["/bin/sh", "-c", f"{crds} | head -c 1"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "{"
    assert done.stderr == ""


@pytest.mark.parametrize("no_color", [False, True])
def test_colour_on_a_terminal_unless_it_is_not_wanted(kubeconfig: Path, no_color: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"KUBECONFIG": str(kubeconfig), "TERM": "xterm"} | ({"NO_COLOR": "1"} if no_color else {})
    ours, theirs = pty.openpty()
    try:
        subprocess.run([*COMMAND, "get", "ksvc", "nope"], env=environment, stdout=theirs, stderr=theirs, check=False)
        text = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert ("\x1b[31merror\x1b[0m: " in text) is not no_color
    assert ("\x1b" in text) is not no_color
