"""`intention suggest` and what `policy plan` says of calls that were seen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import yaml

NOW = datetime.now(UTC).replace(microsecond=0)


def saw(source, destination, method="", path="", calls=3, ago=0):
    last = (NOW - timedelta(seconds=ago)).isoformat()
    return {"source": source, "destination": destination, "method": method, "path": path, "calls": calls, "last": last}


def default(mesh, tmp_path, action):
    file = tmp_path / "mesh.yaml"
    file.write_text(f"kind: mesh\nname: mesh\ndefault_action: {action}\n")
    mesh.run("policy", "apply", "-f", str(file))
    return str(file)


@pytest.fixture
def shop(mesh, tmp_path):
    """payments (http) and db (tcp) in a mesh that denies in shadow, and two hosts that saw them called."""
    mesh.register("payments")
    mesh.register("db", "tcp")
    default(mesh, tmp_path, "shadow-deny")
    mesh.run("intention", "allow", "web", "db")
    mesh.report(
        "vm-1",
        ["web", "batch"],
        3,
        observed=[saw("web", "payments"), saw("web", "db"), saw("batch", "db", ago=7200), saw("other", "payments")],
    )
    mesh.report(
        "vm-2", ["payments"], 3, observed=[saw("web", "payments", "GET", "/orders/*", 9), saw("x", "db", "GET", "/")]
    )
    return mesh


def test_documents_with_their_evidence_on_stdout_and_what_they_mean_beside_it(shop):
    told = shop.run("intention", "suggest")
    assert "# 3 calls, the last at" in told.stdout and "seen by vm-1" in told.stdout
    documents = {each["name"]: [row["name"] for row in each["sources"]] for each in yaml.safe_load_all(told.stdout)}
    assert documents == {"db": ["web", "batch"], "payments": ["web"]}
    assert "would mean: in shadow: web gains payments: allow" in told.stderr
    assert "say default_action: deny" in told.stderr


def test_what_is_suggested_can_be_applied_and_then_nothing_is_missing(shop, tmp_path):
    file = tmp_path / "suggested.yaml"
    file.write_text(shop.run("intention", "suggest", "--l7").stdout)
    shop.run("policy", "apply", "-f", str(file))
    again = shop.run("intention", "suggest", "--l7")
    assert again.stdout == "" and "nothing is missing: 2 hosts tell" in again.stderr
    assert shop.json("explain", "web", "payments", "GET", "/orders/17")["shadow"] is None
    assert shop.json("explain", "web", "payments", "GET", "/admin", code=5)["outcome"] == "deny"
    assert shop.json("explain", "batch", "db")["shadow"] is None


def test_by_request_each_permission_has_its_evidence(shop):
    text = shop.run("intention", "suggest", "--l7", "--service", "payments").stdout
    lines = text.splitlines()
    place = next(number for number, line in enumerate(lines) if "seen by vm-2" in line)
    assert "9 calls" in lines[place] and lines[place + 1].startswith("  - action: allow")
    assert "path_regex: /orders/[^/]+" in text


def test_a_host_is_believed_in_what_its_own_services_call_or_are_called(shop):
    pairs = {(each["source"], each["destination"]) for each in shop.json("intention", "suggest")["suggestions"]}
    assert pairs == {("web", "payments"), ("batch", "db")}


def test_since_and_service_narrow_what_is_looked_at(shop):
    recent = shop.json("intention", "suggest", "--since", "1h")["suggestions"]
    assert [each["destination"] for each in recent] == ["payments"]
    assert recent[0]["evidence"][0] | {"last": ""} == {"calls": 3, "last": "", "hosts": ["vm-1"]}
    assert [each["source"] for each in shop.json("intention", "suggest", "--service", "batch")["suggestions"]] == [
        "batch"
    ]


def test_a_pair_without_a_logged_request_is_told(shop):
    shop.report("vm-2", ["payments"], 3, observed=[])
    told = shop.run("intention", "suggest", "--l7", "--service", "payments")
    assert "web -> payments: no request of it was logged, so it is allowed whole" in told.stderr


def test_a_host_that_did_not_log_everything_is_told_where_it_matters(shop):
    shop.report("vm-2", ["payments"], 3, observed=[], sampled=NOW - timedelta(hours=2))
    words = "vm-2 had more requests than it logs"
    assert words in shop.run("intention", "suggest", "--l7").stderr
    assert words not in shop.run("intention", "suggest", "--l7", "--since", "1h").stderr
    assert words not in shop.run("intention", "suggest").stderr


def test_what_a_shadow_names_is_told_and_left_alone(shop):
    shop.run("intention", "deny", "web", "payments", "--shadow")
    told = shop.run("intention", "suggest", "--service", "payments")
    assert told.stdout == "" and "payments/web:shadow names the pair" in told.stderr


def test_a_plan_says_which_calls_that_were_seen_it_would_refuse(shop, tmp_path):
    file = tmp_path / "deny.yaml"
    file.write_text("kind: mesh\nname: mesh\ndefault_action: deny\n")
    told = shop.run("policy", "plan", "-f", str(file)).stdout
    assert "would refuse what was seen: web -> payments: 3 calls, the last at" in told
    assert "would refuse what was seen: web -> payments GET /orders/*: 9 calls" in told
    assert "web -> db" not in told
    row = shop.json("policy", "plan", "-f", str(file))["observed"][0]
    assert (row["source"], row["destination"], row["calls"], row["rule"]) == ("batch", "db", 3, "mesh/default_action")


def test_a_plan_of_permissions_says_that_some_may_be_refused(shop, tmp_path):
    shop.run("intention", "allow", "web", "payments")
    file = tmp_path / "narrow.yaml"
    file.write_text(
        "kind: intention\nname: payments\n"
        "sources: [{name: web, permissions: [{action: allow, http: {path_prefix: /x}}]}]\n"
    )
    told = shop.run("policy", "plan", "-f", str(file)).stdout
    assert "would refuse some of what was seen: web -> payments: 3 calls" in told
    assert "would refuse what was seen: web -> payments GET /orders/*" in told
