import pytest

from kncore.quantity import Quantity, format_duration, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1000m", "1"),
        ("1.5", "1500m"),
        ("0.0001", "100u"),
        ("1024Ki", "1Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("1000", "1k"),
        ("1e3", "1e3"),
        ("1E", "1E"),
        ("1000E", "1000E"),
        (".5", "500m"),
        ("5.", "5"),
        ("+2", "2"),
        ("-1.5", "-1500m"),
        ("0Gi", "0"),
        ("0.1n", "1n"),  # something rather than nothing
        ("16Ei", "9223372036854775807"),  # the original's cap
    ],
)
def test_quantities_print_canonically(text: str, canonical: str) -> None:
    assert str(parse_quantity(text)) == canonical


@pytest.mark.parametrize("text", ["", "abc", "1 Gi", "1.2.3", "--1", "Gi", ".", "1Zi", "1ei", "1e", "1e9999999"])
def test_bad_quantities_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantit"):
        parse_quantity(text)


def test_quantities_that_yaml_made_numbers_of() -> None:
    assert parse_quantity(2) == parse_quantity("2")
    assert parse_quantity(0.5) == parse_quantity("500m")


def test_quantity_rounds_up_to_units() -> None:
    quantity = parse_quantity("1001u")
    assert (quantity.value(), quantity.milli()) == (1, 2)
    assert (parse_quantity("-1500m").value(), parse_quantity("-1500m").milli()) == (-1, -1500)


def test_equal_amounts_are_one_key() -> None:
    assert {parse_quantity("1Ki"): "a"}[parse_quantity("1024")] == "a"
    assert parse_quantity("1Ki") != "1Ki"
    assert Quantity.of(3) - Quantity.of_milli(500) == parse_quantity("2.5")
    assert not Quantity(0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h2m3.5s", 3723.5), ("-1.5h", -5400), ("0", 0), ("+5s", 5), ("1m0.25s", 60.25)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("60", 'time: missing unit in duration "60"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("", 'time: invalid duration ""'),
        ("1s\n", 'time: unknown unit "s\\n" in duration "1s\\n"'),
        (".s", 'time: invalid duration ".s"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
    ],
)
def test_bad_durations_have_gos_text(text: str, error: str) -> None:
    with pytest.raises(ValueError, match="time: ") as caught:
        parse_duration(text)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (1e-9, "1ns"), (0.0001, "100µs"), (1.5, "1.5s"), (60, "1m0s"), (3600, "1h0m0s"), (-90, "-1m30s")],
)
def test_durations_print_as_gos(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
