"""What an error message says about a change."""

from kncore.api.changes import changes


def test_equal_values_have_no_changes() -> None:
    assert changes({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) == ""


def test_each_change_is_named_where_it_is() -> None:
    old = {"image": "a:1", "env": [{"name": "A", "value": "1"}], "gone": True}
    new = {"image": "a:2", "env": [{"name": "A", "value": "ü"}], "fresh": {}}
    assert changes(old, new) == (
        '\tenv[0].value:\n\t-: "1"\n\t+: "ü"\n\tfresh:\n\t+: {}\n\tgone:\n\t-: true\n\timage:\n\t-: "a:1"\n\t+: "a:2"'
    )


def test_a_list_of_another_length_is_shown_whole() -> None:
    assert changes({"args": ["a"]}, {"args": ["a", "b"]}) == '\targs:\n\t-: ["a"]\n\t+: ["a", "b"]'


def test_many_changes_are_cut() -> None:
    said = changes({str(number): 0 for number in range(100)}, {str(number): 1 for number in range(100)})
    assert said.count("+:") == 20
    assert said.endswith("\n\t...")
