"""Which program stands behind an image name."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.digest import ResolveError
from kncore.errors import ConfigError
from torpor.embedded import images as module
from torpor.embedded.images import Image, Images, content_digest, read_images_file


@pytest.fixture
def app(tmp_path: Path) -> Path:
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "app.py").write_text("print(1)", encoding="utf-8")
    return directory


def write(path: Path, *entries: Any) -> Path:
    path.write_text(yaml.safe_dump({"images": list(entries)}), encoding="utf-8")
    # The change must show even where the file system's clock is coarse.
    write.count = getattr(write, "count", 0) + 1  # type: ignore[attr-defined]
    os.utime(path, ns=(write.count, write.count))  # type: ignore[attr-defined]
    return path


def entry(match: str, **more: Any) -> dict[str, Any]:
    return {"match": match, "dir": "app", "command": ["python", "app.py"], **more}


async def resolve(images: Images, image: str) -> str:
    deadline = asyncio.get_running_loop().time() + 10
    return await images.resolve(
        image, namespace="default", service_account="default", pull_secrets=(), deadline=deadline
    )


@pytest.mark.parametrize(
    ("pattern", "image", "covers"),
    [
        ("ghcr.io/a/b:*", "ghcr.io/a/b:v1", True),
        ("ghcr.io/a/b:*", "ghcr.io/a/b", True),
        ("ghcr.io/a/b:*", "ghcr.io/a/bc:v1", False),
        ("ghcr.io/a/b:v1", "ghcr.io/a/b:v2", False),
        ("ghcr.io/a/b:latest", "ghcr.io/a/b", True),
        ("ghcr.io/a/b", "ghcr.io/a/b:anything", True),
        ("localhost:5000/b", "localhost:5000/b:v1", True),
        ("localhost:5000/b:*", "localhost:5000/b", True),
        ("hello", "docker.io/library/hello:latest", True),
        ("docker.io/library/hello:*", "hello", True),
        ("me/hello", "index.docker.io/me/hello:x", True),
        ("ghcr.io/*", "ghcr.io/any/thing:v1", True),
    ],
)
def test_patterns(pattern: str, image: str, covers: bool) -> None:
    assert Image(match=pattern, directory=Path("/"), command=("x",)).covers(image) is covers


def test_command_and_args_follow_docker(app: Path) -> None:
    image = Image(match="x", directory=app, command=("serve", "--port"), args=("80",))
    assert image.argv(None, None) == ("serve", "--port", "80")
    assert image.argv([], []) == ("serve", "--port", "80")
    assert image.argv(None, ["90"]) == ("serve", "--port", "90")
    assert image.argv(["sh"], None) == ("sh",)
    assert image.argv(["sh"], ["-c"]) == ("sh", "-c")


def test_python_is_the_programs_own_or_ours(app: Path) -> None:
    image = Image(match="x", directory=app, command=("python", "app.py"))
    assert image.argv(None, None) == (sys.executable, "app.py")
    assert image.environment()["PATH"].startswith(str(Path(sys.executable).parent))
    own = app / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert image.argv(["python3", "-V"], None) == (str(own), "-V")
    assert image.environment()["PATH"].startswith(str(own.parent))
    assert image.argv(["sh", "python"], None) == ("sh", "python")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("images: [", "is not valid YAML"),
        ("[]", "expected a list under the key `images`"),
        ("images: {}", "expected a list under the key `images`"),
        ("images: [x]", r"images\[0\]: expected a mapping"),
        ("images: [{dir: app, command: [x]}]", "match must be an image name"),
        ("images: [{match: x, command: [x]}]", "x: dir must be the program's directory"),
        ("images: [{match: x, dir: gone, command: [x]}]", "there is no directory .*gone; create it or correct dir"),
        ("images: [{match: x, dir: app}]", "command must name the program to run"),
        ("images: [{match: x, dir: app, command: python app.py}]", "command must be a list of words"),
        ("images: [{match: x, dir: app, command: [x], env: [A]}]", "env must be a mapping"),
        ("images: [{match: x, dir: app, command: [x], env: {A: true}}]", "env A must be text or a number"),
        ("images: [{match: x, dir: app, command: [x], image: y}]", "unknown key image; known are"),
        ("images: [{match: x, dir: app, command: [x], workingDir: deep}]", "there is no directory deep below"),
    ],
)
def test_mistakes_are_named_with_file_entry_and_fix(app: Path, content: str, message: str) -> None:
    path = app.parent / "images.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as refused:
        read_images_file(path)
    assert str(refused.value).startswith(str(path))


def test_all_mistakes_are_told_at_once(app: Path) -> None:
    path = app.parent / "images.yaml"
    path.write_text("images: [{match: a}, {match: b, dir: app, command: [x]}, {match: c}]", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_images_file(path)
    assert "images[0]" in str(refused.value)
    assert "images[2]" in str(refused.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_images_file(app / "none.yaml")


def test_first_match_wins_and_registered_ones_come_first(app: Path) -> None:
    file = write(app.parent / "images.yaml", entry("a/b:v1", args=["first"]), entry("a/*", args=["second"]))
    images = Images(app.parent / "state", [file])
    assert images.find("a/b:v1").args == ("first",)  # type: ignore[union-attr]
    assert images.find("a/b:v2").args == ("second",)  # type: ignore[union-attr]
    assert images.find("z:v1") is None
    assert "images.yaml" in images.missing("z:v1")
    assert "torpor deploy" in images.missing("z:v1")
    other = Images(app.parent / "state")  # as `torpor deploy` has it, in another process
    other.register("a/b:v1", app, ["./run"], env={"K": "V"})
    found = images.find("a/b:v1")
    assert found is not None
    assert (found.command, found.env) == (("./run",), {"K": "V"})
    assert Images(app.parent / "state").find("a/b:v1") == found
    with pytest.raises(ConfigError, match="no such directory"):
        other.register("x", app / "gone", ["x"])


def test_changes_are_picked_up_and_mistakes_keep_the_last_good_content(
    app: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(app.parent / "images.yaml", entry("a"))
    images = Images(app.parent / "state", [file])
    changes: list[None] = []
    images.subscribe(lambda: changes.append(None))
    write(file, entry("a"), entry("b"))
    assert images.find("b") is not None
    assert len(changes) == 1
    file.write_text("images: [", encoding="utf-8")
    assert images.find("b") is not None
    assert images.find("a") is not None
    assert sum("last good content" in record.message for record in caplog.records) == 1
    write(file, entry("b"))
    assert images.find("a") is None


async def test_digest_follows_content_and_stays_resolvable(app: Path) -> None:
    file = write(app.parent / "images.yaml", entry("reg.io/a/b:v1"), entry("reg.io/a/b:v2", env={"VERSION": "2"}))
    images = Images(app.parent / "state", [file])
    first = await resolve(images, "reg.io/a/b:v1")
    assert first.startswith("reg.io/a/b@sha256:")
    assert await resolve(images, "reg.io/a/b:v1") == first
    second = await resolve(images, "reg.io/a/b:v2")
    assert second != first
    assert images.find(second).env == {"VERSION": "2"}  # type: ignore[union-attr]
    (app / "app.py").write_text("print(2)", encoding="utf-8")
    assert await resolve(images, "reg.io/a/b:v1") != first
    write(file)  # the entries are gone, digests are remembered, also by the next process
    again = Images(app.parent / "state", [file])
    assert again.find(first) is not None
    assert again.find("reg.io/a/b:v1") is None
    with pytest.raises(ResolveError, match="torpor deploy"):
        await resolve(again, "reg.io/a/b:v1")


async def test_foreign_digest_is_taken_if_only_one_program_can_be_meant(app: Path) -> None:
    digest = "sha256:" + "0" * 64
    file = write(app.parent / "images.yaml", entry("one:*"), entry("two:v1"), entry("two:v2"))
    images = Images(app.parent / "state", [file])
    assert images.find(f"one@{digest}") is not None
    assert images.find(f"two@{digest}") is None
    assert images.find(f"three@{digest}") is None


def test_digest_covers_names_modes_links_but_not_what_tools_leave(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(match="x", directory=app, command=("x",))
    seen = {content_digest(image)}
    (app / "__pycache__").mkdir()
    (app / "__pycache__" / "x.pyc").touch()
    assert content_digest(image) in seen

    def changed() -> None:
        digest = content_digest(image)
        assert digest not in seen
        seen.add(digest)

    (app / "new").touch()
    changed()
    (app / "new").chmod(0o755)
    changed()
    (app / "link").symlink_to("nowhere")
    changed()
    (app / "link").unlink()
    (app / "link").symlink_to("elsewhere")
    changed()
    monkeypatch.setattr(module, "MAX_HASHED_BYTES", 3)
    (app / "big").write_bytes(b"1234")
    changed()
    monkeypatch.setattr(module, "MAX_FILES", 2)
    with pytest.raises(OSError, match="more than 2 files"):
        content_digest(image)
