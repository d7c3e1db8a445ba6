"""Routes at the command line: what `apply` refuses and warns of, and what `explain` says of a call's way."""

from __future__ import annotations

import pytest

SERVICE = """
kind: service
name: payments
protocol: http
subsets: {v1: {version: v1}, v2: {version: v2}}
"""
ROUTE = """
kind: route
name: payments
rules:
- name: canary
  match: {path_prefix: /v2, headers: [{name: x-canary, exact: "1"}]}
  to: [{subset: v2}]
  rewrite: {path_prefix: /}
- match: {path_prefix: /gone}
  respond: {status: 410}
- match: {path_prefix: /ledger}
  to: [{service: ledger}, {subset: v1, weight: 3}]
- match: {regions: [us]}
  to: [{subset: v2}]
- to: [{subset: v1, weight: 90}, {subset: v2, weight: 10}]
"""
ALLOW = """
kind: intention
name: payments
sources: [{name: web, permissions: [{action: allow, http: {path_prefix: /}}, {action: allow, http: {path_exact: /x}}]}]
---
kind: intention
name: ledger
sources: [{name: web, action: deny}]
"""


def write(folder, *documents):
    path = folder / "policy.yaml"
    path.write_text("---".join(documents))
    return str(path)


@pytest.fixture
def routed(mesh, tmp_path):
    mesh.register("web", host="vm-3")
    mesh.register("payments", host="vm-1", meta={"version": "v1"})
    mesh.register("ledger", host="vm-2")
    mesh.run("policy", "apply", "-f", write(tmp_path, SERVICE, ROUTE, ALLOW))
    return mesh


def test_explain_says_which_rule_decides_where_it_stands_and_as_what_the_call_arrives(routed):
    shown = routed.run("explain", "web", "payments", "GET", "/v2/x", "--header", "x-canary=1").stdout
    assert "rule 0 (canary) of route payments: to payments (subset v2) as /x" in shown
    assert "policy.yaml:10" in shown
    assert "judged   by payments, as GET /x" in shown
    value = routed.json("explain", "web", "payments", "GET", "/v2/x")
    assert value["route"]["rule"] == 4
    assert value["route"]["targets"] == [{"service": "payments", "subset": "v1", "percent": 100.0, "path": "/v2/x"}]
    assert value["route"]["left_out"] == [{"service": "payments", "subset": "v2"}]
    assert [(each["id"], each["called"]) for each in value["instances"]] == [("payments", True)]


def test_every_service_that_a_call_may_reach_has_to_allow_it(routed):
    value = routed.json("explain", "web", "payments", "GET", "/ledger", code=5)
    assert (value["judge"], value["allowed"]) == ("ledger", False)
    assert [each["percent"] for each in value["route"]["targets"]] == [25, 75]
    assert {each["service"] for each in value["instances"]} == {"ledger", "payments"}


def test_explain_knows_answers_of_the_callers_proxy_and_regions(routed):
    assert "answered 410 by the caller's proxy" in routed.run("explain", "web", "payments", "GET", "/gone").stdout
    there = routed.run("explain", "web", "payments", "GET", "/", "--region", "us")
    assert "rule 3 of route payments" in there.stdout
    assert "no instance of payments is passing" in there.stderr
    assert "decides by request" in routed.run("explain", "web", "payments", code=5).stdout


def test_what_a_route_cannot_do_is_refused_with_its_place(mesh, tmp_path):
    for service in ("web", "payments"):
        mesh.register(service)
    mesh.register("db", "tcp")
    wrong = ROUTE.replace("{subset: v2}]\n  rewrite", "{subset: v3}]\n  rewrite")
    problem = mesh.run("policy", "apply", "-f", write(tmp_path, SERVICE, wrong), code=3).stderr
    assert "policy.yaml:12: rules[0].to[0].subset: names the subset v3, which payments does not have" in problem
    tcp = "kind: route\nname: db\nrules:\n- timeout: 2s\n- to: [{service: payments}]\n"
    problem = mesh.run("policy", "apply", "-f", write(tmp_path, tcp), code=3).stderr
    assert "policy.yaml:4: rules[0]: asks for what a tcp service's connections do not have" in problem
    assert "leads to payments, which speaks http, while db is tcp" in problem
    assert not [name for name in mesh.documents() if name[0] == "route"]


def test_a_subset_that_a_route_names_cannot_be_taken_away(routed, tmp_path):
    less = SERVICE.replace(", v2: {version: v2}", "")
    problem = routed.run("policy", "apply", "-f", write(tmp_path, less), code=3).stderr
    assert "the route payments names the subset v2, which payments does not have" in problem


def test_unknown_services_and_rules_that_are_never_reached_are_told(mesh, tmp_path):
    mesh.register("payments")
    late = "kind: route\nname: payments\nrules:\n- timeout: 2s\n- to: [{service: paymets}]\n"
    told = mesh.run("policy", "apply", "-f", write(tmp_path, late)).stderr
    assert "rules[1]: is never reached: rule 0 takes every request" in told
    assert "no service paymets is registered yet. Did you mean payments?" in told
