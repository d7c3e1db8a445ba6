"""`meshagent explain TICKET` and `explain --last`: the log's line, the policy of then and of now, and what to do."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta

import pytest

from meshagent.envoy.requests import seen_of

TICKET = "1795285781540400-7"


def line(seconds=0.0, **more):
    """A refusal of web at payments, so many seconds from now, as the agent gives it."""
    fields = {
        "time": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(),
        "ticket": TICKET,
        "side": "inbound",
        "service": "payments",
        "source": "spiffe://mesh.internal/svc/web",
        "status": 403,
        "details": "rbac_access_denied_matched_policy[none]",
        "method": "GET",
        "path": "/admin(x)",
    }
    return seen_of(fields | more).data()


@pytest.fixture
def logged(agent):
    """Lets the agent have logged these."""

    def put(*lines):
        agent.answer("GET", "/v1/requests", {"requests": list(lines), "all": True})

    return put


def test_nobody_said_a_word_of_the_pair(mesh, logged):
    logged(line())
    shown = mesh.run("explain", TICKET, code=5).stdout
    first, *rest = shown.splitlines()
    assert first == "web -> payments GET /admin(x): 403 no-intention"
    assert "  because  no intention names web -> payments; the mesh's default is deny" in rest
    assert "  from     seed at 2026-11-21T00:00:00Z" in rest
    assert rest[-1] == "  next     meshagent intention allow web payments --method GET --path-exact '/admin(x)'"


def test_a_rule_on_requests_is_named_with_who_wrote_it(mesh, logged):
    mesh.run("intention", "allow", "web", "payments", "--path", "/reports", "--reason", "INC-7")
    logged(line(seconds=2))
    data = mesh.json("explain", TICKET, code=5)
    assert (data["code"], data["policy"]["rule"]) == ("l7-rule", "payments/web")
    assert data["policy"]["origin"]["who"] == "ann@vm-1" and data["policy"]["changed_since"] == []
    assert data["seen"]["flag_words"] == []


def test_the_command_that_it_names_allows_that_very_call_and_no_other(mesh, logged):
    mesh.run("intention", "deny", "web", "payments")
    logged(line(seconds=2))
    step = mesh.json("explain", TICKET, code=5)["next_steps"][0]
    mesh.run(*shlex.split(step)[1:])
    assert mesh.run("intention", "check", "web", "payments", "--method", "GET", "--path", "/admin(x)")
    assert mesh.run("intention", "check", "web", "payments", "--method", "POST", "--path", "/admin(x)", code=5)
    assert mesh.run("intention", "check", "web", "payments", "--method", "GET", "--path", "/", code=5)


def test_what_was_changed_since_is_told_and_the_policy_of_then_decides(mesh, logged):
    mesh.run("intention", "deny", "web", "payments", "--reason", "quarantine")
    before = line(seconds=2)
    mesh.register("payments", host="vm-2")
    mesh.run("intention", "delete", "web", "payments")
    mesh.run("intention", "allow", "web", "payments")
    logged(before | {"time": "2026-11-21T00:00:01+00:00"})  # after the mesh was set up, before all of it
    shown = mesh.run("explain", TICKET).stdout
    assert "no-intention" in shown and "  now      allowed: intention payments/web says allow" in shown
    assert [row.split()[2] for row in shown.splitlines() if row.startswith("  since")] == ["4", "3", "2"]
    assert "  next" not in shown


def test_where_the_policy_had_only_just_come_that_is_said(mesh, logged):
    mesh.run("intention", "allow", "web", "payments")
    logged(line(seconds=1))
    assert "doubt    by the policy of then it was allowed" in mesh.run("explain", TICKET).stdout


def test_a_failure_that_is_not_policys_says_what_to_do(mesh, logged):
    uh = {
        "side": "outbound to payments",
        "service": "web",
        "status": 503,
        "flags": "UH",
        "details": "no_healthy_upstream",
    }
    logged(line(**uh))
    shown = mesh.run("explain", TICKET).stdout
    assert "web -> payments GET /admin(x): 503 no-endpoints" in shown
    assert "flags    no instance is in service" in shown
    assert "meshagent explain web payments lists the instances" in shown


def test_without_a_store_the_log_alone_speaks(agent, logged, env):
    logged(line())
    agent.env["MESHAGENT_STORE"] = "sqlite:///nowhere/mesh.db"
    result = agent.run("explain", TICKET)
    assert "warning: the policy cannot be looked at" in result.stderr
    assert "403 intention" in result.stdout and f"meshagent explain {TICKET} on" in result.stdout


def test_the_last_one_is_told_by_who_answered_it(mesh, agent, logged):
    far = {"details": "x", "flags": "UF", "status": 503}
    near = {"side": "outbound to payments", "service": "web", "status": 503, "details": "via_upstream"}
    logged(line(ticket="1795285781540401-9", far_ticket=TICKET, refused="app-down", **near), line(**far))
    shown = mesh.run("explain", "--last", "web", "payments").stdout
    assert "503 app-down" in shown and "the destination's proxy (payments)" in shown
    assert agent.asked[-1][2] == {"source": ["web"], "destination": ["payments"], "failed": ["1"], "most": ["20"]}


def test_another_hosts_ticket_is_sent_there(mesh, logged):
    near = {"side": "outbound to payments", "service": "web", "status": 503, "details": "via_upstream"}
    logged(line(ticket="1795285781540401-9", far_ticket=TICKET, refused="app-down", **near))
    result = mesh.run("explain", TICKET)
    assert "another host's proxy answered" in result.stderr and "503 app-down" in result.stdout


def test_what_a_stranger_wrote_makes_no_line_of_its_own(mesh, logged):
    logged(line(claimed="spiffe://x/y\n  next     sudo rm", failure="TLS_error: \x1b[2J", status=0, details=None))
    shown = mesh.run("explain", TICKET).stdout
    assert not any(row.startswith("  next     sudo") for row in shown.splitlines())
    assert "\x1b" not in shown


def test_the_log_is_printed_with_reasons_and_tickets(agent, logged):
    doubted = line(status=200, details="via_upstream", shadow="denied")
    logged(line(), line(status=503, flags="UF,URX", details="x"), doubted)
    shown = agent.run("proxy", "requests", "--source", "web", "--failed", "--limit", "5").stdout
    first, second, third = shown.splitlines()[1:]
    assert "(shadow)" in third and "(shadow)" not in first + second
    assert "intention" in first and TICKET in first and "GET /admin(x)" in first
    assert "app-down" in second and "the connection to the other side failed, every try failed" in second
    assert agent.asked[-1][2] == {"source": ["web"], "failed": ["1"], "most": ["5"]}
    logged()
    assert "no such call" in agent.run("proxy", "requests").stderr


def test_what_the_log_does_not_have_is_said(mesh, logged):
    logged()
    assert "no call with the ticket" in mesh.run("explain", TICKET, code=1).stderr
    assert (
        "has no call of web to payments that failed" in mesh.run("explain", "--last", "web", "payments", code=1).stderr
    )


def test_a_service_alone_is_no_question(mesh):
    assert "web is no ticket: name the destination, too" in mesh.run("explain", "web", code=2).stderr
