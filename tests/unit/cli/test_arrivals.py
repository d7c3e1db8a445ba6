"""came_of: which way a call takes, and the verdict at each place that it comes to."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from meshagent.cli.arrivals import came_of
from meshagent.model.intention import Intention
from meshagent.model.mesh import Mesh
from meshagent.model.route import Route
from meshagent.model.service import Instance, Service
from meshagent.model.world import Stated, World
from meshagent.policy.request import Request

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SUBSETS = {"v1": {"version": "v1"}, "v2": {"version": "v2"}}
ALLOW = {"name": "web", "action": "allow"}


def instance(service, version, health="passing"):
    facts = {"service": service, "host": f"vm-{version}", "id": service, "address": "10.0.0.1", "port": 21000}
    return Instance.model_validate(facts | {"protocol": "http", "meta": {"version": version}, "health": health})


def world(*rules, protocol="http", sources=(ALLOW,), ledger=(ALLOW,), v2="passing"):
    services = [Service(name="payments", protocol=protocol, subsets=SUBSETS), Service(name="ledger", protocol=protocol)]
    intentions = {"payments": sources, "ledger": ledger}
    return World(
        1,
        Mesh(),
        {name: Stated(Intention.model_validate({"name": name, "sources": rows})) for name, rows in intentions.items()},
        {service.name: Stated(service) for service in services},
        {
            "payments": (instance("payments", "v1"), instance("payments", "v2", v2)),
            "ledger": (instance("ledger", "v1"),),
        },
        routes={"payments": Stated(Route.model_validate({"name": "payments", "rules": rules}))},
    )


def places(found):
    return [(each.service, each.subset, round(each.percent, 1), each.verdict.outcome) for each in found.arrivals]


def go(world, request=None, region="", source="web", destination="payments"):
    return came_of(world, source, destination, request, region, NOW)


SPLIT = {"to": [{"subset": "v1", "weight": 2}, {"subset": "v2", "weight": 1}]}


def test_without_a_route_a_call_comes_to_the_service_itself():
    found = go(world(), Request())
    assert places(found) == [("payments", None, 100, "allow")]
    assert (found.way, found.end, found.protocol) == (None, "allow", "http")


def test_a_split_has_its_shares_and_leaves_out_what_is_not_in_service():
    assert places(go(world(SPLIT), Request())) == [("payments", "v1", 66.7, "allow"), ("payments", "v2", 33.3, "allow")]
    assert places(go(world(SPLIT, v2="failing"), Request())) == [("payments", "v1", 100, "allow")]


def test_each_place_judges_for_itself_the_request_that_arrives_there():
    only_new = {"name": "web", "permissions": [{"action": "allow", "http": {"path_prefix": "/new"}}]}
    rule = {"match": {"path_prefix": "/old"}, "rewrite": {"path_prefix": "/new"}}
    assert go(world(rule, sources=[only_new]), Request(path="/old/x")).end == "allow"
    assert go(world(rule, sources=[only_new]), Request(path="/older")).end == "deny"
    both = {"to": [{"service": "ledger"}, {"weight": 3}]}
    assert places(go(world(both, ledger=()), Request())) == [
        ("ledger", None, 25, "deny"),
        ("payments", None, 75, "allow"),
    ]
    assert go(world(both, ledger=()), Request()).end == "mixed"


def test_headers_that_a_rule_or_a_target_sets_are_seen_by_permissions():
    by_header = {
        "name": "web",
        "permissions": [{"action": "allow", "http": {"headers": [{"name": "x", "exact": "1"}]}}],
    }
    target = {"to": [{"headers": {"request": {"set": {"x": "1"}}}}]}
    assert go(world(target, sources=[by_header]), Request()).end == "allow"
    assert go(world(sources=[by_header]), Request()).end == "deny"


@pytest.mark.parametrize("answer", [{"respond": {"status": 404}}, {"redirect": {"path": "/x"}}])
def test_what_the_callers_proxy_answers_comes_nowhere(answer):
    found = go(world(answer, sources=()), Request())
    assert (found.arrivals, found.end) == ((), "answered")


def test_who_calls_and_from_where_decides_which_rules_there_are():
    rules = {"match": {"sources": ["web"], "regions": ["eu"]}, "to": [{"subset": "v2"}]}
    assert places(go(world(rules), Request(), "eu"))[0][1] == "v2"
    assert places(go(world(rules), Request(), "us"))[0][1] is None
    assert places(go(world(rules), Request(), "eu", source="orders"))[0][1] is None


def test_without_a_request_every_place_that_a_route_may_lead_to_has_a_say():
    away = {"match": {"path_prefix": "/l"}, "to": [{"service": "ledger"}]}
    found = go(world(away))
    assert (found.undecided, found.way, found.end) == (True, None, "allow")
    assert places(found) == [("ledger", None, 0, "allow"), ("payments", None, 0, "allow")]
    assert go(world(away, ledger=())).end == "depends"
    assert go(world(away, ledger=(), sources=())).end == "deny"
    assert [each[0] for each in places(go(world(away, {"to": [{"service": "ledger"}]})))] == ["ledger"]
    assert go(world({"respond": {"status": 404}})).end == "answered"
    assert places(go(world())) == [("payments", None, 100, "allow")]


def test_a_malformed_request_is_refused_whatever_the_route_says():
    found = go(world({"respond": {"status": 200}}), Request(path="/a%2fb"))
    assert places(found) == [("payments", None, 100, "malformed")]


def test_a_tcp_service_sees_no_request():
    found = go(world(SPLIT, protocol="tcp"), Request(path="no path"))
    assert found.protocol == "tcp"
    assert [each[1] for each in places(found)] == ["v1", "v2"]
    assert go(World(1, Mesh()), Request()).protocol is None
