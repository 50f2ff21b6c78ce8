"""Manifests as people write them, and their mistakes with the place."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from torpor.cli import manifests
from torpor.cli.manifests import BadManifest, read

SERVICE = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: {name}\n"


def file(tmp_path: Path, content: str | bytes, name: str = "m.yaml") -> str:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def names(found: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [obj["metadata"]["name"] for _, obj in found]


def test_documents_come_in_order_with_their_line(tmp_path: Path) -> None:
    text = SERVICE.format(name="a") + "---\n# nothing\n---\n" + SERVICE.format(name="b")
    found = read([file(tmp_path, text)])
    assert names(found) == ["a", "b"]
    assert [where.rpartition(":")[2] for where, _ in found] == ["1", "8"]


def test_one_document_is_named_by_its_file(tmp_path: Path) -> None:
    path = file(tmp_path, "# a comment\n" + SERVICE.format(name="a"))
    assert read([path])[0][0] == path


def test_a_directory_is_read_in_order_without_what_lies_below(tmp_path: Path) -> None:
    file(tmp_path, SERVICE.format(name="b"), "b.yml")
    file(tmp_path, SERVICE.format(name="a"), "a.yaml")
    file(tmp_path, json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}), "c.json")
    file(tmp_path, "not read", "notes.txt")
    (tmp_path / "below").mkdir()
    file(tmp_path / "below", SERVICE.format(name="d"))
    assert names(read([str(tmp_path)])) == ["a", "b", "c"]


def test_lists_are_unpacked(tmp_path: Path) -> None:
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [item, {**item, "metadata": {"name": "d"}}]})
    assert names(read([file(tmp_path, text)])) == ["c", "d"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SERVICE.format(name="a").encode())))
    assert names(read(["-"])) == ["a"]


def test_scalars_are_read_as_kubectl_reads_them(tmp_path: Path) -> None:
    text = SERVICE.format(name="a") + "data:\n  time: 12:30\n  day: 2024-01-01\n  octal: 0777\n  yes: on\n  x: 1.5\n"
    ((_, obj),) = read([file(tmp_path, text.replace("yes:", "'yes':"))])
    assert obj["data"] == {"time": "12:30", "day": "2024-01-01", "octal": 511, "yes": True, "x": 1.5}


def test_json_keeps_characters_beyond_sixteen_bits(tmp_path: Path) -> None:
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "\U0001f600"}}
    assert read([file(tmp_path, json.dumps(obj), "m.json")])[0][1] == obj


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        ("a: 1\n  b: 2\n", ":2:4", "mapping values are not allowed"),
        ("a: [1\n", ":2:1", "did not find expected"),
        ("\ta: 1\n", ":1:1", "cannot start any token"),
        (SERVICE.format(name="a") + "  name: b\n", ":5:3", "key name twice"),
        (b"a: \xff\n", ":1", "not UTF-8"),
        ("- a\n", "", "found a list"),
        ("just text\n", "", "found the str 'just text'"),
        ("kind: Service\n", "", "apiVersion is missing"),
        ("apiVersion: v1\nkind: 5\n", "", "kind is missing"),
        ("apiVersion: v1\nkind: Pod\n", "", "Pod without metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: x\n", "", "Pod without metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n", "", "put 7 in quotes"),
        (SERVICE.format(name="a") + "data: {1: x}\n", "", "key 1 in data must be in quotes"),
        (SERVICE.format(name="a") + "data: !!binary aGk=\n", "", "data is not something JSON can hold"),
        (SERVICE.format(name="a") + "data: !!python/name:os.system\n", ":5:7", "could not determine a constructor"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, content: str | bytes, place: str, says: str) -> None:
    path = file(tmp_path, content)
    with pytest.raises(BadManifest) as caught:
        read([path])
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_the_second_document_names_its_line(tmp_path: Path) -> None:
    path = file(tmp_path, SERVICE.format(name="a") + "---\napiVersion: v1\nkind: Pod\n")
    with pytest.raises(BadManifest, match=r":6: Pod without metadata.name"):
        read([path])


def test_the_second_file_is_read_before_the_first_is_used(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match=r"absent\.yaml: No such file"):
        read([file(tmp_path, SERVICE.format(name="a")), str(tmp_path / "absent.yaml")])


def test_nothing_to_do_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="no objects in"):
        read([file(tmp_path, "# nothing\n---\n")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadManifest, match=r"no \.yaml"):
        read([str(tmp_path / "empty")])


def test_urls_are_not_taken_for_files() -> None:
    with pytest.raises(BadManifest, match="URLs are not read"):
        read(["https://example.com/serving-core.yaml"])


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    "bomb", [LAUGHS, "data: &x [*x]\n", "data: " + "[" * 300 + "]" * 300 + "\n"], ids=["laughs", "loop", "depth"]
)
def test_aliases_do_not_unfold_without_end(tmp_path: Path, bomb: str) -> None:
    with pytest.raises(BadManifest, match=r"unfolds|nested"):
        read([file(tmp_path, SERVICE.format(name="a") + bomb)])


def test_a_deep_document_is_refused_not_crashed_on(tmp_path: Path) -> None:
    with pytest.raises(BadManifest):
        read([file(tmp_path, "[" * 20_000)])


def test_a_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_BYTES", 1 << 20)
    with pytest.raises(BadManifest, match="larger than 1 MiB"):
        read(["/dev/zero"])
