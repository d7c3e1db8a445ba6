"""`meshagent policy diff`, `plan`, `export` and `apply --prune --check`: files beside the mesh."""

from __future__ import annotations

import json

import pytest

BEFORE = """\
kind: intention
name: payments
sources:
- {name: web, action: allow}
- {name: batch, action: allow}
---
kind: service
name: payments
protocol: http
"""
AFTER = """\
kind: intention
name: payments
sources:
- {name: batch, action: allow}
- name: reports
  permissions:
  - {action: allow, http: {path_prefix: /x}}
---
kind: service
name: payments
protocol: http
mtls: permissive
"""


@pytest.fixture
def files(mesh, tmp_path):
    (tmp_path / "before.yaml").write_text(BEFORE)
    (tmp_path / "after.yaml").write_text(AFTER)
    mesh.run("policy", "apply", "-f", "before.yaml")
    return tmp_path


def test_diff_is_silent_and_0_when_nothing_differs(mesh, files):
    result = mesh.run("policy", "diff", "-f", "before.yaml")
    assert result.stdout == ""
    assert "the mesh is as the files say (revision 2)" in result.stderr


def test_diff_shows_lines_and_ends_with_5(mesh, files):
    result = mesh.run("policy", "diff", "-f", "after.yaml", code=5)
    assert "--- mesh/intention/payments\n+++ after.yaml" in result.stdout
    assert "-- name: web" in result.stdout
    assert "+mtls: permissive" in result.stdout
    assert mesh.documents()["service", "payments"].thing.mtls == "strict"


def test_plan_says_who_gains_and_who_loses(mesh, files):
    result = mesh.run("policy", "plan", "-f", "after.yaml")
    assert result.stdout == (
        "reports gains payments: allow below /x; else deny\n"
        "web loses payments\n"
        "service payments: mtls (default) -> permissive\n"
    )
    assert "nothing would change" in mesh.run("policy", "plan", "-f", "before.yaml").stderr
    data = json.loads(mesh.run("policy", "plan", "-f", "after.yaml", "-o", "json").stdout)
    assert [(row["source"], row["turn"], row["rule"]) for row in data["calls"]] == [
        ("reports", "gains", "payments/reports"),
        ("web", "loses", "payments/web"),
    ]


def test_plan_of_a_pruned_intention_speaks_of_the_default(mesh, files, tmp_path):
    (tmp_path / "only.yaml").write_text("kind: service\nname: payments\nprotocol: http\n")
    words = mesh.run("policy", "plan", "-f", "only.yaml", "--prune").stdout
    assert words == "batch loses payments\nweb loses payments\n"


def test_plan_of_a_new_default_names_everybody_else(mesh, files, tmp_path):
    (tmp_path / "open.yaml").write_text("kind: mesh\ndefault_action: allow\n")
    words = mesh.run("policy", "plan", "-f", "open.yaml").stdout
    assert "every service that no intention names gains payments: the mesh's default" in words
    assert "mesh mesh: default_action (default) -> allow" in words


def test_check_changes_nothing_and_says_by_its_exit_code_whether_something_would(mesh, files):
    assert mesh.run("policy", "apply", "-f", "before.yaml", "--check").exit_code == 0
    result = mesh.run("policy", "apply", "-f", "after.yaml", "--check", code=5)
    assert result.stdout == (
        "changed   intention payments (+reports -web)\nchanged   service payments\nnothing was changed (--check)\n"
    )
    assert mesh.documents()["service", "payments"].thing.mtls == "strict"


def test_prune_deletes_what_no_file_names_but_never_the_mesh_itself(mesh, files, tmp_path):
    (tmp_path / "only.yaml").write_text("kind: service\nname: payments\nprotocol: http\n")
    result = mesh.run("policy", "apply", "-f", "only.yaml", "--prune")
    assert result.stdout == "unchanged service payments\ndeleted   intention payments\nrevision 3\n"
    assert set(mesh.documents()) == {("mesh", "mesh"), ("service", "payments")}


def test_prune_with_a_bad_file_does_nothing(mesh, files, tmp_path):
    (tmp_path / "bad.yaml").write_text("kind: intention\nname: payments\nsources: 7\n")
    mesh.run("policy", "apply", "-f", "bad.yaml", "--prune", code=3)
    assert ("service", "payments") in mesh.documents()


def test_export_writes_files_that_apply_takes_back_unchanged(mesh, files, tmp_path):
    result = mesh.run("policy", "export", "out")
    assert result.stdout.splitlines() == [
        "out/intention-payments.yaml",
        "out/mesh-mesh.yaml",
        "out/service-payments.yaml",
    ]
    again = mesh.run("policy", "apply", "-f", "out", "--prune")
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["unchanged"] * 3 + ["revision"]
    assert "is there already" in mesh.run("policy", "export", "out", code=2).stderr
    mesh.run("policy", "export", "out", "--force")


ROUTES = """\
kind: service
name: payments
protocol: http
subsets: {v1: {version: v1}, v2: {version: v2}}
---
kind: route
name: payments
rules:
- match: {path_prefix: /v2, sources: [web]}
  to: [{subset: v1, weight: 95}, {subset: v2, weight: 5}]
  timeout: 2s
- match: {methods: [GET], path_exact: /gone, headers: [{name: x-user, prefix: a}], cookies: [{name: beta}]}
  respond: {status: 410}
- to: [{service: ledger}]
"""


def test_plan_says_which_share_of_requests_goes_elsewhere(mesh, files):
    (files / "routes.yaml").write_text(ROUTES)
    for version in ("v1", "v2"):
        mesh.register("payments", host=f"vm-{version}", meta={"version": version})
    mesh.register("ledger")
    lines = mesh.run("policy", "plan", "-f", "routes.yaml").stdout.splitlines()
    gone = "requests to payments GET exactly /gone with x-user=a... and cookie beta are answered 410 (was 0 %)"
    assert lines[:5] == [
        f"100 % of every caller's {gone}",
        "100 % of every caller's other requests to payments go to ledger (was 0 %)",
        "95 % of web's requests to payments below /v2 go to v1 (was 0 %)",
        "5 % of web's requests to payments below /v2 go to v2 (was 0 %)",
        "route payments: rule 0: timeout (default) -> 2s",
    ]
    mesh.run("policy", "apply", "-f", "routes.yaml")
    (files / "routes.yaml").write_text(ROUTES.replace("95", "90").replace("weight: 5", "weight: 10"))
    assert mesh.run("policy", "plan", "-f", "routes.yaml").stdout == (
        "90 % of web's requests to payments below /v2 go to v1 (was 95 %)\n"
        "10 % of web's requests to payments below /v2 go to v2 (was 5 %)\n"
    )
    row = mesh.json("policy", "plan", "-f", "routes.yaml")["ways"][1]
    assert (row["source"], row["subset"], row["percent"], row["was"]) == ("web", "v2", 10, 5)
    (files / "routes.yaml").write_text(ROUTES.replace(", {subset: v2, weight: 5}", ""))
    assert "0 % of web's requests to payments below /v2 go to v2 (was 5 %)" in (
        mesh.run("policy", "plan", "-f", "routes.yaml").stdout
    )


def test_plan_speaks_of_the_connections_of_a_tcp_service(mesh, files):
    service = "kind: service\nname: db\nprotocol: tcp\nsubsets: {main: {role: main}, spare: {role: spare}}\n"
    split = "rules:\n- to: [{subset: main, weight: 3}, {subset: spare}]\n"
    (files / "db.yaml").write_text(f"{service}---\nkind: route\nname: db\n{split}")
    mesh.register("db", "tcp", meta={"role": "main"})
    mesh.register("db", "tcp", host="vm-2", meta={"role": "spare"})
    lines = mesh.run("policy", "plan", "-f", "db.yaml").stdout.splitlines()
    assert lines[:2] == [
        "75 % of every caller's connections to db go to main (was 0 %)",
        "25 % of every caller's connections to db go to spare (was 0 %)",
    ]
