import math

import pytest

from kncore.strconv import format_float, parse_bool, parse_float, parse_int, parse_uint, quote


def test_integers() -> None:
    assert (parse_int("+3"), parse_int("-007"), parse_int("2147483647", 32)) == (3, -7, 2147483647)
    assert parse_uint("18446744073709551615") == 2**64 - 1


@pytest.mark.parametrize("text", ["", " 7", "1.5", "0x10", "1e3", "1_0", "٣", "--1", "1\n"])
def test_bad_integers(text: str) -> None:
    with pytest.raises(ValueError, match="invalid syntax"):
        parse_int(text)


@pytest.mark.parametrize("text", ["2147483648", "-2147483649", "9" * 9000, "-" + "9" * 9000])
def test_integers_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match="value out of range"):
        parse_int(text, 32)


def test_many_leading_zeros_are_not_out_of_range() -> None:
    assert parse_int("-" + "0" * 5000 + "12", 32) == -12


def test_floats() -> None:
    assert [parse_float(text) for text in ("1e3", ".5", "5.", "1_0.2_5e0_1", "0x_1p-2", "-Inf", "infinity")] == [
        *(1000, 0.5, 5, 102.5, 0.25),
        *(-math.inf, math.inf),
    ]
    assert math.isnan(parse_float("nAn"))
    with pytest.raises(ValueError, match="value out of range"):
        parse_float("1e999")


@pytest.mark.parametrize("text", ["", "abc", "1,5", " 3", "1e", "+nan", "0x10", "1__0", "_1", "1_.5", "."])
def test_bad_floats(text: str) -> None:
    with pytest.raises(ValueError, match=r"strconv.ParseFloat: parsing .*: invalid syntax"):
        parse_float(text)


@pytest.mark.parametrize("text", ["yes", "TRUE ", "", "tRUE"])
def test_bad_booleans(text: str) -> None:
    assert parse_bool("t")
    assert not parse_bool("FALSE")
    with pytest.raises(ValueError, match=r"strconv\.ParseBool"):
        parse_bool(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.5, "0.5"),
        (1e20, "1" + "0" * 20),
        (1e21, "1e+21"),
        (1e-4, "0.0001"),
        (1e-5, "1e-05"),
        (-0.0, "-0"),
        (math.inf, "+Inf"),
        (5e-324, "5e-324"),
        (0.1 + 0.2, "0.30000000000000004"),
        (-1234.5, "-1234.5"),
    ],
)
def test_floats_print_as_gos(value: float, text: str) -> None:
    assert format_float(value) == text


def test_quote_escapes_what_does_not_print() -> None:
    assert quote('a"b\\\n\x00\u200b\U000e0001é') == r'"a\"b\\\n\x00\u200b\U000e0001é"'
