"""Templates behave as Go's; expectations follow the text/template documentation."""

from typing import Any

import pytest

from kncore.gotemplate import Struct, Template, TemplateError

DATA = Struct(
    "main.Data",
    {
        "Name": "web",
        "Port": 80,
        "Ratio": 0.5,
        "Labels": {"app": "shop"},
        "Items": ["a", "b"],
        "Empty": "",
        "Header": Struct("http.Header", {"Get": lambda name: {"X-A": "1"}.get(name, "")}),
        "Count": lambda: 3,
    },
)


def render(source: str, data: Any = DATA) -> str:
    return Template("t", source).execute(data)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{.Name}}:{{.Port}}", "web:80"),
        ("{{ .Labels.app }}|{{ .Labels.nope }}", "shop|<no value>"),
        ("{{.Ratio}} {{.Count}} {{true}} {{.Items}}", "0.5 3 true [a b]"),
        ('{{.Header.Get "X-A"}}{{"X-A" | .Header.Get}}', "11"),
        ('{{printf "%s-%03d-%q-%5.1f-%v%%" .Name .Port .Name .Ratio .Items}}', 'web-080-"web"-  0.5-[a b]%'),
        ('{{.Name | printf "%s-x"}}', "web-x"),
        ('{{ index .Labels "app" }}{{ index .Labels "no" }}{{ index .Items 1 }}', "shopb"),
        ("{{if .Empty}}a{{else if .Name}}b{{else}}c{{end}}", "b"),
        ("{{if and .Name (not .Empty)}}yes{{end}}", "yes"),
        ('{{if eq .Name "api" "web"}}yes{{end}}{{if lt .Port 8080}}low{{end}}', "yeslow"),
        ("{{with .Labels}}{{.app}}{{$.Name}}{{end}}", "shopweb"),
        ("{{with .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range $i, $x := .Items}}{{$i}}={{$x}};{{end}}", "0=a;1=b;"),
        ("{{range .Items}}{{.}}{{end}}{{range .Empty2}}{{else}}-{{end}}", None),
        ('{{$n := .Name}}{{$n = print $n "!"}}{{$n}}', "web!"),
        ("a  {{- /* note */ -}}  b {{- .Name -}} c", "abwebc"),
        ('{{js "<a href=\\"x\\">\\n"}}', '\\u003Ca href\\u003D\\"x\\"\\u003E\\u000A'),
        ("{{html .Name `<&>`}} {{urlquery `a b&c`}} {{len .Name}}", "web&lt;&amp;&gt; a+b%26c 3"),
        ('{{"}}"}}', "}}"),
        ("{{println 1 2}}", "1 2\n"),
    ],
)
def test_renders(source: str, text: str | None) -> None:
    if text is None:
        with pytest.raises(TemplateError, match="can't evaluate field Empty2"):
            render(source)
    else:
        assert render(source) == text


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{.Name", "template: t:1: unclosed action"),
        ("a\n{{ if }}", "template: t:2: missing value for if"),
        ("{{if .Name}}x", "template: t:1: unexpected EOF"),
        ("{{end}}", "template: t:1: unexpected {{end}}"),
        ("{{nope .Name}}", 'template: t:1: function "nope" not defined'),
        ("{{$x}}", 'template: t:1: undefined variable "$x"'),
        ('{{"abc}}', "template: t:1: unterminated quoted string"),
        ("{{(.Name}}", "template: t:1: unclosed left paren"),
        ("{{define `x`}}{{end}}", "template: t:1: define is not supported here"),
    ],
)
def test_does_not_compile(source: str, error: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template("t", source)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{.Nope}}", 'template: t:1:2: executing "t" at <.Nope>: can\'t evaluate field Nope in type main.Data'),
        ("{{.Name.First}}", "can't evaluate field First in type string"),
        ("{{index .Items 7}}", "index out of range: 7"),
        ("{{lt .Name 3}}", "incompatible types for comparison"),
        ("{{.Name 3}}", "can't give argument to non-function .Name"),
    ],
)
def test_does_not_execute(source: str, error: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert error in str(caught.value)


def test_a_variable_ends_with_its_block() -> None:
    for source in ("{{if true}}{{$x := 1}}{{end}}{{$x}}", "{{if true}}{{$x := 1}}{{else}}{{$x}}{{end}}"):
        with pytest.raises(TemplateError, match="undefined variable"):
            Template("t", source)


def test_one_execution_does_not_see_another() -> None:
    template = Template("t", "{{range .}}{{.}}{{end}}")
    assert [template.execute(["a"]), template.execute(["b", "c"])] == ["a", "bc"]
