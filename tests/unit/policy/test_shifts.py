"""shifts: which share of which requests goes elsewhere, from two worlds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.matching import RouteMatch
from meshagent.model.mesh import Mesh
from meshagent.model.route import Route
from meshagent.model.service import Service
from meshagent.model.world import Stated, World
from meshagent.policy.request import Request
from meshagent.policy.resolve import outbound_of
from meshagent.policy.routing import way_of
from meshagent.policy.shifts import Place, shifts

SUBSETS = {"v1": {"version": "v1"}, "v2": {"version": "v2"}}
ALL, V1, V2 = Place("payments"), Place("payments", "v1"), Place("payments", "v2")


def world(*rules):
    """Rules of payments."""
    services = (Service(name="payments", protocol="http", subsets=SUBSETS), Service(name="ledger", protocol="http"))
    routes = {"payments": Stated(Route.model_validate({"name": "payments", "rules": rules}))} if rules else {}
    return World(1, Mesh(), {}, {each.name: Stated(each) for each in services}, routes=routes)


def split(v1, v2, **match):
    return {"match": match, "to": [{"subset": "v1", "weight": v1}, {"subset": "v2", "weight": v2}]}


def told(before, after):
    return [
        (each.source, each.region, each.match.path_prefix, dict(each.before), dict(each.after))
        for each in shifts(before, after)
    ]


def test_a_new_weight_moves_its_share():
    assert told(world(split(100, 0)), world(split(95, 5))) == [("*", "", None, {V1: 100}, {V1: 95, V2: 5})]


def test_what_means_the_same_is_no_shift():
    assert told(world(split(1, 1)), world(split(5, 5))) == []
    assert told(world(), world({"timeout": "2s"})) == []


def test_only_the_requests_that_a_rule_takes_are_told():
    assert told(world(), world(split(95, 5, path_prefix="/v2"))) == [("*", "", "/v2", {ALL: 100}, {V1: 95, V2: 5})]
    assert told(world(split(95, 5, path_prefix="/v2")), world()) == [("*", "", "/v2", {V1: 95, V2: 5}, {ALL: 100})]


def test_the_rest_is_told_as_the_rest():
    gone = {"match": {"path_prefix": "/old"}, "respond": {"status": 410}}
    one, two = shifts(world(), world(gone, split(1, 1)))
    assert (one.match.path_prefix, dict(one.after), one.rest) == ("/old", {Place("", None, 410): 100}, False)
    assert (two.match, dict(two.after), two.rest) == (RouteMatch(), {V1: 50, V2: 50}, True)


def test_a_caller_or_a_region_is_named_where_it_fares_otherwise():
    web = split(0, 1, sources=["web"])
    assert [(each.source, each.region) for each in shifts(world(), world(web))] == [("web", "")]
    everybody, named = shifts(world(), world(web, split(1, 0)))
    assert (everybody.source, everybody.besides, named.source, named.besides) == ("*", True, "web", False)
    assert told(world(), world(split(0, 1, regions=["eu"]))) == [("*", "eu", None, {ALL: 100}, {V2: 100})]
    assert [(each.source, each.besides) for each in shifts(world(), world(split(1, 0)))] == [("*", False)]


def test_a_rule_that_is_never_reached_moves_nothing():
    assert told(world(split(1, 1)), world(split(1, 1), split(0, 1, path_prefix="/x"))) == []


def test_another_service_and_a_route_that_goes_are_told():
    away = {"to": [{"service": "ledger"}]}
    assert told(world(), world(away)) == [("*", "", None, {ALL: 100}, {Place("ledger"): 100})]
    assert told(world(away), world()) == [("*", "", None, {Place("ledger"): 100}, {ALL: 100})]


RULES = st.lists(
    st.builds(
        lambda path, target: ({"match": {"path_prefix": path}} if path else {}) | {"to": [{"subset": target}]},
        st.sampled_from((None, "/", "/a", "/a/b", "/c")),
        st.sampled_from(("v1", "v2")),
    ),
    max_size=3,
)


@given(RULES, RULES, st.sampled_from(("/", "/a", "/a/b", "/a/x", "/c/d", "/e")))
def test_a_request_that_goes_elsewhere_is_in_some_shift_and_none_is_told_without_one(before, after, path):
    worlds = (world(*before), world(*after))
    old, new = (_taken(each, path) for each in worlds)
    found = shifts(*worlds)
    if old != new:
        assert any(dict(each.before) == {old: 100} and dict(each.after) == {new: 100} for each in found)
    if all(_taken(worlds[0], each) == _taken(worlds[1], each) for each in ("/", "/a", "/a/b", "/c", "/e")):
        assert not found


def _taken(world, path):
    way = way_of(outbound_of(world, "web", "payments").ways, Request(path=path))
    return Place("payments", way.to[0].subset) if way else ALL
