"""Go's `text/template`, as far as ConfigMaps use it: container names, domains, tags, request logs.

A template is compiled once into closures and executed many times (a request log line per request). Data is what the
caller hands in: mappings behave as Go maps (a missing key prints `<no value>`), a `Struct` has a fixed set of fields
(a missing one is an error, found when the template is tried out at configuration time), callables are methods.
Supported: fields, variables, pipelines, parentheses, literals, `if`/`else if`/`with`/`range`/`end`, trim markers,
comments and the built-in functions; not `define`, `template`, `block`, `break`, `continue` and `call`, which are
refused when compiling. Errors have Go's text.
"""

import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kncore.errors import KnError
from kncore.strconv import format_float, quote

__all__ = ["Struct", "Template", "TemplateError", "js_escape"]


class TemplateError(KnError):
    """The template does not parse, or asks for something its data does not have."""


class Struct:
    """A value with fixed fields.

    Args:
        type_: the Go type's name, for errors.
        fields: by name; a callable is a method, called with the template's arguments when (and only when) it is used.
    """

    __slots__ = ("fields", "type")

    def __init__(self, type_: str, fields: Mapping[str, Any]) -> None:
        self.type = type_
        self.fields = fields


class _NoValue:
    """What a missing map key yields."""


_NO_VALUE: Final = _NoValue()

_Scope = dict[str, Any]
_Eval = Callable[[Any, _Scope], Any]
_Emit = Callable[[Any, _Scope, list[str]], None]


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


_LEX: Final = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<declare>:=)|(?P<assign>=)|(?P<pipe>\|)|(?P<comma>,)|(?P<open>\()|(?P<close>\))"
    r'|(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<raw>`[^`]*`)|(?P<char>\'(?:[^\'\\\n]|\\[^\n]+?)\')'
    r"|(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+))(?![\w.])"
    r"|(?P<field>\.[^\W\d]\w*)|(?P<dot>\.)|(?P<variable>\$\w*)|(?P<ident>[^\W\d]\w*)"
)
_KEYWORDS: Final = frozenset({"if", "else", "end", "range", "with"})
_REFUSED: Final = frozenset({"define", "template", "block", "break", "continue", "call"})


class Template:
    """A compiled template.

    Args:
        name: as errors call it.
        text: the source.
    Raises:
        TemplateError: it does not parse.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self._emit = _Parser(name, text).template()

    def execute(self, data: Any) -> str:
        """The text with all actions evaluated on `data`.

        Raises:
            TemplateError: a field does not exist, a function got the wrong arguments.
        """
        out: list[str] = []
        self._emit(data, {"$": data}, out)
        return "".join(out)


class _Parser:
    """Recursive descent from source to closures.

    An `_Eval` computes a value from (dot, variables); an `_Emit` appends text to a list.
    """

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._chunks = list(self._split())
        self._next = 0
        self._tokens: list[_Token] = []
        self._pos = 0
        self._variables: list[str] = ["$"]

    # Source positions and errors

    def _line(self, at: int) -> int:
        return self._text.count("\n", 0, at) + 1

    def _error(self, at: int, why: str) -> TemplateError:
        return TemplateError(f"template: {self._name}:{self._line(at)}: {why}")

    def _failure(self, at: int, node: str, why: str) -> TemplateError:
        column = len(self._text[self._text.rfind("\n", 0, at) + 1 : at].encode())
        where = f"{self._name}:{self._line(at)}:{column}"
        return TemplateError(f'template: {where}: executing "{self._name}" at <{node}>: {why}')

    # Text and actions

    def _split(self) -> Iterator[tuple[str, str, int]]:
        """("text" | "action", source, position) in order, trim markers applied and comments dropped."""
        text, at, trim_left = self._text, 0, False
        while at < len(text):
            start = text.find("{{", at)
            literal = text[at:] if start < 0 else text[at:start]
            if trim_left:
                literal = literal.lstrip(" \t\r\n")
            if start >= 0 and re.match(r"\{\{-[ \t\r\n]", text[start:]):
                literal = literal.rstrip(" \t\r\n")
            if literal:
                yield "text", literal, at
            if start < 0:
                return
            inside = start + 2
            if re.match(r"-[ \t\r\n]", text[inside:]):
                inside += 2
            comment = re.compile(r"/\*.*?\*/[ \t\r\n]?-?\}\}", re.DOTALL).match(text, inside)
            stop = comment.end() - 2 if comment else self._action_end(inside)
            body = text[inside:stop]
            trim_left = body.endswith("-") and (len(body) == 1 or body[-2] in " \t\r\n" or bool(comment))
            if trim_left:
                body = body[:-1]
            if not comment:
                yield "action", body, inside
            at = stop + 2

    def _action_end(self, at: int) -> int:
        """Where the `}}` of an action starts: not inside a string."""
        text = self._text
        while at < len(text):
            if text.startswith("}}", at):
                return at
            if text[at] in "\"'`":
                match = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|`[^`]*`').match(text, at)
                if match is None:
                    kind = {'"': "quoted string", "'": "character constant", "`": "raw quoted string"}[text[at]]
                    raise self._error(at, f"unterminated {kind}")
                at = match.end()
            else:
                at += 1
        raise self._error(at, "unclosed action")

    def _lex(self, body: str, at: int) -> list[_Token]:
        tokens, pos = [], 0
        while pos < len(body):
            match = _LEX.match(body, pos)
            if match is None:
                raise self._error(at + pos, f"unexpected {quote(body[pos])} in command")
            tokens.append(_Token(match.lastgroup or "", match[0], at + pos))
            pos = match.end()
        tokens.append(_Token("eof", "", at + len(body)))
        return tokens

    # Grammar

    def template(self) -> _Emit:
        """The whole source."""
        emit, stop, at = self._block()
        if stop:
            raise self._error(at, f"unexpected {{{{{stop}}}}}")
        return emit

    def _block(self) -> tuple[_Emit, str, int]:
        """Statements up to `end` or `else` (or the end of the source); which of these stopped it, and where."""
        parts: list[_Emit] = []
        declared = len(self._variables)
        while self._next < len(self._chunks):
            kind, body, at = self._chunks[self._next]
            self._next += 1
            if kind == "text":
                parts.append(_literal(body))
                continue
            self._tokens, self._pos = self._lex(body, at), 0
            token = self._peek()
            if token.kind == "ident" and token.text in _REFUSED:
                raise self._error(token.at, f"{token.text} is not supported here")
            if token.kind == "ident" and token.text in _KEYWORDS:
                self._take()
                if token.text in ("end", "else"):
                    del self._variables[declared:]
                    return _sequence(parts), token.text, token.at
                parts.append(self._control(token.text))
                continue
            parts.append(self._action())
        return _sequence(parts), "", len(self._text)

    def _action(self) -> _Emit:
        names, pipeline = self._pipeline("command")
        if names:
            name = names[0]

            def assign(dot: Any, scope: _Scope, out: list[str]) -> None:
                scope[name] = pipeline(dot, scope)

            return assign

        def emit(dot: Any, scope: _Scope, out: list[str]) -> None:
            out.append(_show(pipeline(dot, scope)))

        return emit

    def _control(self, word: str) -> _Emit:
        declared = len(self._variables)
        names, pipeline = self._pipeline(word)
        body, stop, at = self._block()
        otherwise: _Emit = _sequence([])
        if stop == "else":
            follow = self._peek()
            if follow.kind == "ident" and follow.text in ("if", "with") and follow.text == word:
                self._take()
                otherwise, stop = self._control(word), "end"
            else:
                otherwise, stop, at = self._block()
        if stop != "end":
            raise self._error(at, "unexpected EOF" if not stop else f"unexpected {{{{{stop}}}}}")
        del self._variables[declared:]
        if word == "range":
            return _range(names, pipeline, body, otherwise)

        def emit(dot: Any, scope: _Scope, out: list[str]) -> None:
            value = pipeline(dot, scope)
            for name in names:
                scope[name] = value
            if _truth(value):
                body(value if word == "with" else dot, scope, out)
            else:
                otherwise(dot, scope, out)

        return emit

    def _peek(self) -> _Token:
        self._skip()
        return self._tokens[self._pos]

    def _skip(self) -> None:
        while self._tokens[self._pos].kind == "space":
            self._pos += 1

    def _take(self) -> _Token:
        token = self._peek()
        self._pos += 1
        return token

    def _pipeline(self, context: str, closing: str = "eof") -> tuple[list[str], _Eval]:
        """Declared variables, and the value of `command | command ...`."""
        names, declares = self._declaration()
        commands = [self._command(context, first=True)]
        while (token := self._take()).kind == "pipe":
            commands.append(self._command(context, first=False))
        if token.kind != closing:
            if token.kind == "eof":
                raise self._error(token.at, "unclosed left paren")
            raise self._error(token.at, f"unexpected {quote(token.text)} in {context}")
        if declares:
            self._variables.extend(names)
        first, *rest = commands

        def evaluate(dot: Any, scope: _Scope) -> Any:
            value = first(dot, scope, [])
            for command in rest:
                value = command(dot, scope, [value])
            return value

        return names, evaluate

    def _declaration(self) -> tuple[list[str], bool]:
        """`$a, $b :=` or `$a =` at the start of a pipeline, if there."""
        ahead = "".join(token.text for token in self._tokens[self._pos :] if token.kind != "space")
        match = re.match(r"(\$\w+)(?:,(\$\w+))?(:=|=)", ahead)
        if match is None:
            return [], False
        names = [name for name in match.groups()[:2] if name]
        if match[3] == "=":
            for name in names:
                if name not in self._variables:
                    raise self._error(self._peek().at, f"undefined variable {quote(name)}")
        while self._take().kind not in ("declare", "assign"):
            pass
        return names, match[3] == ":="

    def _command(self, context: str, *, first: bool) -> Callable[[Any, _Scope, list[Any]], Any]:
        """One function, method or value with its arguments; the value piped in becomes the last argument."""
        start = self._peek()
        if start.kind in ("eof", "pipe", "close"):
            raise self._error(start.at, f"missing value for {context}")
        function = None
        if start.kind == "ident" and start.text not in ("true", "false", "nil"):
            function = _FUNCTIONS.get(start.text)
            if function is None:
                raise self._error(start.at, f"function {quote(start.text)} not defined")
            self._take()
            head: _Eval = _constant(None)
        else:
            head = self._operand(context)
        arguments = []
        while self._tokens[self._pos].kind == "space" and self._peek().kind not in ("eof", "pipe", "close"):
            arguments.append(self._operand(context))
        label = self._text[start.at : self._tokens[self._pos].at].strip()
        at = start.at
        if start.kind in ("string", "raw", "number", "char", "dot") and (arguments or not first):
            raise self._error(at, f"can't give argument to non-function {start.text}")

        def evaluate(dot: Any, scope: _Scope, piped: list[Any]) -> Any:
            values = [argument(dot, scope) for argument in arguments] + piped
            try:
                if function is not None:
                    return function(*values)
                value = head(dot, scope)
                if callable(value):
                    return value(*values)
            except TemplateError:
                raise
            except (TypeError, ValueError, LookupError) as exc:
                raise self._failure(at, label, f"error calling {start.text}: {exc}") from exc
            if values:
                raise self._failure(at, label, f"can't give argument to non-function {label.split(' ')[0]}")
            return value

        return evaluate

    def _operand(self, context: str) -> _Eval:
        token = self._take()
        base: _Eval
        match token.kind:
            case "dot":
                base = _dot
            case "field":
                self._pos -= 1
                base = _dot
            case "variable":
                if token.text not in self._variables:
                    raise self._error(token.at, f"undefined variable {quote(token.text)}")
                base = _variable(token.text)
            case "string" | "raw" | "char" | "number":
                return _constant(self._constant(token))
            case "ident" if token.text in ("true", "false", "nil"):
                return _constant({"true": True, "false": False, "nil": None}[token.text])
            case "ident":
                function = _FUNCTIONS.get(token.text)
                if function is None:
                    raise self._error(token.at, f"function {quote(token.text)} not defined")
                return lambda dot, scope: function()
            case "open":
                base = self._pipeline("parenthesized pipeline", closing="close")[1]
            case _:
                raise self._error(token.at, f"unexpected {quote(token.text)} in {context}")
        return self._fields(base, token.at)

    def _fields(self, base: _Eval, start: int) -> _Eval:
        """`base` followed by the `.field`s that touch it."""
        while self._tokens[self._pos].kind == "field":
            token = self._tokens[self._pos]
            self._pos += 1
            base = self._field(base, token.text[1:], start, token.at)
        return base

    def _field(self, base: _Eval, name: str, start: int, at: int) -> _Eval:
        node = self._text[start : at + len(name) + 1]

        def evaluate(dot: Any, scope: _Scope) -> Any:
            value = base(dot, scope)
            if callable(value):
                value = value()
            if isinstance(value, Mapping):
                return value.get(name, _NO_VALUE)
            if isinstance(value, Struct) and name in value.fields:
                return value.fields[name]
            if value is None or value is _NO_VALUE:
                raise self._failure(start, node, f"nil data; no entry for key {quote(name)}")
            raise self._failure(start, node, f"can't evaluate field {name} in type {_type(value)}")

        return evaluate

    def _constant(self, token: _Token) -> Any:
        if token.kind == "raw":
            return token.text[1:-1]
        if token.kind == "number":
            text = token.text
            if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)", text):
                return int(text, 16 if "x" in text.lower() else 10)
            return float(text)
        try:
            text = _unescape(token.text[1:-1])
        except ValueError as exc:
            raise self._error(token.at, "invalid syntax") from exc
        return ord(text) if token.kind == "char" else text


# Building blocks of compiled templates


def _literal(text: str) -> _Emit:
    return lambda dot, scope, out: out.append(text)


def _sequence(parts: Sequence[_Emit]) -> _Emit:
    if len(parts) == 1:
        return parts[0]

    def emit(dot: Any, scope: _Scope, out: list[str]) -> None:
        for part in parts:
            part(dot, scope, out)

    return emit


def _constant(value: Any) -> _Eval:
    return lambda dot, scope: value


def _variable(name: str) -> _Eval:
    return lambda dot, scope: scope[name]


def _dot(dot: Any, scope: _Scope) -> Any:
    return dot


def _range(names: list[str], pipeline: _Eval, body: _Emit, otherwise: _Emit) -> _Emit:
    def emit(dot: Any, scope: _Scope, out: list[str]) -> None:
        value = pipeline(dot, scope)
        if isinstance(value, Mapping):
            pairs = sorted(value.items())
        elif isinstance(value, (list, tuple)):
            pairs = list(enumerate(value))
        elif value is None or value is _NO_VALUE:
            pairs = []
        else:
            raise TemplateError(f"range can't iterate over {_show(value)}")
        for key, item in pairs:
            if names:
                scope[names[-1]] = item
            if len(names) == 2:
                scope[names[0]] = key
            body(item, scope, out)
        if not pairs:
            otherwise(dot, scope, out)

    return emit


def _unescape(text: str) -> str:
    escapes = {
        "n": "\n",
        "t": "\t",
        "r": "\r",
        "a": "\a",
        "b": "\b",
        "f": "\f",
        "v": "\v",
        "\\": "\\",
        "'": "'",
        '"': '"',
    }

    def one(match: re.Match[str]) -> str:
        body = match[1]
        if body in escapes:
            return escapes[body]
        if body[0] in "xuU" and len(body) > 1:
            return chr(int(body[1:], 16))
        raise ValueError(body)

    return re.sub(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", one, text)


def _type(value: Any) -> str:
    if isinstance(value, Struct):
        return value.type
    return {bool: "bool", int: "int", float: "float64", str: "string"}.get(type(value), type(value).__name__)


def _truth(value: Any) -> bool:
    return value is not _NO_VALUE and (isinstance(value, Struct) or bool(value))


def _show(value: Any) -> str:
    """As `%v` prints it."""
    if callable(value):
        value = value()
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format_float(value)
    if value is _NO_VALUE:
        return "<no value>"
    if value is None:
        return "<nil>"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_show(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(_show, value)) + "]"
    if isinstance(value, Struct):
        return "{" + " ".join(_show(item) for item in value.fields.values() if not callable(item)) + "}"
    return str(value)


# Functions


_JS: Final = {
    "\\": "\\\\",
    "'": "\\'",
    '"': '\\"',
    "<": "\\u003C",
    ">": "\\u003E",
    "&": "\\u0026",
    "=": "\\u003D",
}
_JS_SPECIAL: Final = re.compile(r"[^ !#-%(-;?-\[\]-~]")
_HTML: Final = str.maketrans(
    {"&": "&amp;", "'": "&#39;", '"': "&#34;", "<": "&lt;", ">": "&gt;", "\0": "\ufffd"},
)


def js_escape(text: str) -> str:
    """`text` as it may stand inside a JavaScript (or JSON) string."""

    def one(match: re.Match[str]) -> str:
        char = match[0]
        if char in _JS:
            return _JS[char]
        if char.isprintable():
            return char
        code = ord(char)
        return f"\\u{code:04X}"

    return _JS_SPECIAL.sub(one, text)


def _print(*values: Any) -> str:
    """Values side by side, with a space between two that are both not strings."""
    out = []
    for i, value in enumerate(values):
        if i and not isinstance(value, str) and not isinstance(values[i - 1], str):
            out.append(" ")
        out.append(_show(value))
    return "".join(out)


_VERB: Final = re.compile(r"%([-+# 0]*)([0-9]*)(?:\.([0-9]*))?(.)", re.DOTALL)


def _printf(pattern: str, *values: Any) -> str:
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        value = rest.pop(0)
        if callable(value):
            value = value()
        python = "%" + flags + width + (f".{precision}" if precision is not None else "")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        match verb:
            case "v" | "s" if verb == "v" or isinstance(value, str):
                return (python + "s") % _show(value)
            case "q" if isinstance(value, str):
                return (python + "s") % quote(value)
            case "t" if isinstance(value, bool):
                return _show(value)
            case "d" if isinstance(value, int) and number:
                return (python + "d") % value
            case "f" | "e" | "g" | "E" | "G" if isinstance(value, float):
                return (python + verb) % value
            case "x" | "X" | "o" if isinstance(value, int) and number:
                return (python + verb) % value
            case "x" if isinstance(value, str):
                return value.encode().hex()
            case "c" if isinstance(value, int) and number:
                return chr(value)
            case _:
                return f"%!{verb}({_type(value)}={_show(value)})"

    out = _VERB.sub(one, pattern)
    if rest:
        out += "%!(EXTRA " + ", ".join(f"{_type(value)}={_show(value)}" for value in rest) + ")"
    return out


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, "")
        elif isinstance(value, (list, tuple, str)):
            if not isinstance(key, int) or not 0 <= key < len(value):
                raise ValueError(f"index out of range: {_show(key)}")
            value = value[key]
        elif value is None or value is _NO_VALUE:
            raise ValueError("index of nil pointer")
        else:
            raise ValueError(f"can't index item of type {_type(value)}")
    return value


def _and(*values: Any) -> Any:
    for value in values:
        if not _truth(value):
            return value
    return values[-1]


def _or(*values: Any) -> Any:
    for value in values:
        if _truth(value):
            return value
    return values[-1]


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(a: Any, b: Any) -> bool:
        if isinstance(a, str) != isinstance(b, str):
            raise ValueError("incompatible types for comparison")
        return test(a, b)

    return compare


_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "and": _and,
    "or": _or,
    "not": lambda value: not _truth(value),
    "len": len,
    "index": _index,
    "slice": lambda value, *bounds: value[slice(*bounds) if len(bounds) != 1 else slice(bounds[0], None)],
    "print": _print,
    "println": lambda *values: " ".join(map(_show, values)) + "\n",
    "printf": _printf,
    "html": lambda *values: _print(*values).translate(_HTML),
    "js": lambda *values: js_escape(_print(*values)),
    "urlquery": lambda *values: urllib.parse.quote_plus(_print(*values), safe="-_.~"),
    "eq": lambda a, *others: any(type(a) is type(b) and a == b for b in others),
    "ne": _ordered(lambda a, b: a != b),
    "lt": _ordered(lambda a, b: a < b),
    "le": _ordered(lambda a, b: a <= b),
    "gt": _ordered(lambda a, b: a > b),
    "ge": _ordered(lambda a, b: a >= b),
}
