"""Derived names and condition sums hold for any input."""

from hypothesis import given
from hypothesis import strategies as st

from kncore.api.conditions import Conditions, ConditionSet
from kncore.api.names import child_name, choose_subset

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", fullmatch=True)


@given(parent=LABEL, suffix=st.just("") | LABEL.map(lambda text: "-" + text))
def test_child_name_fits_a_label(parent: str, suffix: str) -> None:
    name = child_name(parent, suffix)
    assert 0 < len(name) <= 63
    assert name[-1].isalnum()
    if len(parent + suffix) <= 63:
        assert name == parent + suffix


MEMBERS = st.lists(st.from_regex(r"[a-z0-9.]{1,12}", fullmatch=True), unique=True, max_size=40)


@given(members=MEMBERS, n=st.integers(0, 45), target=st.text(max_size=20))
def test_subset_has_n_members_whatever_their_order(members: list[str], n: int, target: str) -> None:
    chosen = choose_subset(members, n, target)
    assert chosen <= set(members)
    assert len(chosen) == min(n, len(members))
    assert choose_subset(members[::-1], n, target) == chosen


DEPENDENTS = ("A", "B", "C")
MARKS = st.lists(
    st.tuples(st.sampled_from(DEPENDENTS), st.sampled_from(["True", "False", "Unknown"]), st.sampled_from(["", "R"])),
    max_size=25,
)


@given(MARKS)
def test_ready_is_what_its_dependents_are(marks: list[tuple[str, str, str]]) -> None:
    status: dict[str, object] = {}
    for second, (type_, value, reason) in enumerate(marks):
        conditions = Conditions(ConditionSet(DEPENDENTS), status, f"2024-01-01T00:00:{second:02d}Z")
        conditions.initialize()
        match value:
            case "True":
                conditions.mark_true(type_)
            case "False":
                conditions.mark_false(type_, reason, "")
            case "Unknown":
                conditions.mark_unknown(type_, reason, "")
        states = [(conditions.get(dependent) or {})["status"] for dependent in DEPENDENTS]
        worst = "False" if "False" in states else "Unknown" if "Unknown" in states else "True"
        assert (conditions.get("Ready") or {})["status"] == worst
