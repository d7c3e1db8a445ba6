"""What of a route holds for one caller, and what is left of its targets."""

from __future__ import annotations

from dataclasses import replace

from meshagent.model.mesh import Mesh
from meshagent.model.route import Route
from meshagent.model.service import Service
from meshagent.model.view import Outbound
from meshagent.model.world import Origin, Stated, World
from meshagent.policy.request import Request
from meshagent.policy.resolve import outbound_of
from meshagent.policy.routing import arriving
from meshagent.translate.staging import leaves, staged
from meshagent.xds.types import CDS, ECDS, EDS, RDS
from tests.unit.translate.route_table import instance

V1, V2 = {"version": "v1"}, {"version": "v2"}


def world(*rules, instances=(), name="payments", **services):
    documents = {
        "payments": Service.model_validate({"name": "payments", "protocol": "http", "subsets": {"v1": V1, "v2": V2}}),
        **{each: Service(name=each, protocol=protocol) for each, protocol in services.items()},
    }
    route = Stated(Route.model_validate({"name": name, "rules": list(rules)}), {"1": Origin("r.yaml", 7)})
    found = {}
    for each in instances:
        found[each.service] = (*found.get(each.service, ()), each)
    stated = {each: Stated(document) for each, document in documents.items()}
    return World(1, Mesh(), services=stated, instances=found, routes={name: route})


def targets(world, number=0, **asked):
    way = outbound_of(world, "web", "payments", **asked).ways[number]
    return [(target.service, target.subset) for target in way.to]


def test_a_split_keeps_what_is_in_service_and_keeps_all_when_nothing_is():
    split = {"to": [{"subset": "v1"}, {"subset": "v2"}, {"service": "ledger"}]}
    first, failing = instance(meta=V1), instance(number=2, meta=V2, health="failing")
    assert targets(world(split, instances=[first, failing], ledger="http")) == [(None, "v1")]
    assert targets(world(split, instances=[failing], ledger="http")) == [(None, "v1"), (None, "v2"), ("ledger", None)]
    assert targets(world(split | {"strict": True}, instances=[first], ledger="http")) == [
        (None, "v1"), (None, "v2"), ("ledger", None),
    ]  # fmt: skip


def test_a_target_of_which_nobody_knows_how_it_speaks_or_that_speaks_otherwise_is_no_target():
    rule = {"to": [{"service": "nobody"}, {"service": "db"}]}
    outbound = outbound_of(world(rule, db="tcp"), "web", "payments")
    assert outbound.ways[0].nowhere and outbound.beyond == ()


def test_a_weight_of_nothing_is_never_called_also_when_all_else_is_gone():
    rule = {"to": [{"subset": "v1", "weight": 1}, {"subset": "v2", "weight": 0}]}
    assert targets(world(rule, instances=[instance(meta=V2)])) == [(None, "v1")]


def test_rules_of_other_callers_and_regions_are_left_out_and_the_others_keep_their_numbers_and_origins():
    rules = ({"match": {"sources": ["orders"]}}, {"match": {"regions": ["eu"]}}, {"timeout": "1s"})
    ways = outbound_of(world(*rules), "web", "payments", "eu").ways
    assert [way.index for way in ways] == [1, 2]
    assert ways[0].origin == Origin("r.yaml", 7)
    assert [way.index for way in outbound_of(world(*rules), "web", "payments").ways] == [2]


def test_a_tcp_service_has_the_first_rule_that_fits_its_caller_and_is_not_for_http_alone():
    rules = ({"timeout": "1s"}, {"match": {"sources": ["orders"]}}, {"idle_timeout": "1s"}, {})
    ways = outbound_of(world(*rules, name="db", db="tcp"), "web", "db").ways
    assert [way.index for way in ways] == [2]


def test_a_copy_to_a_subset_goes_to_its_instances_alone():
    found = [instance(meta=V1), instance(number=2, meta=V2)]
    (part,) = outbound_of(world({"mirror": [{"subset": "v2"}]}, instances=found), "web", "payments").beyond
    assert [each.address for each in part.endpoints] == ["10.0.0.2"] and part.subset == "v2"


def test_a_request_arrives_as_the_rule_rewrites_it():
    route = Route.model_validate(
        {
            "name": "a",
            "rules": [
                {"match": {"path_prefix": "/a", "ignore_case": True}, "rewrite": {"path_prefix": "/"}},
                {"match": {"path_prefix": "/"}, "rewrite": {"path_prefix": "/b/"}},
                {"match": {"path_prefix": "/a/"}, "rewrite": {"path_prefix": "/b"}},
                {"rewrite": {"path_regex": {"pattern": "([0-9]+)", "substitution": r"<\1\\>"}}},
                {"rewrite": {"path": "/c"}, "headers": {"request": {"set": {"x": "2"}, "add": {"y": "3"}}}},
            ],
        }
    )

    def path(number, asked):
        rule = route.rules[number]
        sent = Request("GET", asked, (("x", "1"), ("y", "1")))
        return arriving(sent, rule.rewrite, rule.match, [rule.headers.request])

    assert [path(0, each).path for each in ("/A", "/a/x?q", "/a/x/a")] == ["/", "/x?q", "/x/a"]
    assert [path(1, each).path for each in ("/", "/x?q")] == ["/b/", "/b/x?q"]
    assert [path(2, each).path for each in ("/a", "/a/x")] == ["/b", "/b/x"]
    assert path(3, "/1/22?3").path == "/<1\\>/<22\\>?3"
    assert path(4, "/x?q") == Request("GET", "/c?q", (("y", "1"), ("x", "2"), ("y", "3")))


def test_ways_to_new_clusters_wait_and_nothing_else_does():
    changed = {(CDS, "out/web/new"): b"", (EDS, "out/web/new"): b"", (RDS, "out/web/a"): b"", (ECDS, "rbac/a"): b""}
    changed |= {(ECDS, "out/web/db"): b"", (RDS, "in/a/a"): b""}
    first, later = staged(changed, lambda name: name == "out/web/new")
    assert later.keys() == {(RDS, "out/web/a"), (ECDS, "out/web/db")}
    assert first.keys() == changed.keys() - later.keys()
    assert staged(changed, lambda _: False) == (changed, {})


def test_a_split_that_loses_a_target_leaves_it_ahead_of_its_endpoints_and_any_other_change_does_not():
    split = {"to": [{"subset": "v1"}, {"subset": "v2"}]}
    both = outbound_of(world(split, instances=[instance(meta=V1), instance(number=2, meta=V2)]), "web", "payments")
    one = outbound_of(world(split, instances=[instance(meta=V1)]), "web", "payments")
    other = outbound_of(world(split | {"timeout": "1s"}, instances=[instance(meta=V1)]), "web", "payments")
    assert leaves(both, one)
    assert not leaves(one, both) and not leaves(both, other) and not leaves(both, both)
    assert not leaves(replace(both, ways=()), Outbound("web", "payments", "http", ()))


def test_a_way_that_leads_elsewhere_does_so_ahead_of_the_endpoints_where_it_could_have_led_there_before():
    first, second = instance(meta=V1), instance(number=2, meta=V2)

    def to(subset, *instances, **more):
        return outbound_of(world({"to": [{"subset": subset}], **more}, instances=instances), "web", "payments")

    assert leaves(to("v2", first, second), to("v1", first))
    assert not leaves(to("v2", second), to("v1", first))
    assert not leaves(to("v2", first, second), to("v1", first, timeout="1s"))
