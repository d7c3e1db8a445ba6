"""What the pages show is what the policy says, by the functions that commands use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from meshagent.errors import NotFound, UsageProblem
from meshagent.policy.explain import explain
from meshagent.state.records import ReportRecord
from meshagent.ui.fleet import certificates, hosts
from meshagent.ui.matrix import guard_of, matrix
from meshagent.ui.services import one_service, services
from meshagent.ui.topology import topology
from meshagent.ui.whatif import explained, what_if
from tests.unit.ui.shop import NOW, shop, stated

REACHES = {"allow": "all", "deny": "none", "depends": "some"}


def looked_up(data, source, destination):
    """As the page does it."""
    held = next(each for each in data["destinations"] if each["name"] == destination)
    for name in (source, "*"):
        for rule in held["rules"]:
            if rule["source"] == name:
                return rule["reach"]
    return "all" if held["default"] == "allow" else "none"


@pytest.mark.parametrize("default", ["allow", "deny"])
def test_every_cell_of_the_matrix_is_what_explain_says(default):
    anybody = stated(
        kind="intention", name="*", sources=[{"name": "audit", "action": "allow"}, {"name": "*", "action": "deny"}]
    )
    only = stated(kind="intention", name="web", sources=[{"name": "*", "action": "allow"}])
    seen = shop(stated(kind="mesh", trust_domain="mesh.internal", default_action=default), anybody, only)
    data = matrix(seen, NOW)
    assert data["sources"] == ["audit", "batch", "payments", "web"]
    assert [each["name"] for each in data["destinations"]] == ["batch", "mail", "payments", "web"]
    for destination in (each["name"] for each in data["destinations"]):
        for source in data["sources"]:
            verdict = explain(guard_of(seen.world(), destination, NOW), source)
            assert looked_up(data, source, destination) == REACHES[verdict.outcome], (source, destination)


def test_what_shadow_would_refuse_stands_beside_what_holds():
    seen = shop(stated(kind="mesh", trust_domain="mesh.internal", default_action="shadow-deny"))
    held = next(each for each in matrix(seen, NOW)["destinations"] if each["name"] == "web")
    assert (held["default"], held["shadow"]) == ("allow", {"rules": [], "default": "deny"})
    assert {each["shadow"] for each in matrix(shop(), NOW)["destinations"] if not each["shadow"]} == {None}


def test_a_rule_says_its_words_its_reason_and_where_it_is_written():
    rules = {rule["source"]: rule for rule in matrix(shop(), NOW)["destinations"][2]["rules"]}
    assert rules["web"]["reason"] == "INC-7"
    assert rules["web"]["origin"] == "policy.yaml:3, applied by ann at 2026-11-21T12:00:00Z"
    assert rules["batch"]["words"] == "allow below /reports; else deny"


def test_the_topology_has_what_is_allowed_declared_and_made():
    live = {("orders", "payments"): {"rps": 5.0}, ("batch", "web"): {"rps": 0.0, "active": 0}}
    data = topology(shop(), live, [("web", "batch")], NOW)
    edges = {(edge["source"], edge["destination"]): edge for edge in data["edges"]}
    assert set(edges) == {("web", "payments"), ("batch", "payments"), ("orders", "payments"), ("web", "batch")}
    assert [edges[pair]["reach"] for pair in sorted(edges)] == ["some", "none", "none", "all"]
    assert edges["orders", "payments"]["live"] == {"rps": 5.0}
    assert edges["orders", "payments"]["rule"] == "mesh/default_action"
    assert edges["web", "batch"]["declared"]


def test_nodes_say_what_they_are_and_how_their_instances_are():
    gateway = stated(
        kind="gateway", name="edge", listeners=[{"port": 8443}], routes=[{"hosts": ["a.example"], "service": "web"}]
    )
    data = topology(shop(gateway), {("nobody", "web"): {"rps": 1.0}}, (), NOW)
    nodes = {node["name"]: node for node in data["nodes"]}
    assert (nodes["payments"]["health"], nodes["payments"]["passing"], nodes["payments"]["instances"]) == (
        "partly",
        1,
        2,
    )
    assert {name: nodes[name]["kind"] for name in ("edge", "mail", "nobody", "web")} == {
        "edge": "gateway",
        "mail": "external",
        "nobody": "unknown",
        "web": "service",
    }
    assert ("edge", "web") in {(edge["source"], edge["destination"]) for edge in data["edges"]}


def test_services_have_their_requests_of_all_callers():
    live = {("web", "payments"): {"rps": 5.0}, ("batch", "payments"): {"rps": 2.0}, ("payments", "web"): {"rps": 1.0}}
    rows = {row["name"]: row for row in services(shop(), live)["services"]}
    assert (rows["payments"]["rps"], rows["web"]["rps"], rows["batch"]["rps"]) == (7.0, 1.0, None)
    assert rows["payments"]["hosts"] == ["vm-1", "vm-2"]


def test_one_service_tells_instances_splits_rules_and_settings_with_their_origins():
    data = one_service(shop(), "payments", {}, NOW)
    assert [each["subsets"] for each in data["instances_here"]] == [[], ["v2"]]
    assert data["routes"][0]["targets"] == [
        {"service": "payments", "subset": "v2", "percent": 90.0},
        {"service": "web", "subset": None, "percent": 10.0},
    ]
    assert data["routes"][0]["match"] == "path_prefix: /v2"
    assert [row["source"] for row in data["rules"]] == ["batch", "web", "*"]
    timeout = next(row for row in data["settings"] if row["name"] == "timeout")
    assert (timeout["words"], timeout["level"], timeout["origin"]["file"]) == ("2s", "service", "policy.yaml")
    assert [each["kind"] for each in data["documents"]] == ["service", "route", "intention"]


def test_a_name_outside_has_no_settings_and_an_unknown_one_is_not_found():
    assert one_service(shop(), "mail", {}, NOW)["settings"] == []
    with pytest.raises(NotFound):
        one_service(shop(), "nobody", {}, NOW)


def report(host: str, **more: object) -> ReportRecord:
    values = {"host": host, "revision": 7, "services": ["web"], "agent_version": "1", "at": NOW - timedelta(seconds=5)}
    return ReportRecord.model_validate(values | more)


def test_certificates_stand_in_the_order_of_their_ends():
    reports = (
        report("vm-1", svids={"web": NOW + timedelta(hours=2)}, roots={"web": "ab"}),
        report("vm-2", svids={"web": NOW - timedelta(minutes=1), "batch": NOW + timedelta(hours=1)}),
    )
    roots = {"roots": [{"ends_at": (NOW + timedelta(days=1)).isoformat()}], "authorities": [{"ends_at": ""}]}
    data = certificates(reports, roots, NOW)
    found = [(row["service"], row["host"], row["seconds"]) for row in data["certificates"]]
    assert found == [("web", "vm-2", -60), ("batch", "vm-2", 3600), ("web", "vm-1", 7200)]
    assert (data["roots"][0]["seconds"], data["authorities"][0]["seconds"]) == (86400, None)


def test_a_host_says_how_far_behind_it_is_and_what_its_envoy_rejects():
    row = hosts((report("vm-1", revision=5, rejected={"listener/in": "no"}),), 7, NOW)[0]
    assert (row["behind"], row["age"], row["rejected"]) == (2, 5, {"listener/in": "no"})
    assert row["problems"] == ["rejected listener/in: no"]


def test_what_if_tells_who_would_lose_whom_and_changes_nothing():
    seen = shop()
    before = dict(seen.documents)
    data = what_if(seen, "kind: intention\nname: payments\nsources: [{name: batch, action: allow}]\n", NOW)
    assert {(row["source"], row["turn"]) for row in data["plan"]["calls"]} == {("batch", "widens"), ("web", "loses")}
    assert "-- name: web" in data["diffs"][0]["diff"]
    assert seen.documents == before


def test_what_if_names_the_calls_that_hosts_saw_and_that_would_be_refused():
    last = datetime.now(UTC).isoformat()
    row = {"source": "web", "destination": "payments", "method": "", "path": "", "calls": 9, "last": last}
    text = "kind: intention\nname: payments\nsources: [{name: batch, action: allow}]\n"
    assert what_if(shop(), text, NOW)["plan"]["observed"] == []
    seen = what_if(shop(), text, NOW, (report("vm-1", observed=[row]),))["plan"]["observed"]
    assert [(each["source"], each["destination"]) for each in seen] == [("web", "payments")]
    assert "would refuse what was seen: web -> payments" in seen[0]["words"]


def test_what_could_not_be_applied_is_told_with_its_line():
    data = what_if(shop(), "kind: intention\nname: payments\nsources:\n- name: web\n  action: perhaps\n", NOW)
    assert data == {"problems": ["pasted:5: sources[0].action: must be one of allow, deny, not 'perhaps'"]}
    with pytest.raises(UsageProblem):
        what_if(shop(), "# nothing\n", NOW)


def test_a_request_is_judged_as_explain_does():
    asked = {"source": "batch", "destination": "payments", "method": "get", "path": "/reports/1"}
    assert explained(shop(), (), asked)["allowed"]
    assert not explained(shop(), (), asked | {"path": "/admin"})["allowed"]
    assert explained(shop(), (), {"source": "batch", "destination": "payments"})["outcome"] == "depends"
    with pytest.raises(UsageProblem):
        explained(shop(), (), {"source": "<b>", "destination": "payments"})
