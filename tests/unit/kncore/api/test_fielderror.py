"""The algebra of validation errors: prefixes, merging, levels, text."""

import pytest

from kncore.api.fielderror import (
    MOST,
    OK,
    FieldError,
    Level,
    each,
    generic,
    invalid_key,
    invalid_value,
    joined,
    missing,
    missing_one_of,
    multiple_one_of,
    out_of_bounds,
)


def test_nothing_wrong_is_falsy_and_silent() -> None:
    assert not OK
    assert not OK + OK.via("spec").via_index(3)
    assert OK.text() == ""


def test_callers_say_where_the_error_is() -> None:
    error = missing("name").via_index(1).via("env").via_index(0).via("containers").via("spec")
    assert error.text() == "missing field(s): spec.containers[0].env[1].name"


def test_the_object_itself_is_the_empty_field() -> None:
    assert missing("").via_index(2).via("containers").text() == "missing field(s): containers[2]"


def test_an_index_sticks_to_what_is_before_it() -> None:
    assert generic("bad", "x").via_index(0).via_index(1).via("foo").text() == "bad: foo[1][0].x"
    assert generic("bad", "x").via("a.b").via_index(0).text() == "bad: [0].a.b.x"


def test_a_key_with_dots_does_not_stick() -> None:
    error = invalid_value("x", "").via_key("example.com/size").via("metadata.annotations")
    assert error.text() == "invalid value: x: metadata.annotations.[example.com/size]"


def test_equal_messages_share_a_line_with_their_sorted_paths() -> None:
    error = missing("b") + out_of_bounds(9, 0, 5, "size") + missing("a") + missing("b")
    assert error.text() == "expected 0 <= 9 <= 5: size\nmissing field(s): a, b"


def test_details_follow_on_their_own_line_and_keep_errors_apart() -> None:
    error = invalid_value("a", "x", "too short", "too plain") + invalid_value("a", "y")
    assert error.text() == "invalid value: a: y\ninvalid value: a: x\ntoo short, too plain"


def test_an_error_about_no_field_keeps_an_empty_path() -> None:
    assert generic("multi-container is off").via("spec").text() == "multi-container is off: "


def test_warnings_are_told_apart_from_errors() -> None:
    error = missing("a").via("spec") + generic("insecure", "b").at(Level.WARNING).via("spec")
    assert error.only(Level.ERROR).text() == "missing field(s): spec.a"
    assert error.only(Level.WARNING).text() == "insecure: spec.b"


def test_the_same_message_at_two_levels_stays_two() -> None:
    both = generic("odd", "a") + generic("odd", "b").at(Level.WARNING)
    assert [(problem.level, problem.paths) for problem in both.merged()] == [
        (Level.ERROR, ("a",)),
        (Level.WARNING, ("b",)),
    ]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (missing_one_of("a", "b"), "expected exactly one, got neither: a, b"),
        (multiple_one_of("a", "b"), "expected exactly one, got both: a, b"),
        (invalid_key('a"b\n', "", "why"), 'invalid key name "a\\"b\\n": \nwhy'),
    ],
)
def test_the_stock_messages(error: FieldError, text: str) -> None:
    assert error.text() == text


def test_each_checks_a_list_item_by_item() -> None:
    error = each([1, -1, 2, -2], lambda value: OK if value > 0 else invalid_value(value, ""))
    assert error.via("sizes").text() == "invalid value: -1: sizes[1]\ninvalid value: -2: sizes[3]"


def test_a_hostile_list_is_not_checked_to_its_end() -> None:
    seen = 0

    def check(_: int) -> FieldError:
        nonlocal seen
        seen += 1
        return missing("name")

    assert len(each(range(100 * MOST), check).problems) == MOST
    assert seen == MOST
    assert len(joined(missing("a", "b") for _ in range(100 * MOST)).problems) == MOST
