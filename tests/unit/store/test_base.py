from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import pytest
from hypothesis import given

from meshagent.errors import StoreDenied
from meshagent.store.base import Delete, Expect, Operation, Put, Scope, check_key, check_operations, check_prefix

SEGMENTS = st.sampled_from(["a", "b", "ab"])
KEYS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)
PREFIXES = KEYS | KEYS.map(lambda key: f"{key}/") | st.just("")


@given(prefixes=st.lists(PREFIXES, max_size=5), key=KEYS)
def test_a_scope_covers_what_its_prefixes_cover_one_by_one(prefixes: list[str], key: str) -> None:
    covered = any(
        key.startswith(prefix) if prefix.endswith("/") or not prefix else key == prefix for prefix in prefixes
    )

    assert (key in Scope.of(prefixes)) == covered


@given(prefixes=st.lists(PREFIXES, max_size=5))
def test_a_scope_names_nothing_twice(prefixes: list[str]) -> None:
    scope = Scope.of(prefixes)

    assert not any(key in Scope(frozenset(), scope.trees) for key in scope.keys)
    assert not any(a != b and a.startswith(b) for a in scope.trees for b in scope.trees)


@given(key=st.text(max_size=40))
def test_a_key_that_is_accepted_can_be_printed_stored_and_put_in_a_path(key: str) -> None:
    with contextlib.suppress(StoreDenied):
        check_key(key)
        assert key.encode().decode() == key
        assert key
        assert not set(key.split("/")) & {"", ".", ".."}
        assert "\0" not in key
        assert len(key.splitlines()) == 1


@given(key=st.text(max_size=40) | st.text(alphabet="./a\n\0", max_size=5))
def test_a_refusal_fits_on_one_line(key: str) -> None:
    refusals = []
    with contextlib.suppress(StoreDenied):
        try:
            check_key(key)
        except StoreDenied as refusal:
            refusals.append(refusal)
            raise

    assert all(str(refusal).isprintable() and refusal.next_step for refusal in refusals)


def test_a_refused_key_is_named_with_the_reason() -> None:
    with pytest.raises(StoreDenied, match=r"'a/\.\./b'.*'\.\.'"):
        check_key("a/../b")
    with pytest.raises(StoreDenied, match="longer than 1024 bytes") as refusal:
        check_key("long" * 1000)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b/"])
def test_the_empty_prefix_keys_and_trees_are_prefixes(prefix: str) -> None:
    check_prefix(prefix)


def test_operations_within_the_limits_are_accepted() -> None:
    check_operations([Expect("a", 1), Put("a", b"12"), Delete("b")], max_operations=3, max_value=2)


@pytest.mark.parametrize(
    "operations",
    [
        [Delete("a"), Delete("b"), Delete("c"), Delete("d")],
        [Put("a", b"123")],
        [Put("a", b""), Delete("a")],
        [Put("a", b""), Put("a", b"")],
        [Expect("../a", 0)],
    ],
    ids=["too many", "too large", "put and deleted", "put twice", "bad key"],
)
def test_operations_that_no_store_can_promise_are_refused(operations: list[Operation]) -> None:
    with pytest.raises(StoreDenied) as refusal:
        check_operations(operations, max_operations=3, max_value=2)
    assert refusal.value.next_step
