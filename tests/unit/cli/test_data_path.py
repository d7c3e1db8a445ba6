"""`data_path: l4` at the command line: what it cannot go together with, and what `explain` says of how calls are carried."""

from __future__ import annotations

import pytest

SERVICE = "kind: service\nname: payments\nprotocol: http\ndata_path: l4\n"
ROUTE = "kind: route\nname: payments\nrules:\n"
ALLOW = """
kind: intention
name: payments
sources:
- {name: web, action: allow}
- {name: reporting, permissions: [{action: allow, http: {path_prefix: /reports}}]}
- {name: orders, action: deny}
- {name: "*", action: allow}
"""


@pytest.fixture
def shop(mesh):
    for name in ("web", "payments", "reporting", "orders", "ledger"):
        mesh.register(name)
    mesh.register("db", "tcp")
    return mesh


def apply(mesh, folder, *documents, code=0):
    (folder / "policy.yaml").write_text("---\n".join(documents))
    return mesh.run("policy", "apply", "-f", str(folder / "policy.yaml"), code=code).stderr


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("rate_limit: {requests_per_second: 5}\n", "5: rate_limit"),
        ("adaptive_concurrency: {}\n", "5: adaptive_concurrency"),
        ("connection_pool:\n  max_connections: 5\n  max_requests: 5\n", "7: connection_pool.max_requests"),
        ("load_balancer:\n  policy: maglev\n  hash_on: [{header: x-user}]\n", "7: load_balancer.hash_on"),
        ("retry_budget: {percent: 5}\n", "5: retry_budget"),
        ("timeouts: {idle: 1h, request: 2s}\n", "5: timeouts.request"),
    ],
)
def test_a_setting_of_requests_is_refused_with_its_place(shop, tmp_path, line, place):
    problem = apply(shop, tmp_path, SERVICE + line, code=3)
    assert f"policy.yaml:{place}: is about requests, which nobody sees with `data_path: l4`" in problem


def test_a_tcp_service_has_no_data_path_to_choose(shop, tmp_path):
    problem = apply(shop, tmp_path, "kind: service\nname: db\ndata_path: l4\n", code=3)
    assert "policy.yaml:3: data_path: l4 is for http, http2 and grpc: db speaks tcp" in problem


def test_a_route_that_looks_at_requests_is_refused_whichever_of_the_two_comes_later(shop, tmp_path):
    looking = ROUTE + "- to: [{service: ledger}]\n  retry: {attempts: 1}\n  timeout: 2s\n"
    problem = apply(shop, tmp_path, SERVICE, looking, code=3)
    assert "policy.yaml:11: rules[0].timeout: timeout, retry: about requests of payments" in problem
    apply(shop, tmp_path, looking)
    problem = apply(shop, tmp_path, SERVICE, code=3)
    assert "policy.yaml:4: data_path: rule 0 of the route payments has timeout, retry" in problem
    apply(shop, tmp_path, SERVICE, ROUTE + "- match: {sources: [web]}\n  to: [{service: ledger}]\n  idle_timeout: 1h\n")


def test_explain_says_how_a_call_is_carried_and_why(shop, tmp_path):
    apply(shop, tmp_path, ALLOW)
    assert shop.json("explain", "web", "payments", "GET", "/")["data_path"] == "l7"
    assert "carried" not in shop.run("explain", "web", "payments", "GET", "/").stdout
    apply(shop, tmp_path, SERVICE)
    for source, code, said, data_path in (
        ("web", 0, "as bytes (data_path l4): no proxy sees requests", "l4"),
        ("reporting", 0, "read as requests by the proxy of payments, since permissions decide by request", "l7"),
        ("orders", 5, "so that the refusal is answered with its reason", "l7"),
        ("ledger", 0, "since ledger is not among the (at most 64) sources", "l7"),
    ):
        shown = shop.run("explain", source, "payments", "GET", "/reports", code=code).stdout
        assert said in shown, shown
        assert shop.json("explain", source, "payments", "GET", "/reports", code=code)["data_path"] == data_path
    told = {each["name"] for each in shop.json("explain", "web", "payments", "GET", "/")["settings"]}
    assert told and told == {each["name"] for each in shop.json("explain", "web", "db", code=5)["settings"]}
    assert shop.json("explain", "web", "db", code=5)["data_path"] is None


def test_a_request_that_no_proxy_sees_is_not_called_malformed(shop, tmp_path):
    apply(shop, tmp_path, ALLOW)
    assert shop.json("explain", "web", "payments", "GET", "/a%2fb", code=5)["allowed"] is False
    apply(shop, tmp_path, SERVICE)
    assert shop.json("explain", "web", "payments", "GET", "/a%2fb")["allowed"] is True
    assert shop.json("explain", "reporting", "payments", "GET", "/reports%2fb", code=5)["allowed"] is False
