"""Quantities, durations, numbers and templates: what is printed reads back, what is read is exact."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kncore.gotemplate import Template, TemplateError
from kncore.quantity import (
    Quantity,
    format_duration_ns,
    parse_duration,
    parse_duration_ns,
    parse_quantity,
)
from kncore.strconv import format_float, parse_float, parse_int, quote

POWERS = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(1000),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "e3": Fraction(1000),
    "E-3": Fraction(1, 1000),
}
AMOUNTS = st.decimals(0, 10**6, places=6).map(lambda d: format(d, "f"))


@given(sign=st.sampled_from(["", "+", "-"]), amount=AMOUNTS, suffix=st.sampled_from(sorted(POWERS)))
def test_quantity_is_exact_to_a_billionth(sign: str, amount: str, suffix: str) -> None:
    read = parse_quantity(sign + amount + suffix)
    exact = Fraction(amount) * POWERS[suffix] * 10**9
    assert abs(read.nanos) == math.ceil(exact)
    assert (read.nanos < 0) == (sign == "-" and exact > 0)


@given(st.integers(-(2**62), 2**62), st.sampled_from(["BinarySI", "DecimalSI", "DecimalExponent"]))
def test_quantity_reads_back(nanos: int, style: str) -> None:
    quantity = Quantity(nanos, style)  # type: ignore[arg-type]
    text = str(quantity)
    read = parse_quantity(text)
    assert read == quantity
    assert str(read) == text
    assert "." not in text


@given(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
def test_quantity_order_is_that_of_amounts(a: int, b: int) -> None:
    left, right = Quantity(a, "BinarySI"), Quantity(b)
    assert (left < right, left == right, left > right) == (a < b, a == b, a > b)
    assert left.value() == math.ceil(Fraction(a, 10**9))
    assert left.milli() == math.ceil(Fraction(a, 10**6))
    assert (left + right).nanos == a + b


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_duration_reads_back(ns: int) -> None:
    assert parse_duration_ns(format_duration_ns(ns)) == ns


UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
TERMS = st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(sorted(UNITS))), min_size=1, max_size=4)


@given(TERMS)
def test_duration_adds_up(terms: list[tuple[int, str]]) -> None:
    text = "".join(f"{n}{unit}" for n, unit in terms)
    assert parse_duration_ns(text) == sum(n * UNITS[unit] for n, unit in terms)
    assert parse_duration(text) == pytest.approx(sum(n * UNITS[unit] for n, unit in terms) / 1e9)


@given(st.floats(allow_nan=False))
def test_float_reads_back(value: float) -> None:
    assert parse_float(format_float(value)) == value


@given(st.text(max_size=12))
def test_bad_numbers_are_value_errors_that_quote_the_text(text: str) -> None:
    for parse in (parse_int, parse_float, parse_quantity, parse_duration_ns):
        try:
            parse(text)
        except ValueError as exc:
            assert quote(text) in str(exc) or "quantit" in str(exc)  # noqa: PT017  # both outcomes are fine


@given(st.text(st.characters(codec="utf-8"), max_size=30).filter(lambda text: "{{" not in text))
def test_text_without_actions_is_itself(text: str) -> None:
    assert Template("t", text).execute({}) == text


FRAGMENTS = st.sampled_from(
    [
        *("{{", "}}", "-", " ", "\n", ".", ".A", "$", "$x", ":=", "=", "|", ",", "(", ")", '"', "`", "'", "/*", "*/"),
        *("if", "else", "end", "range", "with", "printf", "index", "not", "len", "nil", "true", "1", "1.5", "x"),
    ]
)


@given(st.lists(FRAGMENTS, max_size=14).map("".join))
def test_any_template_compiles_or_says_why(source: str) -> None:
    try:
        Template("t", source).execute({"A": ["x", {"B": 1}]})
    except TemplateError as exc:
        assert str(exc)  # noqa: PT017  # both outcomes are fine
