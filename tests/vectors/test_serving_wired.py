"""Which golden data has tests, and which has not yet: nothing is left out silently."""

import os
import re
from pathlib import Path

import pytest

NOT_YET = {
    "labeler_gc.json": "cases of kind gc: garbage collection of revisions comes with the complete Serving API",
    "route_ingress.json": "cases tls:*: certificates come with the complete Serving API",
}
"""Parts that no test checks yet, and what they wait for; the tests of these files leave them out by a predicate."""


def test_every_file_has_a_test() -> None:
    here = Path(__file__).parent
    root = Path(os.environ.get("TORPOR_VECTORS") or here.parents[1].parent / "shared" / "vectors")
    if not root.is_dir():
        pytest.skip(f"no golden vectors at {root}; set TORPOR_VECTORS")
    named: set[str] = set()
    for module in here.glob("test_serving_*.py"):
        if module != Path(__file__):
            named.update(re.findall(r"serving/([a-z_]+\.json)", module.read_text()))
    present = {path.name for path in (root / "serving").glob("*.json")}
    assert present - named == set(), "golden data that no test reads"
    assert set(NOT_YET) <= present
