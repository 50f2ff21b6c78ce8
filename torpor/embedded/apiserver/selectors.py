"""Label and field selectors: the text a client sends, as a predicate.

Parsing happens once per request; the predicate then runs for every object of a list and every event of a watch, so
each requirement is a small tuple and matching allocates nothing. Grammar and error texts follow apimachinery
(`pkg/labels/selector.go`, `pkg/fields/selector.go`): `kubectl -l` shows the server's text to whoever mistyped it.

Field selectors are a plain conjunction of (dotted path, value). Which paths a kind offers is the caller's knowledge
(`Kind.fields`); a path outside `allowed` is refused instead of silently matching nothing.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FieldSelector", "LabelSelector", "Requirement", "matches", "parse_fields", "parse_labels"]

_SYMBOLS = frozenset({"!", "=", "==", "!=", "in", "notin", "(", ")", ",", "<", ">"})
_SPECIAL = frozenset("=!(),><")
_SPACE = frozenset(" \t\r\n")
_BINARY = {"in": "in", "notin": "notin", "=": "=", "==": "=", "!=": "!=", ">": "gt", "<": "lt"}

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME_RULE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_PREFIX_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label; `operator` is `=`, `!=`, `in`, `notin`, `exists`, `!`, `gt` or `lt`."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy it; `!=` and `notin` hold for an absent key, `gt` and `lt` do not."""
        value = labels.get(self.key)
        match self.operator:
            case "=" | "in":
                return value is not None and value in self.values
            case "!=" | "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        number = _integer(value or "")
        bound = _integer(next(iter(self.values)))
        if number is None or bound is None:
            return False
        return number > bound if self.operator == "gt" else number < bound


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements of one selector; call it with a label map. An empty selector matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def __call__(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All terms of one field selector, each (path, value, wanted equal); call it with an object."""

    terms: tuple[tuple[str, str, bool], ...] = ()

    def __call__(self, obj: Mapping[str, Any]) -> bool:
        return all((_field(obj, path) == value) is equal for path, value, equal in self.terms)

    def exact(self, path: str) -> str | None:
        """The only value `path` may have, when the selector pins it: lets a list by name skip the scan."""
        return next((value for term, value, equal in self.terms if equal and term == path), None)


def parse_labels(text: str) -> LabelSelector:
    """A label selector from its text, e.g. `app=x,tier in (a, b),!canary`.

    Raises:
        ValueError: with Kubernetes' text, when the grammar, a key or a value is wrong.
    """
    return LabelSelector(tuple(_Parser(text).requirements()))


def parse_fields(text: str, allowed: Collection[str] | None = None) -> FieldSelector:
    """A field selector from its text, e.g. `metadata.name=x,status.phase!=Running`; `\\` escapes `,`, `=` and itself.

    Args:
        allowed: paths the kind can be selected by; None allows all.
    Raises:
        ValueError: with Kubernetes' text, when a term has no operator, an escape is wrong, or a path is not allowed.
    """
    terms = []
    for term in _split_unescaped(text):
        if not term:
            continue
        found = re.match(r"((?:\\.|[^\\=!])*?)(!=|==|=)", term, re.DOTALL)
        if found is None:
            raise ValueError(f"invalid selector: '{text}'; can't understand '{term}'")
        path, operator = found[1], found[2]
        value = _unescape(term[found.end() :])
        if allowed is not None and path not in allowed:
            raise ValueError(f"field label not supported: {path}")
        terms.append((path, value, operator != "!="))
    return FieldSelector(tuple(terms))


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a `LabelSelector` object selects labels; None selects nothing, `{}` everything.

    Raises:
        ValueError: an operator that does not exist.
    """
    if selector is None:
        return False
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or ():
        operator = _EXPRESSIONS.get(expression.get("operator", ""))
        if operator is None:
            raise ValueError(f'"{expression.get("operator", "")}" is not a valid label selector operator')
        if not Requirement(expression["key"], operator, frozenset(expression.get("values") or ())).matches(labels):
            return False
    return True


_EXPRESSIONS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


class _Parser:
    """Recursive descent over the tokens of one label selector, with one token of look-ahead.

    A token is (kind, text): kind is the symbol itself, `id` for anything else, empty at the end. `in` and `notin` are
    operators only where an operator may stand; elsewhere they are ordinary identifiers.
    """

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def requirements(self) -> Iterator[Requirement]:
        while True:
            kind, text = self._peek()
            if kind == "":
                return
            if kind not in ("id", "!"):
                raise ValueError(f"found '{text}', expected: !, identifier, or 'end of string'")
            try:
                yield self._requirement()
            except ValueError as error:
                raise ValueError(f"unable to parse requirement: {error}") from None
            kind, text = self._take()
            if kind == "":
                return
            if kind != ",":
                raise ValueError(f"found '{text}', expected: ',' or 'end of string'")
            kind, text = self._peek()
            if kind not in ("id", "!"):
                raise ValueError(f"found '{text}', expected: identifier after ','")

    def _requirement(self) -> Requirement:
        kind, key = self._take()
        absent = kind == "!"
        if absent:
            kind, key = self._take()
        if kind != "id":
            raise ValueError(f"found '{key}', expected: identifier")
        _check_key(key)
        if absent:
            return Requirement(key, "!")
        if self._peek()[0] in ("", ","):
            return Requirement(key, "exists")
        kind, text = self._take(operator=True)
        operator = _BINARY.get(kind)
        if operator is None:
            raise ValueError(f"found '{text}', expected: in, notin, =, ==, !=, gt, lt")
        values = self._values() if operator in ("in", "notin") else {self._exact()}
        if not values:
            raise ValueError("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty")
        if operator in ("gt", "lt") and _integer(next(iter(values))) is None:
            value = next(iter(values))
            rule = "for 'Gt', 'Lt' operators, the value must be an integer"
            raise ValueError(f'values[0]: Invalid value: "{value}": {rule}')
        for index, value in enumerate(sorted(values)):
            _check_value(key, index, value)
        return Requirement(key, operator, frozenset(values))

    def _exact(self) -> str:
        if self._peek()[0] in ("", ","):
            return ""
        kind, text = self._take()
        if kind != "id":
            raise ValueError(f"found '{text}', expected: identifier")
        return text

    def _values(self) -> set[str]:
        """`(a, b)`; as upstream, an empty place between commas is the empty value and `()` is the empty set."""
        kind, text = self._take()
        if kind != "(":
            raise ValueError(f"found '{text}' expected: '('")
        if self._peek()[0] == ")":
            self._take()
            return set()
        if self._peek()[0] not in ("id", ","):
            raise ValueError(f"found '{self._peek()[1]}', expected: ',', ')' or identifier")
        values: set[str] = set()
        pending = ""
        while True:
            kind, text = self._take()
            if kind == "id":
                values.add(text)
                kind, text = self._take()
                if kind == ")":
                    return values
                if kind != ",":
                    raise ValueError(f"found '{text}', expected: ',' or ')'")
                pending = ","
            elif kind == ",":
                values.add("")
                pending = ","
            elif kind == ")" and pending:
                return values | {""}
            else:
                raise ValueError(f"found '{text}', expected: ',', or identifier")

    def _peek(self) -> tuple[str, str]:
        return self._as_value(self._tokens[min(self._at, len(self._tokens) - 1)])

    def _take(self, *, operator: bool = False) -> tuple[str, str]:
        token = self._tokens[min(self._at, len(self._tokens) - 1)]
        self._at += 1
        return token if operator else self._as_value(token)

    @staticmethod
    def _as_value(token: tuple[str, str]) -> tuple[str, str]:
        return ("id", token[1]) if token[0] in ("in", "notin") else token


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Tokens of a label selector, ending with ("", ""); symbols are the longest that match."""
    at, end = 0, len(text)
    while at < end:
        char = text[at]
        if char in _SPACE:
            at += 1
        elif char in _SPECIAL:
            symbol = text[at : at + 2] if text[at : at + 2] in _SYMBOLS else char
            yield symbol, symbol
            at += len(symbol)
        else:
            start = at
            while at < end and text[at] not in _SPACE and text[at] not in _SPECIAL:
                at += 1
            word = text[start:at]
            yield (word if word in _SYMBOLS else "id"), word
    yield "", ""


def _check_key(key: str) -> None:
    """Raise ValueError unless key is a qualified name: optional DNS prefix and slash, then at most 63 characters."""
    prefix, slash, name = key.rpartition("/")
    faults = []
    if "/" in prefix:
        faults.append(
            f"a qualified name {_NAME_RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        )
    else:
        if slash and not prefix:
            faults.append("prefix part must be non-empty")
        elif len(prefix) > 253:
            faults.append("prefix part must be no more than 253 bytes")
        elif prefix and _PREFIX.fullmatch(prefix) is None:
            faults.append(f"prefix part {_PREFIX_RULE}")
        if not name:
            faults.append("name part must be non-empty")
        elif len(name) > 63:
            faults.append("name part must be no more than 63 bytes")
        if _NAME.fullmatch(name) is None:
            faults.append(f"name part {_NAME_RULE}")
    if faults:
        # upstream has no path at this point and prints it as Go prints a nil path
        raise ValueError(f'<nil>: Invalid value: "{key}": {"; ".join(faults)}')


def _check_value(key: str, index: int, value: str) -> None:
    faults = []
    if len(value) > 63:
        faults.append("must be no more than 63 bytes")
    if value and _NAME.fullmatch(value) is None:
        faults.append(_VALUE_RULE)
    if faults:
        raise ValueError(f'values[{index}][{key}]: Invalid value: "{value}": {"; ".join(faults)}')


def _integer(text: str) -> int | None:
    """A 64-bit integer as Go's ParseInt reads it, or None."""
    if re.fullmatch(r"[+-]?[0-9]{1,19}", text, re.ASCII) is None:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


def _split_unescaped(text: str) -> list[str]:
    """The terms of a field selector: split at commas that no backslash precedes."""
    terms, start, at = [], 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == ",":
            terms.append(text[start:at])
            start = at + 1
        at += 1
    terms.append(text[start:])
    return terms


def _unescape(value: str) -> str:
    made, at = [], 0
    while at < len(value):
        char = value[at]
        if char == "\\":
            at += 1
            following = value[at : at + 1]
            if following not in ("\\", ",", "="):
                raise ValueError(f"invalid field selector: invalid escape sequence: \\{following}")
            char = following
        elif char in ",=":
            raise ValueError(f"invalid field selector: unescaped character in value: {ord(char)}")
        made.append(char)
        at += 1
    return "".join(made)


def _field(obj: Mapping[str, Any], path: str) -> str:
    """The value at a dotted path as the text a selector compares; absent is empty, booleans are `true`/`false`."""
    node: Any = obj
    for part in path.split("."):
        if not isinstance(node, Mapping):
            return ""
        node = node.get(part)
    if node is None or isinstance(node, Mapping | list):
        return ""
    if isinstance(node, bool):
        return "true" if node else "false"
    return str(node)
