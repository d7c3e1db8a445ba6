"""Names outside the mesh, as commands check, plan, lint and explain them."""

from __future__ import annotations

import json

import pytest

STRIPE = """kind: external
name: stripe
hosts: [api.stripe.com]
port: 443
protocol: {protocol}
tls: {{mode: {mode}}}
"""
CHARGES = """---
kind: intention
name: stripe
sources:
- name: web
  permissions: [{action: allow, http: {methods: [POST], path_prefix: /v1/charges}}]
"""


def stripe(protocol="http", mode="originate"):
    return STRIPE.format(protocol=protocol, mode=mode)


def test_explain_says_who_may_leave_and_where_the_call_goes(mesh, file):
    mesh.register("web")
    mesh.run("policy", "apply", "-f", file(stripe() + CHARGES))
    said = mesh.run("explain", "web", "stripe", "POST", "/v1/charges/7").stdout
    assert "web -> stripe POST /v1/charges/7: allowed" in said
    assert "to api.stripe.com, port 443: TLS by the proxy, to whoever proves api.stripe.com by the roots" in said
    shown = mesh.json("explain", "web", "stripe", "GET", "/v1/charges", code=5)
    assert shown["external"]["hosts"] == ["api.stripe.com"] and shown["protocol"] == "http"
    assert mesh.json("explain", "web", "stripe", "POST", "/v1/charges")["external"]["origin"]["line"] == 1
    assert mesh.json("explain", "other", "stripe", "POST", "/v1/charges", code=5)["why"].endswith("default is deny")
    assert "no instance" not in mesh.run("explain", "web", "stripe", "POST", "/v1/charges").stderr


def test_plan_tells_who_gains_the_outside_and_diff_what_the_document_says(mesh, file):
    mesh.register("web")
    path = file(stripe() + CHARGES)
    planned = mesh.run("policy", "plan", "-f", path).stdout
    assert (
        "web gains stripe: allow POST below /v1/charges" in planned
        and "external stripe: port (default) -> 443" in planned
    )
    assert "+port: 443" in mesh.run("policy", "diff", "-f", path, code=5).stdout


def test_a_name_that_a_service_has_is_refused_and_lint_tells_of_one_registered_since(mesh, file):
    mesh.register("stripe")
    refused = mesh.run("policy", "apply", "-f", file(stripe()), code=3).stderr
    assert "p.yaml:2: name: is registered as a service on vm-1" in refused
    lint = json.loads(mesh.run("policy", "lint", "-f", file(stripe()), "-o", "json", code=5).stdout)
    assert [each["code"] for each in lint] == ["L017"]


@pytest.mark.parametrize("kind", ["service\nname: stripe\n", "route\nname: stripe\nrules: [{to: [{service: web}]}]\n"])
def test_other_documents_of_the_name_are_refused_from_either_side(mesh, file, kind):
    mesh.register("web", protocol="http")
    other = file(f"kind: {kind}", "other.yaml")
    mesh.run("policy", "apply", "-f", file(stripe()))
    assert "other.yaml:2: name: stripe is a name outside" in mesh.run("policy", "apply", "-f", other, code=3).stderr
    mesh.run("policy", "delete", "external", "stripe")
    mesh.run("policy", "apply", "-f", other)
    assert "p.yaml:2: name: there is a" in mesh.run("policy", "apply", "-f", file(stripe()), code=3).stderr


@pytest.mark.parametrize(
    "leads",
    [
        "kind: route\nname: payments\nrules: [{to: [{service: stripe}]}]\n",
        "kind: service\nname: payments\nprotocol: http\nfailover: [{service: stripe}]\n",
    ],
)
def test_nothing_but_an_upstream_leads_outside(mesh, file, leads):
    mesh.register("payments", protocol="http")
    refused = mesh.run("policy", "apply", "-f", file(f"{stripe()}---\n{leads}"), code=3).stderr
    assert "stripe is a name outside the mesh (kind: external)" in refused


def test_permissions_on_requests_of_which_the_proxy_sees_none_are_refused(mesh, file):
    mesh.register("web")
    refused = mesh.run("policy", "apply", "-f", file(stripe("tcp", "passthrough") + CHARGES), code=3).stderr
    assert "permissions on requests" in refused


def test_lint_tells_what_leaves_unencrypted(mesh, file):
    lint = json.loads(mesh.run("policy", "lint", "-f", file(stripe(mode="none")), "-o", "json", code=5).stdout)
    assert [each["code"] for each in lint] == ["L018"]


def test_cases_judge_calls_of_the_outside(mesh, file):
    cases = """cases:
- {from: web, to: stripe, request: {method: POST, path: /v1/charges}, expect: allowed, rule: stripe/web}
- {from: web, to: stripe, request: {path: /v1/charges}, expect: denied}
"""
    mesh.run("policy", "test", "-f", file(stripe() + CHARGES), "-f", file(cases, "stripe.cases.yaml"))
