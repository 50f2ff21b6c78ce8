"""What a directory becomes: a name, an image, a manifest."""

import sys
from pathlib import Path

import pytest

from kncore.errors import KnError
from torpor.cli import deploy
from torpor.cli.deploy import manifest, service_name
from torpor.embedded.images import Images
from torpor.state import StateDir


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("hello", "hello"),
        ("My App", "my-app"),
        ("2024_report.v2", "report-v2"),
        ("--x--", "x"),
        ("a" * 80, "a" * 50),
        (f"{'a' * 49}-b", "a" * 49),
        ("héllo", "h-llo"),
    ],
)
def test_a_service_is_named_after_its_directory(tmp_path: Path, directory: str, name: str) -> None:
    assert service_name(tmp_path / directory) == name


@pytest.mark.parametrize("directory", ["123", "---", "___"])
def test_a_directory_without_letters_needs_a_name(tmp_path: Path, directory: str) -> None:
    with pytest.raises(KnError, match="--name"):
        service_name(tmp_path / directory)


def test_the_manifest_says_no_more_than_it_must() -> None:
    assert manifest("hello", "default", "dev.local/hello:1", [("A", "b=c")]) == {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {
            "template": {
                "spec": {"containers": [{"image": "dev.local/hello:1", "env": [{"name": "A", "value": "b=c"}]}]}
            }
        },
    }


def test_equal_content_is_one_image_and_a_change_another(tmp_path: Path) -> None:
    state = StateDir.create(tmp_path / "state")
    source = tmp_path / "hello"
    source.mkdir()
    (source / "app.py").write_text("one")
    command = ("python", "app.py")
    first = deploy._register(state, "hello", source, command)
    assert deploy._register(state, "hello", source, command) == first
    (source / "app.py").write_text("two")
    second = deploy._register(state, "hello", source, command)
    assert second != first
    images = Images(state.images)
    found = {image: images.find(image) for image in (first, second)}
    assert {image: program and (program.directory / "app.py").read_text() for image, program in found.items()} == {
        first: "one",
        second: "two",
    }


def test_a_name_of_one_letter_makes_an_image_name_that_is_allowed(tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.mkdir()
    image = deploy._register(StateDir.create(tmp_path / "state"), "x", source, ("./run",))
    assert image.startswith("dev.local/app-x:")


async def test_mistakes_are_told_before_anything_is_asked(tmp_path: Path) -> None:
    source = tmp_path / "hello"
    source.mkdir()
    (source / "app.py").write_text("print()")
    with pytest.raises(KnError, match="--env A: expected NAME=VALUE"):
        await deploy.deploy(source, "", "", ["A"], tmp_path / "state", output=None)
    with pytest.raises(KnError, match="torpor up"):
        await deploy.deploy(source, "", "", ["A=b"], tmp_path / "state", output=None)


def test_packages_that_nobody_installs_are_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("flask\n")
    hint = deploy._packages_hint(tmp_path, ("python", "app.py"))
    assert f"python3 -m venv {tmp_path / '.venv'}" in hint
    assert deploy._packages_hint(tmp_path, ("./server",)) == ""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    assert deploy._packages_hint(tmp_path, ("python", "app.py")) == ""
