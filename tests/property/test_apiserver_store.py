"""The store against a model: whatever is done to it, lists, the past, watches and restarts agree."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from torpor.embedded.apiserver import store as store_module
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.journal import Journal
from torpor.embedded.apiserver.store import Key, Store, Watcher

NAMES = st.sampled_from([("a", "x"), ("a", "y"), ("b", "x"), ("a-b", "z")])
COLORS = st.sampled_from(["red", "blue"])

State = dict[Key, tuple[str, int]]
"""Color and version of each object."""


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._history_changes = store_module.HISTORY_CHANGES
        store_module.HISTORY_CHANGES = 6
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory(prefix="store-")
        self.model: State = {}
        self.past: dict[int, State] = {}
        self.watchers: list[tuple[Watcher, bool, State]] = []
        self.open()

    def run(self, action: Any) -> Any:
        return self.loop.run_until_complete(action)

    def open(self) -> None:
        self.store = Store(Journal(Path(self.directory.name)))
        self.run(self.store.open())
        self.things = self.store.collection("things")
        self.past = {self.store.version: dict(self.model)}
        self.watchers = []

    def teardown(self) -> None:
        self.run(self.store.close())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        self.directory.cleanup()
        store_module.HISTORY_CHANGES = self._history_changes

    @rule(changes=st.lists(st.tuples(NAMES, COLORS), min_size=1, max_size=3, unique_by=lambda one: one[0]))
    def write(self, changes: list[tuple[tuple[str, str], str]]) -> None:
        """Several objects at once, which share a commit."""

        async def writes() -> list[Any]:
            made = []
            for (namespace, name), color in changes:
                metadata = {"namespace": namespace, "name": name, "uid": name, "labels": {"color": color}}
                obj = {"apiVersion": "v1", "kind": "Thing", "metadata": metadata}
                made.append(self.store.commit(self.things, Key(namespace, name), obj))
            return await asyncio.gather(*made)

        for record in self.run(writes()):
            self.model[record.key] = (record.labels["color"], record.version)
            self.past[record.version] = dict(self.model)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        record = self.things.get(key)
        assert record is not None
        last = self.run(self.store.commit(self.things, key, record.fresh(), delete=True))
        del self.model[key]
        self.past[last.version] = dict(self.model)

    @rule(red=st.booleans())
    def watch(self, red: bool) -> None:
        """From now on, everything or only red things."""
        match = (lambda record: record.labels["color"] == "red") if red else None
        watcher = self.things.watch(after=self.store.version, match=match)
        self.watchers.append((watcher, red, self.seen(red)))

    @rule()
    def restart(self) -> None:
        version = self.store.version
        self.run(self.store.close())
        self.open()
        assert self.store.version == max(version, 1)

    def seen(self, red: bool) -> State:
        return {key: value for key, value in self.model.items() if not red or value[0] == "red"}

    @invariant()
    def lists_agree(self) -> None:
        listed = {record.key: (record.labels["color"], record.version) for record in self.things.records()}
        assert listed == self.model
        assert [record.key for record in self.things.records()] == sorted(self.model)
        for namespace in ("a", "a-b", "b"):
            wanted = sorted(key for key in self.model if key.namespace == namespace)
            assert [record.key for record in self.things.records(namespace)] == wanted
            assert self.things.count(namespace) == len(wanted)

    @invariant()
    def the_past_is_what_it_was_or_expired(self) -> None:
        for version, model in self.past.items():
            try:
                records = self.things.records_at(version)
            except StatusError:
                assert version < self.things.since
                continue
            assert {record.key: (record.labels["color"], record.version) for record in records} == model

    @invariant()
    def watchers_arrive_at_the_present(self) -> None:
        for watcher, red, state in self.watchers:
            for event in watcher._events:
                known = event.record.key in state
                assert known is (event.type != "ADDED"), event
                if event.type == "DELETED":
                    del state[event.record.key]
                else:
                    state[event.record.key] = (event.record.labels["color"], event.record.version)
            watcher._events.clear()
            assert state == self.seen(red)


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestStore = StoreMachine.TestCase
