"""Shadow by command: what is written, and what every command that judges says of it."""

from __future__ import annotations

import pytest


def source(mesh, name="web", shadow=True):
    return mesh.documents()["intention", "payments"].thing.source(name, shadow=shadow)


def test_a_shadow_deny_stands_beside_what_is_in_force(mesh):
    mesh.run("intention", "allow", "web", "payments")
    result = mesh.run("intention", "deny", "web", "payments", "--shadow", "--reason", "INC-7")
    assert result.stdout == "web -> payments: deny, in shadow (revision 3)\n"
    assert (source(mesh).action, source(mesh, shadow=False).action) == ("deny", "allow")
    assert mesh.documents()["intention", "payments"].origin("web:shadow").who == "ann@vm-1"


def test_a_shadow_deny_of_what_is_denied_already_is_told(mesh):
    denied = mesh.run("intention", "deny", "web", "payments", "--shadow")
    assert "nothing that passes now would be refused: web -> payments is denied" in denied.stderr
    mesh.run("intention", "allow", "*", "payments")
    for source in ("batch", "*"):
        assert "nothing that passes" not in mesh.run("intention", "deny", source, "payments", "--shadow").stderr


def test_check_says_yes_and_what_shadow_would_refuse(mesh):
    mesh.run("intention", "allow", "web", "payments")
    mesh.run("intention", "deny", "web", "payments", "--shadow", "--reason", "INC-7")
    words = mesh.run("intention", "check", "web", "payments").stdout
    assert "allowed" in words
    assert "shadow   it would be refused: intention payments/web:shadow says deny (ann@vm-1" in words
    told = mesh.json("explain", "web", "payments")
    assert told["allowed"] and told["shadow"]["rule"] == "payments/web:shadow" and told["shadow"]["reason"] == "INC-7"


def test_where_nothing_is_in_shadow_nothing_is_said_of_it(mesh):
    mesh.run("intention", "allow", "web", "payments")
    assert mesh.json("intention", "check", "web", "payments")["shadow"] is None


def test_list_and_show_tell_what_is_in_shadow(mesh):
    mesh.run("intention", "allow", "web", "payments")
    mesh.run("intention", "deny", "web", "payments", "--shadow")
    assert "deny (in shadow)" in mesh.run("intention", "list").stdout
    assert [row["shadow"] for row in mesh.json("intention", "list")] == [False, True]
    rules = mesh.json("intention", "show", "payments")["rules"]
    assert [(row["rule"], row["shadow"]) for row in rules] == [
        ("payments/web", False),
        ("mesh/default_action", False),
        ("payments/web:shadow", True),
    ]
    assert [row["shadow"] for row in mesh.json("intention", "show", "web", "payments")] == [False, True]


def test_a_path_in_shadow_leaves_the_rest_as_it_is_there(mesh):
    mesh.register("payments")
    mesh.run("intention", "allow", "web", "payments")
    mesh.run("intention", "deny", "web", "payments", "--path", "/admin", "--ignore-case", "--shadow")
    assert [each.action for each in source(mesh).permissions] == ["deny", "allow"]
    assert source(mesh, shadow=False).action == "allow"
    mesh.run("intention", "check", "web", "payments", "--path", "/admin")
    assert mesh.json("explain", "web", "payments", "GET", "/admin")["shadow"]["outcome"] == "deny"
    assert mesh.json("explain", "web", "payments", "GET", "/")["shadow"] is None


def test_delete_takes_back_the_shadow_alone_or_both(mesh):
    mesh.run("intention", "allow", "web", "payments")
    mesh.run("intention", "deny", "web", "payments", "--shadow")
    mesh.run("intention", "delete", "web", "payments", "--shadow")
    assert source(mesh) is None and source(mesh, shadow=False).action == "allow"
    assert "in shadow" in mesh.run("intention", "delete", "web", "payments", "--shadow", code=1).stderr
    mesh.run("intention", "deny", "web", "payments", "--shadow")
    mesh.run("intention", "delete", "web", "payments")
    assert ("intention", "payments") not in mesh.documents()


def written(path, action, *more):
    text = f"kind: mesh\nname: mesh\ndefault_action: {action}\n"
    path.write_text("---\n".join((text, *more)))
    return str(path)


def test_a_mesh_that_denies_in_shadow_is_planned_applied_and_told(mesh, tmp_path):
    mesh.register("payments")
    mesh.run("policy", "apply", "-f", written(tmp_path / "mesh.yaml", "allow"))
    file = written(tmp_path / "mesh.yaml", "shadow-deny")
    plan = mesh.run("policy", "plan", "-f", file).stdout
    assert "in shadow: every service that no intention names loses payments" in plan
    applied = mesh.run("policy", "apply", "-f", file)
    assert "shadow-deny lets every call through that no intention names, and counts it" in applied.stderr
    told = mesh.json("intention", "check", "web", "payments")
    assert told["allowed"] and told["shadow"]["rule"] is None
    again = mesh.run("policy", "plan", "-f", written(tmp_path / "mesh.yaml", "deny")).stdout
    assert "every service that no intention names loses payments" in again and "in shadow" not in again


def test_apply_marks_the_entries_in_shadow_that_came_and_went(mesh, tmp_path):
    file = tmp_path / "payments.yaml"
    file.write_text("{kind: intention, name: payments, sources: [{name: web, action: allow}]}")
    mesh.run("policy", "apply", "-f", str(file))
    file.write_text(
        "{kind: intention, name: payments, sources: [{name: web, action: allow}, {name: web, action: deny, shadow: true}]}"
    )
    assert "(+web:shadow)" in mesh.run("policy", "apply", "-f", str(file)).stdout


@pytest.mark.parametrize(("expected", "code"), [("denied", 0), ("allowed", 5)])
def test_a_case_can_expect_what_shadow_would_do(mesh, tmp_path, expected, code):
    written(
        tmp_path / "policy.yaml",
        "shadow-deny",
        "{kind: intention, name: payments, sources: [{name: web, action: allow}]}\n",
    )
    (tmp_path / "some.cases.yaml").write_text(
        "services: [{name: payments, protocol: http}]\n"
        "cases:\n"
        "- {from: web, to: payments, expect: allowed, shadow: allowed}\n"
        f"- {{from: batch, to: payments, expect: allowed, shadow: {expected}}}\n"
    )
    told = mesh.run("policy", "test", "-f", str(tmp_path), code=code)
    assert ("in shadow: no intention names batch -> payments" in told.stdout) == (code == 5)


def test_a_shadow_that_asks_of_requests_what_a_tcp_service_cannot_tell_is_refused_with_its_line(mesh, tmp_path):
    mesh.register("db", "tcp")
    file = tmp_path / "db.yaml"
    file.write_text(
        "kind: intention\nname: db\nsources:\n- {name: web, action: allow}\n"
        "- {name: web, shadow: true, permissions: [{action: allow, http: {methods: [GET]}}]}\n"
    )
    said = mesh.run("policy", "apply", "-f", str(file), code=3).stderr
    assert said.count("db is a tcp service") == 1 and "db.yaml:5" in said
    assert "tcp service" in mesh.run("intention", "deny", "web", "db", "--path", "/x", "--shadow", code=3).stderr


def test_an_allow_in_shadow_allows_nobody_and_no_lint_says_that_it_does(mesh, tmp_path):
    file = tmp_path / "payments.yaml"
    file.write_text("{kind: intention, name: payments, sources: [{name: '*', action: allow, shadow: true}]}")
    assert "L006" not in mesh.run("policy", "lint", "-f", str(file)).stdout
    file.write_text("{kind: intention, name: payments, sources: [{name: '*', action: allow}]}")
    assert "L006" in mesh.run("policy", "lint", "-f", str(file), code=5).stdout
