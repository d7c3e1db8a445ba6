"""What a check of a known content makes of Consul's answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from meshagent.errors import StoreUnavailable
from meshagent.store.base import Entry, Scope
from meshagent.store.consul_reading import Reading
from meshagent.wire.consul import Answer

SCOPE = Scope.of(["a", "b", "c"])
HELD = {"a": 3, "b": 5}


class FakeConsul:
    """Keys with their revisions."""

    def __init__(self, content: dict[str, int]) -> None:
        self.content = content
        self.asked: list[list[tuple[str, str]]] = []

    async def put(self, _: str, *, body: list[dict[str, Any]], harmless: bool) -> Answer:
        assert harmless
        forms = [form["KV"] for form in body]
        self.asked.append([(form["Verb"], form["Key"]) for form in forms])
        errors = [{"OpIndex": place, "What": said} for place, form in enumerate(forms) if (said := self.fault(form))]
        results = [self.entry(form) for form in forms if form["Key"] in self.content]
        said = {"Results": None, "Errors": errors} if errors else {"Results": results, "Errors": None}
        return Answer(409 if errors else 200, {}, json.dumps(said).encode())

    async def get(self, path: str, _: Mapping[str, str]) -> Answer:
        folder = path.removeprefix("/v1/kv/")
        index = max(revision for key, revision in self.content.items() if key.startswith(f"{folder}/"))
        self.asked.append([("list", folder)])
        return Answer(200, {"X-Consul-Index": str(index)}, b"[]")

    def fault(self, form: dict[str, Any]) -> str:
        key, verb = form["Key"], form["Verb"]
        if verb == "get-tree":
            return ""
        if key not in self.content:
            return f'key "{key}" doesn\'t exist'
        if verb == "check-index" and self.content[key] != form["Index"]:
            return f'failed index check for key "{key}", current modify index {self.content[key]} != {form["Index"]}'
        return ""

    def entry(self, form: dict[str, Any]) -> dict[str, Any]:
        value = None if form["Verb"] == "check-index" else "eA=="
        return {"KV": {"Key": form["Key"], "Value": value, "ModifyIndex": self.content[form["Key"]]}}


async def test_a_content_that_is_as_expected_is_not_read() -> None:
    consul = FakeConsul({"a": 3, "b": 5})
    met = await Reading(consul).check(SCOPE, HELD, frozenset(), {})
    assert met is not None
    assert (met.revisions, met.entries) == (HELD, {})
    assert consul.asked == [[("check-index", "a"), ("check-index", "b"), ("get-tree", "c")]]


async def test_what_moved_is_read_and_nothing_else() -> None:
    consul = FakeConsul({"a": 3, "b": 7})
    met = await Reading(consul).check(SCOPE, HELD, frozenset(), {})
    assert met is not None
    assert (met.revisions, met.entries) == ({"a": 3, "b": 7}, {"b": Entry("b", b"x", 7)})
    assert consul.asked[1:] == [[("check-index", "a"), ("get", "b"), ("get-tree", "c")]]


async def test_what_is_likely_to_have_moved_is_read_at_once() -> None:
    consul = FakeConsul({"a": 3, "b": 7, "c": 7})
    met = await Reading(consul).check(SCOPE, HELD, {"b"}, {})
    assert met is not None
    assert met.revisions == {"a": 3, "b": 7, "c": 7}
    assert set(met.entries) == {"b", "c"}
    assert len(consul.asked) == 1


@pytest.mark.parametrize("asked", [frozenset[str](), frozenset({"b"})], ids=["compared", "read"])
async def test_what_is_gone_unexpectedly_is_not_judged(asked: frozenset[str]) -> None:
    assert await Reading(FakeConsul({"a": 3})).check(SCOPE, HELD, asked, {}) is None


async def test_what_is_gone_from_a_tree_is_not_judged() -> None:
    assert await Reading(FakeConsul({})).check(Scope.of(["t/", "a"]), {"t/x": 4}, frozenset(), {}) is None


async def test_an_older_state_than_was_told_is_not_taken_for_news() -> None:
    with pytest.raises(StoreUnavailable, match="older"):
        await Reading(FakeConsul({"a": 3, "b": 4})).check(SCOPE, HELD, frozenset(), {})


async def test_a_folder_at_the_index_that_it_had_vouches_for_its_keys() -> None:
    scope, held = Scope.of(["a", "f/1", "f/2"]), {"a": 3, "f/1": 4, "f/2": 5}
    consul = FakeConsul(held)
    met = await Reading(consul).check(scope, held, frozenset(), {"f": 5})
    assert met is not None
    assert met.revisions == held
    assert sorted(consul.asked) == [[("check-index", "a")], [("list", "f")]]


async def test_keys_of_a_folder_that_moved_are_compared_one_by_one() -> None:
    scope, held = Scope.of(["a", "f/1", "f/2"]), {"a": 3, "f/1": 4, "f/2": 5}
    consul = FakeConsul({"a": 3, "f/1": 9, "f/2": 5})
    met = await Reading(consul).check(scope, held, frozenset(), {"f": 5})
    assert met is not None
    assert met.revisions == {"a": 3, "f/1": 9, "f/2": 5}
    assert set(met.entries) == {"f/1"}


async def test_news_of_one_call_are_told_only_when_the_others_still_hold_after_it() -> None:
    scope, held = Scope.of(["a", "f/1"]), {"a": 3, "f/1": 4}
    # A commit of both keys comes between the listing of the folder and the transaction.
    both = {"a": 9, "f/1": 9}
    met = await Reading(Interleaved(both)).check(scope, held, {"a"}, {"f": 4})
    assert met is not None
    assert met.revisions == both


class Interleaved(FakeConsul):
    """The first listing shows what was there before the first transaction."""

    async def get(self, path: str, params: Mapping[str, str]) -> Answer:
        now, self.content = self.content, {"a": 3, "f/1": 4} if len(self.asked) < 2 else self.content
        try:
            return await super().get(path, params)
        finally:
            self.content = now
