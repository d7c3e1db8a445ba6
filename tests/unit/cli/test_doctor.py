"""`meshagent doctor`: each fault is found, named once, and has a next step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from meshagent.cli.diagnosis import Facts, diagnose
from meshagent.errors import AgentUnreachable, StoreUnavailable
from meshagent.state.records import ReportRecord
from meshagent.store.base import StoreHealth

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
WELL = StoreHealth(ok=True, version="SQLite 3.40.1")
AGENT = {
    "envoy": {"ready": True},
    "envoy_version": "1.40.0",
    "store_ok": True,
    "applied_revision": 4,
    "problems": {},
    "rejected": {},
    "svids": {"web": {"expires_at": "2126-11-21T13:00:00+00:00"}},
}


def report(host="vm-1", **more):
    facts = {"host": host, "revision": 4, "services": ["web"], "agent_version": "0.1.0", "at": NOW}
    return ReportRecord.model_validate(facts | more)


def well(**more):
    return Facts(**({"at": NOW, "store": WELL, "mesh": "mesh.internal", "revision": 4, "agent": AGENT} | more))


def test_what_is_well_has_nothing_to_do():
    found = diagnose(well(reports=[report()]))
    assert {each.state for each in found} == {"ok"}
    assert not any(each.next_step for each in found)


@pytest.mark.parametrize(
    ("facts", "about", "word"),
    [
        ({"store": None, "store_error": StoreUnavailable("no answer", next_step="start it")}, "store", "no answer"),
        ({"store": StoreHealth(ok=False, version="", problems=("the disk is full",))}, "store", "the disk is full"),
        ({"refused": {"read a/b": "403"}}, "rights", "read a/b"),
        ({"unreadable": {"intention payments": "no JSON"}}, "policy", "intention payments"),
        ({"agent": None, "agent_error": AgentUnreachable("no agent", next_step="start one")}, "agent", "no agent"),
        ({"agent": AGENT | {"envoy": {"ready": False}}}, "envoy", "not connected"),
        ({"agent": AGENT | {"store_ok": False, "stale_since": "11:00"}}, "agent", "since 11:00"),
        ({"agent": AGENT | {"applied_revision": 3}}, "agent", "applies revision 3"),
        ({"agent": AGENT | {"problems": {"svid/web": "the CA is away"}}}, "agent", "svid/web: the CA is away"),
        ({"agent": AGENT | {"rejected": {"in/21000": "port taken"}}}, "envoy", "rejects in/21000"),
        (
            {"agent": AGENT | {"svids": {"web": {"expires_at": "2026-11-21T11:00:00+00:00"}}}},
            "identity",
            "of web ended",
        ),
        ({"reports": [report(problems=["x is broken"])]}, "host vm-1", "x is broken"),
        ({"reports": [report(rejected={"in/1": "no"})]}, "host vm-1", "rejects in/1"),
        ({"reports": [report(svids={"web": NOW - timedelta(1)})]}, "identity", "host vm-1: the certificate of web"),
        ({"reports": [report(at=NOW + timedelta(hours=1))]}, "host vm-1", "3600 s ahead"),
        ({"reports": [report(), report("vm-2", agent_version="0.2.0")]}, "fleet", "0.1.0, 0.2.0"),
    ],
)
def test_each_fault_is_found_once_with_a_next_step(facts, about, word):
    found = [each for each in diagnose(well(**facts)) if each.state != "ok"]
    assert len(found) == 1
    assert found[0].about == about
    assert word in found[0].what
    assert found[0].next_step


def test_the_command_asks_store_and_agent_and_exits_1_when_something_is_bad(mesh, agent):
    agent.answer("GET", "/v1/status", AGENT | {"applied_revision": 1, "services": ["payments"]})
    result = mesh.run("doctor")
    assert "mesh.internal, revision 1" in result.stdout
    mesh.put("meshagent/v1/config/intention/payments", b"{}")
    found = mesh.json("doctor", code=1)
    assert [each["about"] for each in found if each["state"] == "bad"] == ["policy"]


def test_without_store_and_agent_both_are_named(env):
    from tests.unit.cli.conftest import Commands

    found = Commands(env).json("doctor", code=1)
    assert [each["about"] for each in found if each["state"] == "bad"] == ["store", "agent"]


@pytest.mark.parametrize(
    ("left", "near", "reached", "words"),
    [
        (1, True, 0, "web -> payments: max_requests has 1 of 10 left; beyond it calls are refused with 503"),
        (10, False, 4, "web -> payments: max_requests of 10 was reached 4 times since Envoy started"),
    ],
)
def test_a_limit_is_warned_of_before_it_bites_and_when_it_has_bitten(left, near, reached, words):
    row = {"source": "web", "upstream": "payments", "limit": "max_requests", "allowed": 10}
    found = diagnose(well(agent=AGENT | {"limits": [row | {"left": left, "near": near, "reached": reached}]}))
    (finding,) = (each for each in found if each.about == "limits")
    assert (finding.state, finding.what) == ("warning", words)
    assert "meshagent policy get service payments" in finding.next_step
    calm = diagnose(well(agent=AGENT | {"limits": [row | {"left": 9, "near": False, "reached": 0}]}))
    assert not any(each.about == "limits" for each in calm)


def test_a_certificate_that_is_not_renewed_in_time_is_bad_before_it_ends():
    svid = {"expires_at": (NOW + timedelta(minutes=15)).isoformat(), "overdue": True}
    facts = Facts(NOW, store=WELL, agent={**AGENT, "svids": {"web": svid}})
    (found,) = [each for each in diagnose(facts) if each.about == "identity"]
    assert found.state == "bad" and "web is not renewed after 66 %" in found.what


def test_a_certificate_that_envoy_does_not_serve_has_a_next_step_of_its_own():
    problems = {"served/web": "Envoy serves another certificate", "intention/x": "broken"}
    facts = Facts(NOW, store=WELL, agent={**AGENT, "problems": problems})
    steps = {each.what.partition(":")[0]: each.next_step for each in diagnose(facts) if each.about == "agent"}
    assert "proxy status" in steps["served/web"] and steps["intention/x"] != steps["served/web"]


@pytest.mark.parametrize(("days", "state"), [(31, None), (29, "warning"), (-1, "bad")])
def test_a_root_that_ends_is_told_a_month_before(days, state):
    root = {"digest": "ab" * 32, "expires_at": (NOW + timedelta(days=days)).isoformat(), "leaving": False}
    found = diagnose(Facts(NOW, store=WELL, agent={**AGENT, "roots": [root, {**root, "leaving": True}]}))
    told = [(each.state, each.next_step) for each in found if "root abab" in each.what]
    assert told == ([(state, "meshagent ca rotate")] if state else [])


def test_hosts_that_believe_different_roots_are_told():
    def report(host, bundle):
        return ReportRecord(host=host, revision=1, services=[], agent_version="1", bundle=bundle, at=NOW)

    both = diagnose(Facts(NOW, store=WELL, reports=[report("vm-1", "aa"), report("vm-2", "bb")]))
    same = diagnose(Facts(NOW, store=WELL, reports=[report("vm-1", "aa"), report("vm-2", "aa")]))
    assert any("different roots" in each.what for each in both)
    assert not any("different roots" in each.what for each in same)
