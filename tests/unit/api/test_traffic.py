"""Traffic in the mesh's own words, from Envoy's counts."""

from __future__ import annotations

from datetime import UTC, datetime

from meshagent.api.traffic import edge_rows, rule_rows, traffic
from meshagent.envoy.counts import Counts
from meshagent.model.external import External
from meshagent.model.gateway import Gateway
from meshagent.model.route import RouteRule
from meshagent.model.view import Chain, Egress, Guard, Inbound, Outbound, ProxyView, Rule, Way


def outbound(**more):
    return Outbound(
        **{"source": "web", "upstream": "payments", "protocol": "http", "endpoints": (), "local_port": 1, **more}
    )


def inbound(*sources, protocol="http", instance="payments"):
    rules = tuple(Rule(source, "allow", (), f"payments/{source}") for source in sources)
    chains = tuple(Chain(source, 0) for source in sources)
    guard = Guard("payments", rules, "deny")
    return Inbound("payments", instance, protocol, "127.0.0.1", 1, 2, guard, chains, 0)


def view(*, inbounds=(), outbounds=(), **more):
    return ProxyView("vm-1", "10.0.0.1", "mesh.internal", tuple(inbounds), tuple(outbounds), **more)


def rows(found, values, subsets=None, buckets=None):
    return {
        (row["side"], row["source"], row["destination"], row["route"], row["subset"]): row
        for row in edge_rows(found, Counts(values, buckets or {}), subsets or {})
    }


def test_a_callers_requests_have_their_answers_latencies_and_bytes():
    prefix = "http.out.web.payments.downstream"
    values = {f"{prefix}_rq_total": 12, f"{prefix}_rq_completed": 9, f"{prefix}_rq_active": 2, f"{prefix}_rq_2xx": 8}
    values |= {f"{prefix}_rq_5xx": 1, f"{prefix}_cx_total": 3}
    values |= {f"{prefix}_cx_rx_bytes_total": 100, f"{prefix}_cx_tx_bytes_total": 900}
    buckets = {f"{prefix}_rq_time": ((1.0, 4), (30_000.0, 8), (3_600_000.0, 9))}
    (row,) = rows(view(outbounds=[outbound(), outbound(local_port=2)]), values, buckets=buckets).values()
    assert row["requests"] == {"1xx": 0, "2xx": 8, "3xx": 0, "4xx": 0, "5xx": 1}
    assert (row["failed"], row["active"], row["connections"]) == (1, 2, 3)
    assert (row["bytes_sent"], row["bytes_received"]) == (100, 900)
    assert row["latency_ms"] == [[1.0, 4], [30_000.0, 8], ["+Inf", 9]]


def test_connections_of_bytes_are_counted_with_those_that_could_not_be_made():
    values = {"tcp.out.web.payments.downstream_cx_total": 5, "tcp.out.web.payments.downstream_cx_tx_bytes_total": 7}
    values |= {"cluster.out/web/payments.upstream_cx_active": 2, "cluster.out/web/payments.upstream_cx_connect_fail": 1}
    (row,) = rows(view(outbounds=[outbound(protocol="tcp")]), values).values()
    told = (row["protocol"], row["connections"], row["active"], row["failed"], row["bytes_received"], row["bytes_sent"])
    assert told == ("tcp", 5, 2, 1, 7, 0)
    (row,) = rows(view(outbounds=[outbound(data_path="l4")]), values).values()
    assert (row["protocol"], row["connections"]) == ("tcp", 5)


def test_an_instances_callers_are_told_apart_as_far_as_they_have_chains():
    values = {"http.in.payments/web.downstream_rq_2xx": 4, "http.in.payments.downstream_rq_4xx": 3}
    values |= {"http.in.payments.two/web.downstream_rq_2xx": 10, "tcp.in.payments/web.downstream_cx_total": 1}
    found = rows(view(inbounds=[inbound("web"), inbound("web", instance="two")]), values)
    assert found.keys() == {("inbound", source, "payments", "", "") for source in ("web", "other")}
    assert found["inbound", "web", "payments", "", ""]["requests"]["2xx"] == 14
    assert found["inbound", "web", "payments", "", ""]["connections"] == 1
    assert found["inbound", "other", "payments", "", ""]["requests"]["4xx"] == 3


def test_the_subsets_of_an_instance_have_rows_beside_the_whole():
    values = {"http.in.payments/web.downstream_rq_5xx": 4, "http.in.payments.two/web.downstream_rq_5xx": 1}
    both = view(inbounds=[inbound("web"), inbound("web", instance="two")])
    found = rows(both, values, {("payments", "two"): ("canary",)})
    errors = {key[4]: row["requests"]["5xx"] for key, row in found.items() if key[1] == "web"}
    assert errors == {"": 5, "canary": 1}


def test_the_rules_of_a_route_are_counted_by_name_or_place_in_every_virtual_host():
    ways = (Way(0, RouteRule(name="beta"), ()), Way(3, RouteRule(), ()))
    values = {}
    for host, rule, count in (("a", "beta", 2), ("b", "beta", 3), ("a", "rule 3", 4), ("a", "*", 5)):
        values[f"vhost.{host}.route.web/payments/{rule}.upstream_rq_total"] = count
        values[f"vhost.{host}.route.web/payments/{rule}.upstream_rq_2xx"] = count
    found = rows(view(outbounds=[outbound(ways=ways)]), values)
    assert {key[3]: row["requests"]["2xx"] for key, row in found.items()} == {"": 0, "beta": 5, "rule 3": 4, "*": 5}
    assert all(row["failed"] == 0 for row in found.values())


def test_what_a_route_leads_on_to_another_service_is_told_once():
    beyond = outbound(upstream="ledger", local_port=0)
    values = {"cluster.out/web/ledger.upstream_rq_2xx": 6, "cluster.out/web/ledger.upstream_cx_tx_bytes_total": 8}
    led = rows(view(outbounds=[outbound(beyond=(beyond,))]), values)["outbound", "web", "ledger", "via payments", ""]
    assert (led["requests"]["2xx"], led["bytes_sent"]) == (6, 8)
    declared = rows(view(outbounds=[outbound(beyond=(beyond,)), outbound(upstream="ledger")]), values)
    assert ("outbound", "web", "ledger", "via payments", "") not in declared


def test_a_gateway_is_called_from_outside_and_calls_by_its_clusters():
    gateway = Gateway.model_validate(
        {
            "kind": "gateway",
            "name": "edge",
            "listeners": [{"port": 80}],
            "routes": [{"hosts": ["*"], "service": "payments"}],
        }
    )
    values = {"http.gateway.edge.downstream_rq_2xx": 9, "cluster.out/edge/payments.upstream_rq_2xx": 8}
    found = rows(view(outbounds=[outbound(source="edge", local_port=0)], gateways=(gateway,)), values)
    assert found["inbound", "outside", "edge", "", ""]["requests"]["2xx"] == 9
    assert found["outbound", "edge", "payments", "", ""]["requests"]["2xx"] == 8


def test_verdicts_go_to_the_rule_of_the_source_and_the_rest_together():
    values = {"http.in.payments/web.rbac.allowed": 4, "http.in.payments/web.rbac.denied": 1}
    values |= {"http.in.payments.rbac.denied": 7, "http.in.payments/web.rbac.shadow_denied": 2}
    told = {row["rule"]: row for row in rule_rows(view(inbounds=[inbound("web")]), Counts(values, {}))}
    assert told["payments/web"] == {
        "service": "payments",
        "rule": "payments/web",
        "allowed": 4,
        "denied": 1,
        "shadow_denied": 2,
    }
    assert (told["other"]["allowed"], told["other"]["denied"]) == (0, 7)


def test_refused_connections_are_those_of_the_whole_service():
    values = {
        "tcp.in.payments/web.downstream_cx_total": 4,
        "tcp.payments.rbac.allowed": 5,
        "tcp.payments.rbac.denied": 2,
    }
    told = {row["rule"]: row for row in rule_rows(view(inbounds=[inbound("web", protocol="tcp")]), Counts(values, {}))}
    assert {rule: (row["allowed"], row["denied"]) for rule, row in told.items()} == {
        "payments/web": (4, 0),
        "other": (1, 2),
    }


def test_names_outside_the_mesh_are_called_and_judged_here():
    plain = {"kind": "external", "hosts": ["out.example"], "port": 25, "tls": {"mode": "none"}}
    bank = External.model_validate(plain | {"name": "bank", "protocol": "http"})
    mail = External.model_validate(plain | {"name": "mail"})
    guard = Guard("bank", (Rule("web", "allow", (), "bank/web"),), "deny")
    calls = (Egress("web", bank, guard), Egress("web", mail, guard), Egress("api", mail, guard))
    values = {"http.out.web.bank.downstream_rq_2xx": 3, "tcp.out.web.mail.downstream_cx_total": 2}
    values |= {"http.out.web.bank.rbac.allowed": 3, "tcp.mail.rbac.allowed": 2, "tcp.mail.rbac.denied": 1}
    outside = view(egresses=calls)
    found = rows(outside, values)
    assert found["outbound", "web", "bank", "", ""]["requests"]["2xx"] == 3
    assert found["outbound", "web", "mail", "", ""]["connections"] == 2
    told = {(row["service"], row["rule"]): row for row in rule_rows(outside, Counts(values, {}))}
    assert told["bank", "bank/web"]["allowed"] == 3
    assert (told["mail", "other"]["allowed"], told["mail", "other"]["denied"]) == (2, 1)


def test_without_a_view_there_are_no_rows():
    began = datetime(2026, 11, 21, tzinfo=UTC)
    assert traffic(None, Counts({}, {}), {}, began) == {"since": began.isoformat(), "edges": [], "rules": []}
