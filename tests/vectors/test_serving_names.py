"""Child names and domain choice (vectors 12); the URL part is tested with the route controller."""

from typing import Any

from kncore.api.names import child_name
from kncore.config.domain import Domain


def test_child_name(vectors: Any) -> None:
    failed = []
    for case in vectors("serving/names_urls.json")["cases"]:
        if case["fn"] == "childname" and (got := child_name(case["parent"], case["suffix"])) != case["expect"]:
            failed.append(f"{case['id']}: {case['parent']} {case['suffix']}: {got} != {case['expect']}")
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:10])


def test_domain_lookup(vectors: Any) -> None:
    failed = []
    for case in vectors("serving/names_urls.json")["cases"]:
        if case["fn"] != "domain_lookup":
            continue
        domain = Domain.parse(case["config"]["config-domain"])
        got = [domain.lookup(labels or {}) for labels in case["label_sets"]]
        if got != case["expect"]:
            failed.append(f"{case['id']}: {got} != {case['expect']}")
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:10])
