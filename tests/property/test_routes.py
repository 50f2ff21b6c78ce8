"""The routing table after any history of changes is the one that a fresh start would build."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from activator.routes import Table, compile_ingress

HOSTS = ["a.example.com", "b.example.com", "c.example.com"]
KEYS = [("one", "x"), ("one", "y"), ("two", "x"), ("one-more", "x")]


def ingress(key, created, hosts, weight=100, **extra):
    namespace, name = key
    splits = [
        {"serviceName": f"{name}-1", "serviceNamespace": namespace, "servicePort": 80, "percent": weight},
        {"serviceName": f"{name}-2", "serviceNamespace": namespace, "servicePort": 80, "percent": 100 - weight},
    ]
    path = {"splits": [split for split in splits if split["percent"]], **extra}
    rule = {"hosts": sorted(hosts), "visibility": "ExternalIP", "http": {"paths": [path]}}
    created_at = f"2024-01-01T00:00:{created:02}Z"
    return {
        "kind": "Ingress",
        "metadata": {"namespace": namespace, "name": name, "creationTimestamp": created_at},
        "spec": {"rules": [rule]},
    }


changes = st.lists(
    st.tuples(
        st.sampled_from(KEYS),
        st.one_of(
            st.none(),  # removed
            st.tuples(st.integers(0, 2), st.sets(st.sampled_from(HOSTS)), st.sampled_from([100, 90, 50])),
        ),
    ),
    max_size=12,
)


@given(changes)
@settings(deadline=None)
def test_history_does_not_matter(history) -> None:
    table = Table()
    present = {}
    for key, state in history:
        if state is None:
            present.pop(key, None)
            table.remove(key)
        else:
            present[key] = ingress(key, *state)
            table.put(present[key])
    fresh = Table()
    for one in present.values():
        fresh.put(one)
    assert {name: host.ingress for name, host in table.hosts.items()} == {
        name: host.ingress for name, host in fresh.hosts.items()
    }
    for name, host in table.hosts.items():
        claimants = [
            (one["metadata"]["creationTimestamp"], "/".join(key), key)
            for key, one in present.items()
            if name in compile_ingress(one)
        ]
        assert host.ingress == min(claimants)[2], "the oldest claim wins, the name settles ties"
    assert table.statistics() == fresh.statistics()


header_text = st.text(max_size=20)


@given(st.dictionaries(header_text, header_text, max_size=4), header_text)
@settings(deadline=None)
def test_nothing_written_into_an_ingress_breaks_a_message(headers, authority) -> None:
    made = ingress(("ns", "x"), 0, {"a.example.com"}, appendHeaders=headers, rewriteHost=authority)
    for host in compile_ingress(made).values():
        for path in host.paths:
            lines = [line for target in path.split.targets for line in target.lines]
            lines.append(b"Host: " + (path.authority or b"a.example.com"))
            for line in lines:
                name, colon, _ = line.partition(b":")
                assert colon
                assert name.strip() == name != b""
                assert not {b"\r", b"\n", b"\0"} & {bytes([byte]) for byte in line}
                if name != b"Host":
                    assert name.lower() not in {b"content-length", b"transfer-encoding", b"host", b"connection"}


@given(st.integers(0, 100))
def test_status_updates_do_not_disturb_a_split(weight: int) -> None:
    table = Table()
    made = ingress(("ns", "x"), 0, {"a.example.com"}, weight)
    picks: Counter[str] = Counter()
    for number in range(100):
        table.put({**made, "status": {"observedGeneration": number}})
        path = table.hosts["a.example.com"].paths[0]
        picks[path.split.pick().key[1]] += 1
    assert picks["x-1"] == weight
