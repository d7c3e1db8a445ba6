"""Paths -> patterns, and patterns -> what matches exactly them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.policy.explain import matches
from meshagent.policy.patterns import example_of, match_of, merged, pattern_of
from meshagent.policy.request import Request

SEGMENTS = st.sampled_from(["orders", "v1", "17", "a.b", "3f2b8c1d9e", "x@y", "new+old", "", "(a+b)"])
PATHS = (
    st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda each: "/" + "/".join(each)).filter(lambda p: "//" not in p)
)


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/", "/"),
        ("/orders/17", "/orders/*"),
        ("/orders/17/lines/", "/orders/*/lines/"),
        ("/v1/users/3f2b8c1d", "/v1/users/*"),
        ("/u/0b7a4e2c-1111-2222-3333-444455556666", "/u/*"),
        ("/of/ann@example.org", "/of/*"),
        ("/reports/deadbeef", "/reports/deadbeef"),
        ("/shop.Clock/Ticks", "/shop.Clock/Ticks"),
        ("/t/eyJhbGciOiJIUzI1NiIsInR5", "/t/*"),
        ("/a%20b/c", "/*/c"),
        ("/first/" + "x" * 300, "/first/**"),
    ],
)
def test_segments_that_look_like_ids_are_left_open(path, pattern):
    assert pattern_of(path) == pattern


@given(PATHS)
def test_what_is_made_of_a_pattern_matches_the_path_that_it_came_from_and_its_example(path):
    match = match_of({"GET"}, pattern_of(path))
    for each in (path, example_of(pattern_of(path))):
        assert matches(match, Request("GET", each), "allow")
        assert not matches(match, Request("POST", each), "allow")
        assert not matches(match, Request("GET", each.rstrip("/") + "/and/more"), "allow")


def test_an_open_segment_is_one_segment_and_not_none():
    match = match_of({"GET"}, "/orders/*/lines")
    assert matches(match, Request("GET", "/orders/x/lines"), "allow")
    for other in ("/orders//lines", "/orders/lines", "/orders/x/y/lines", "/orders/x/linesX"):
        assert not matches(match, Request("GET", other), "allow")


def test_an_open_end_is_everything_below():
    for pattern, inside, outside in (
        ("/a/**", ("/a", "/a/b/c"), ("/ab", "/")),
        ("/**", ("/", "/x/y"), ()),
        ("/a/*/**", ("/a/1", "/a/1/b"), ("/a", "/b/1")),
    ):
        match = match_of({"GET"}, pattern)
        assert all(matches(match, Request("GET", path), "allow") for path in inside)
        assert not any(matches(match, Request("GET", path), "allow") for path in outside)


def test_twenty_names_at_one_place_are_told_apart_and_twenty_one_are_ids():
    names = [f"/users/n{'abcdefghijklmnopqrstu'[number]}" for number in range(21)]
    assert set(merged(names[:20], 100).values()) == set(names[:20])
    assert set(merged([*names, "/users/na/keys"], 100).values()) == {"/users/*", "/users/na/keys"}


@given(st.sets(PATHS, min_size=1, max_size=40), st.integers(1, 10))
def test_however_many_paths_few_patterns_stand_for_them_and_none_is_lost(paths, most):
    found = merged({pattern_of(path) for path in paths}, most)
    assert len(set(found.values())) <= most
    for path in paths:
        assert matches(match_of({"GET"}, found[pattern_of(path)]), Request("GET", path), "allow")


@given(st.sets(PATHS, min_size=1, max_size=10))
def test_every_regular_expression_is_one_that_re2_takes(paths):
    for path in paths:
        match = match_of(["GET"], pattern_of(path))
        assert not re.search(
            r"\\[^\W_]", match.path_regex or ""
        )  # escaped letters and digits mean something else there
