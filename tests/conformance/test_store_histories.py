"""Any history of commits, against a dict: each read, and each change that each watcher gets, is a state that was."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from meshagent.errors import Conflict
from meshagent.store import open_store
from meshagent.store.base import Changes, Delete, Expect, Operation, Put, Scope, Store
from tests.conformance.conftest import Provider
from tests.conformance.mirror import PATIENCE, Mirror, values_of

pytestmark = pytest.mark.conformance

NAMES = ("a", "a/b", "a/b/c", "a/d", "ab", "b/a", "b/c")
SCOPES = ("", "a", "a/", "a/b", "a/b/", "b/", "ab", "c/")
WRITES = st.dictionaries(st.sampled_from(NAMES), st.none() | st.binary(max_size=3), max_size=4)
EXPECTATIONS = st.dictionaries(st.sampled_from(NAMES), st.booleans(), max_size=2)

State = Mapping[str, bytes]


class Watcher:
    """A watch and the mirror that it feeds."""

    def __init__(self, prefixes: list[str], state: State, watch: AsyncIterator[Changes]) -> None:
        self.prefixes = prefixes
        self.scope = Scope.of(prefixes)
        self.mirror = Mirror({key: value for key, value in state.items() if key in self.scope})
        self.watch = watch


class StoreMachine(RuleBasedStateMachine):
    """One store, written at random and watched from random revisions."""

    provider: Provider
    tree: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = f"{self.tree}h-{secrets.token_hex(6)}/"
        self.store: Store = self.runner.run(open_store(self.provider.url, self.provider.access))
        self.watchers: list[Watcher] = []
        self.revisions: dict[str, int] = {}
        # What was there from each revision on; the newest comes last.
        self.history: list[tuple[int, State]] = []

    @initialize()
    def begin(self) -> None:
        self.history.append((self.runner.run(self.store.read(self.root)).revision, {}))

    @rule(writes=WRITES, expectations=EXPECTATIONS)
    def commit(self, writes: dict[str, bytes | None], expectations: dict[str, bool]) -> None:
        operations: list[Operation] = []
        for name, right in expectations.items():
            found = self.revisions.get(self.root + name, 0)
            operations.append(Expect(self.root + name, found if right else found + 1))
        for name, value in writes.items():
            key = self.root + name
            operations.append(Delete(key) if value is None else Put(key, value))
        if not all(expectations.values()):
            with pytest.raises(Conflict):
                self.runner.run(self.store.commit(operations))
            return
        self.note(operations, self.runner.run(self.store.commit(operations)))

    def note(self, operations: list[Operation], revision: int) -> None:
        state = dict(self.history[-1][1])
        for operation in operations:
            if isinstance(operation, Put):
                state[operation.key] = operation.value
                self.revisions[operation.key] = revision
            elif isinstance(operation, Delete):
                state.pop(operation.key, None)
                self.revisions.pop(operation.key, None)
        self.history.append((revision, state))

    @rule(scopes=st.lists(st.sampled_from(SCOPES), min_size=1, max_size=3), back=st.integers(0, 5))
    def watch(self, scopes: list[str], back: int) -> None:
        revision, state = self.history[max(0, len(self.history) - 1 - back)]
        prefixes = [self.root + scope for scope in scopes]
        self.watchers.append(Watcher(prefixes, state, self.store.watch(prefixes, after=revision)))

    @rule()
    def forget_history(self) -> None:
        self.runner.run(self.provider.forget_history(self.store))

    @rule()
    def catch_up(self) -> None:
        for watcher in self.watchers:
            self.runner.run(self.follow(watcher))

    @invariant()
    def a_read_gives_the_last_state(self) -> None:
        if self.history:
            entries = self.runner.run(self.store.read(self.root)).entries
            assert {key: entry.value for key, entry in entries.items()} == self.history[-1][1]
            assert {key: entry.revision for key, entry in entries.items()} == self.revisions

    async def follow(self, watcher: Watcher) -> None:
        """Feed the mirror until it shows the last state; everything that it shows on the way must have been one."""
        wanted = values_of(await self.store.read(*watcher.prefixes))
        while watcher.mirror.values != wanted:
            async with asyncio.timeout(PATIENCE):
                watcher.mirror.fold(await anext(watcher.watch))
            assert watcher.mirror.values == self.state_at(watcher.mirror.revision, watcher.scope)

    def state_at(self, revision: int, scope: Scope) -> State:
        state = next(state for first, state in reversed(self.history) if first <= revision)
        return {key: value for key, value in state.items() if key in scope}

    def teardown(self) -> None:
        try:
            self.catch_up()
        finally:
            self.runner.run(self.store.close())
            self.runner.close()


def test_any_history_reads_and_watches_as_a_dict_would(provider: Provider, root: str) -> None:
    machine = type("Machine", (StoreMachine,), {"provider": provider, "tree": root})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
