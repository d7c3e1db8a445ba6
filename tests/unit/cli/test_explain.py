"""`meshagent explain` and `intention check`: the verdict, what decides, and the exit code."""

from __future__ import annotations

import pytest


def test_an_allowed_call_names_the_rule_and_the_instances(mesh):
    mesh.register("payments", host="vm-2", address="fd00::1", health="failing")
    mesh.run("intention", "allow", "web", "payments", "--reason", "INC-7")
    shown = mesh.run("explain", "web", "payments", "GET", "/").stdout
    assert shown.splitlines()[:3] == [
        "web -> payments GET /: allowed",
        "  because  intention payments/web says allow",
        "  reason   INC-7",
    ]
    assert "  from     ann@vm-1 at " in shown
    assert [line.split() for line in shown.splitlines()[5:7]] == [
        ["payments", "vm-1", "10.0.0.1:21000", "passing", "yes"],
        ["payments", "vm-2", "[fd00::1]:21000", "failing", "no"],
    ]


def test_json_has_the_same_facts(mesh):
    mesh.run("intention", "allow", "web", "payments", "--path", "/reports")
    value = mesh.json("explain", "web", "payments", "POST", "/admin", "--header", "X-Team=fin", code=5)
    assert value["request"] == {"method": "POST", "path": "/admin", "headers": [["x-team", "fin"]]}
    assert (value["allowed"], value["outcome"], value["rule"]) == (False, "deny", "payments/web")
    assert value["origin"]["who"] == "ann@vm-1"
    assert [each["called"] for each in value["instances"]] == [True]
    assert value["protocol"] == "http"


def test_the_deciding_permission_is_shown_in_words(mesh):
    mesh.run("intention", "allow", "web", "payments", "--path", "/reports", "--method", "get")
    shown = mesh.run("explain", "web", "payments", "get", "/reports/x").stdout
    assert "permission 0 of intention payments/web says allow (allow GET below /reports)" in shown


def test_the_default_decides_with_its_own_origin(mesh):
    shown = mesh.run("explain", "web", "payments", code=5).stdout
    assert "the mesh's default is deny" in shown
    assert "from     seed at 2026-11-21T00:00:00Z" in shown


def test_a_host_that_has_not_applied_the_policy_yet_is_named(mesh):
    mesh.report("vm-1", ["payments"], 2)
    mesh.report("vm-2", ["payments"], 1)
    mesh.report("vm-3", ["web"], 1)
    mesh.run("intention", "allow", "web", "payments")
    stderr = mesh.run("explain", "web", "payments").stderr
    assert stderr == "warning: vm-2 has applied revision 1 only: it may still decide by older rules\n"


def test_no_instance_is_said(mesh):
    mesh.run("intention", "allow", "web", "nobody")
    result = mesh.run("explain", "web", "nobody")
    assert "warning: no instance of nobody is passing its checks" in result.stderr
    assert "no service nobody is registered yet" in result.stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ([], 5),
        (["--path", "/reports"], 0),
        (["--method", "GET", "--path", "/reports/2"], 0),
        (["--path", "/"], 5),
        (["--path", "/reports%2fx"], 5),
        (["--path", "/x/../reports"], 0),
        (["--header", "a_b=c", "--path", "/reports"], 5),
    ],
)
def test_check_answers_with_its_exit_code(mesh, args, code):
    mesh.run("intention", "allow", "web", "payments", "--path", "/reports")
    mesh.run("intention", "check", "web", "payments", *args, code=code)


def test_a_rule_that_decides_by_request_is_no_plain_yes(mesh):
    mesh.run("intention", "allow", "web", "payments", "--path", "/reports")
    value = mesh.json("intention", "check", "web", "payments", code=5)
    assert (value["outcome"], value["allowed"]) == ("depends", False)
    assert "depends on the request" in mesh.run("intention", "check", "web", "payments", code=5).stdout


def test_an_expired_intention_decides_nothing(mesh, monkeypatch):
    from datetime import UTC, datetime

    mesh.run("intention", "allow", "web", "payments", "--expires-at", "2099-01-01T00:00:00Z")
    mesh.run("intention", "check", "web", "payments")
    monkeypatch.setattr("meshagent.cli.explain.now_utc", lambda: datetime(2099, 1, 1, tzinfo=UTC))
    mesh.run("intention", "check", "web", "payments", code=5)


def test_requests_are_not_judged_on_a_tcp_service(mesh):
    mesh.run("intention", "allow", "web", "db")
    result = mesh.run("explain", "web", "db", "GET", "/")
    assert "db is a tcp service: its proxy sees connections, not requests" in result.stderr


def test_permissions_on_what_has_become_tcp_are_a_deny(mesh):
    mesh.run("intention", "allow", "web", "payments", "--path", "/")
    mesh.register("payments", "tcp", "vm-0")
    shown = mesh.run("explain", "web", "payments", "GET", "/", code=5).stdout
    assert "which a tcp service cannot judge" in shown


def test_a_record_that_cannot_be_read_is_warned_of_and_closes(mesh):
    mesh.put("meshagent/v1/config/intention/payments", b"nonsense")
    result = mesh.run("explain", "web", "payments", code=5)
    assert "warning: the intention record payments cannot be read" in result.stderr


def test_a_path_without_its_method_is_a_usage_error(mesh):
    assert "write the method before it, such as GET /x" in mesh.run("explain", "web", "payments", "/x", code=2).stderr


def test_wildcards_cannot_be_explained(mesh):
    mesh.run("explain", "*", "payments", code=2)


DEFAULTS = """kind: mesh
name: mesh
timeouts: {request: 15s, connect: 1s}
retry_budget: {percent: 40}
tracing: {otlp: "127.0.0.1:4317", sampling: 1}
---
kind: service
name: payments
timeouts:
  idle: 30s
access_log: {only: errors}
tracing: {sampling: 50}
---
kind: route
name: payments
rules:
  - match: {path_prefix: /reports}
    timeout: 2s
    retry: {attempts: 1}
"""


def test_each_setting_in_force_says_which_line_said_it(mesh, tmp_path):
    mesh.run("intention", "allow", "web", "payments")
    file = tmp_path / "all.yaml"
    file.write_text(DEFAULTS)
    mesh.run("policy", "apply", "-f", str(file))
    value = mesh.json("explain", "web", "payments", "GET", "/reports/x")
    told = {each["name"]: (each["value"], each["level"], each["origin"]["line"]) for each in value["settings"]}
    assert told == {
        "timeout": ("2s", "route", 17),
        "idle timeout": ("30s", "service", 10),
        "connect timeout": ("1s", "mesh", 3),
        "retries": (
            {"attempts": 1, "on": ["connect-failure", "refused-stream", "reset-before-request"], "statuses": []},
            "route",
            17,
        ),
        "retry budget": ({"percent": 40, "min_concurrent": 5}, "mesh", 4),
        "access log": ({"only": "errors", "slower_than": None}, "service", 11),
        "tracing": ({"sampling": 50.0, "otlp": "127.0.0.1:4317"}, "service", 12),
    }
    assert value["settings"][0]["origin"]["file"] == str(file)
    shown = mesh.run("explain", "web", "payments", "GET", "/").stdout
    row = next(line for line in shown.splitlines() if line.startswith("timeout "))
    assert row.split()[1:4] == ["15s", "mesh", f"{file}:3,"]


def test_settings_that_nobody_said_are_built_in(mesh):
    mesh.run("intention", "allow", "web", "payments")
    settings = mesh.json("explain", "web", "payments", "GET", "/")["settings"]
    assert {each["level"] for each in settings} == {"built-in"}
    assert [each["value"] for each in settings[:3]] == ["0s", "5m", "2s"]
