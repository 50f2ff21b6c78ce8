"""Results go to stdout, talk to stderr; columns line up; colour only where it is wanted."""

import io
import json

import pytest
import yaml

from kncore.errors import KnError
from torpor.cli.output import Output, columns, emphasis, fail, name_of, progress, say, show, url_of, widths

HELLO = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "Service",
    "metadata": {"name": "hello"},
    "status": {"url": "http://hello"},
}
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_line_up_and_the_last_is_not_padded() -> None:
    text = columns([["NAME", "READY", "REASON"], ["a-long-name", "True", ""], ["b", "False", "Broken"]])
    assert text.split("\n") == [
        "NAME          READY   REASON",
        "a-long-name   True",
        "b             False   Broken",
    ]
    assert columns([]) == ""


def test_later_rows_keep_the_columns_of_the_table() -> None:
    first = [["NAME", "READY"], ["a-long-name", "True"]]
    assert columns([["b", "False"]], widths(first)) == "b             False"


@pytest.mark.parametrize(
    ("environment", "stream", "styled"),
    [
        ({}, Terminal(), True),
        ({}, io.StringIO(), False),
        ({"NO_COLOR": "1"}, Terminal(), False),
        ({"NO_COLOR": ""}, Terminal(), True),
        ({"TERM": "dumb"}, Terminal(), False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], stream: io.StringIO, styled: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert emphasis("x", "good", stream=stream) == ("\x1b[32mx\x1b[0m" if styled else "x")


def test_talk_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("working")
    fail("broken")
    with progress("waiting"):
        say("still")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "working\nerror: broken\nstill\n"


def test_names_are_kubectls() -> None:
    assert name_of(HELLO) == "service.serving.knative.dev/hello"
    assert name_of(POD) == "pod/p"


def test_urls_of_what_has_one() -> None:
    assert url_of(HELLO) == "http://hello"
    assert url_of({"status": {"address": {"url": "http://broker"}}}) == "http://broker"
    assert url_of(POD) == ""


@pytest.mark.parametrize("output", list(Output))
def test_lists_and_single_objects_in_every_form(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    for found in (HELLO, {"kind": "List", "items": [HELLO, HELLO]}):
        show(found, output)
        text = capsys.readouterr().out
        count = len(found.get("items", [found]))
        match output:
            case Output.JSON:
                assert json.loads(text) == found
            case Output.YAML:
                assert yaml.safe_load(text) == found
            case Output.NAME:
                assert text == "service.serving.knative.dev/hello\n" * count
            case Output.URL:
                assert text == "http://hello\n" * count


def test_asking_for_a_url_that_is_not_there_fails_after_telling_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KnError, match=r"no URL \(yet\): pod/p$"):
        show({"items": [POD, HELLO]}, Output.URL)
    assert capsys.readouterr().out == "http://hello\n"
