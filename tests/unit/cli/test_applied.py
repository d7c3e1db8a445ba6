"""--wait: how far a change has come, in words, as data and in the exit code."""

from __future__ import annotations

import pytest

from meshagent.errors import StoreUnavailable

ALLOW = ("intention", "allow", "web", "payments")


def test_the_proxies_that_applied_it_are_counted(mesh):
    mesh.report("vm-1", ["payments"], 2)
    mesh.report("vm-2", ["payments"], 7)
    mesh.report("vm-3", ["web"], 1)
    result = mesh.run(*ALLOW, "--wait")
    assert result.stdout == "web -> payments: allow (revision 2)\n"
    assert result.stderr.startswith("applied on 2 of 2 proxies in ")
    assert result.stderr.endswith(" ms\n")


def test_json_holds_the_end_of_the_wait(mesh):
    mesh.report("vm-1", ["payments"], 2)
    waited = mesh.json(*ALLOW, "--wait")["waited"]
    assert (waited["applied"], waited["missing"], waited["rejected"]) == (["vm-1"], [], {})
    assert 0 <= waited["milliseconds"] < 10_000


def test_nobody_concerned_is_said(mesh):
    assert "no proxy is concerned yet" in mesh.run(*ALLOW, "--wait").stderr


def test_a_proxy_that_is_late_or_refuses_is_named_and_the_change_stays_stored(mesh):
    mesh.report("vm-1", ["payments"], 2)
    mesh.report("vm-2", ["payments"], 1)
    mesh.report("vm-3", ["payments"], 1, rejected={"in/21000": "no such filter"})
    result = mesh.run(*ALLOW, "--wait", "--timeout", "50ms", code=1)
    assert "not yet applied on vm-2" in result.stderr
    assert "rejected by vm-3: in/21000: no such filter" in result.stderr
    assert "error: applied on 1 of 3 proxies after 0.05 s; the change itself is stored (revision 2)" in result.stderr
    assert ("intention", "payments") in mesh.documents()
    waited = mesh.json(*ALLOW, "--wait", "--timeout", "50ms", code=1)["waited"]
    assert waited["missing"] == ["vm-2", "vm-3"]
    assert waited["rejected"] == {"vm-3": {"in/21000": "no such filter"}}


def test_who_waits_for_what_was_there_already_learns_whether_it_is_in_force(mesh):
    mesh.run(*ALLOW)
    mesh.report("vm-1", ["payments"], 1)
    result = mesh.run(*ALLOW, "--wait", "--timeout", "50ms", code=1)
    assert "unchanged" in result.stdout
    assert "not yet applied on vm-1" in result.stderr


def test_intentions_on_a_name_outside_are_waited_for_where_they_are_judged(mesh, tmp_path):
    stripe = "kind: external\nname: stripe\nhosts: [a.example]\nport: 443\ntls: {mode: none}\n"
    (tmp_path / "policy.yaml").write_text(stripe)
    mesh.run("policy", "apply", "-f", "policy.yaml")
    mesh.report("vm-1", ["web"], 1, upstreams=["stripe"])
    mesh.report("vm-2", ["payments"], 1)
    waited = mesh.json("intention", "allow", "web", "stripe", "--wait", "--timeout", "50ms", code=1)["waited"]
    assert waited["missing"] == ["vm-1"]


def test_nobody_waits_unless_told_or_on_a_terminal(mesh, monkeypatch):
    mesh.report("vm-1", ["payments"], 1)
    assert mesh.run(*ALLOW).stderr == ""
    mesh.run(*ALLOW, "--no-wait")
    monkeypatch.setattr("meshagent.cli.session.Session.waits", property(lambda _: True))
    mesh.run(*ALLOW, "--timeout", "50ms", code=1)


def test_a_store_that_goes_away_meanwhile_is_said_with_what_is_known(mesh, monkeypatch):
    async def gone(*_: object) -> None:
        raise StoreUnavailable("the disk is gone")

    monkeypatch.setattr("meshagent.cli.applied.wait_applied", gone)
    result = mesh.run(*ALLOW, "--wait", code=4)
    assert (
        "the change is stored (revision 2), but whether it is in force is not known: the disk is gone" in result.stderr
    )


@pytest.mark.parametrize(
    "command",
    [
        ("intention", "delete", "web", "payments"),
        ("policy", "apply", "-f", "policy.yaml"),
        ("policy", "delete", "intention", "payments"),
    ],
)
def test_every_change_can_be_waited_for(mesh, tmp_path, command):
    (tmp_path / "policy.yaml").write_text("kind: intention\nname: payments\nsources: [{name: web, action: deny}]\n")
    mesh.run(*ALLOW)
    mesh.report("vm-1", ["payments"], 3)
    assert "applied on 1 of 1 proxy" in mesh.run(*command, "--wait").stderr
