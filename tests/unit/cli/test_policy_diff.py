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
