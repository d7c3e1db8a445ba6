"""`meshagent dns` and what `doctor` says of names: the file, the way back, and where names lead on this host."""

from __future__ import annotations

import pytest

from meshagent.cli import lookups
from meshagent.cli.lookups import look_up, names_finding
from meshagent.host import resolver
from meshagent.model.virtual import virtual_addresses

TOLD = {"address": "127.0.0.1:15053", "zone": "mesh", "listening": True, "names": ["payments"], "queries": {}}
IPV4, IPV6 = map(str, virtual_addresses("payments"))


@pytest.fixture
def answers(agent):
    agent.answer("GET", "/v1/status", {"dns": TOLD})
    return agent


def found(monkeypatch, *addresses):
    monkeypatch.setattr(resolver, "looked_up", lambda name: frozenset(addresses))


def test_install_writes_the_file_of_the_resolver_that_runs_and_says_the_way_back(mesh, answers, tmp_path):
    (tmp_path / "run/systemd/resolve").mkdir(parents=True)
    (tmp_path / "run/systemd/resolve/resolv.conf").touch()
    done = mesh.run("dns", "install", "--root", str(tmp_path))
    path = tmp_path / "etc/systemd/resolved.conf.d/meshagent.conf"
    assert f"wrote {path}" in done.stderr and "undo: meshagent dns uninstall" in done.stderr
    text = path.read_text()
    assert "DNS=127.0.0.1:15053\n" in text and "Domains=~mesh ~248.in-addr.arpa " in text
    assert f"removed {path}" in mesh.run("dns", "uninstall", "--root", str(tmp_path)).stderr
    assert "nothing is installed" in mesh.run("dns", "uninstall", "--root", str(tmp_path)).stderr


def test_install_takes_the_configuration_where_no_agent_runs(mesh, tmp_path):
    settings = tmp_path / "agent.yaml"
    settings.write_text("dns: '[::1]:5354'\ndns_zone: svc.internal\n")
    mesh.run("dns", "install", "--resolver", "dnsmasq", "--root", str(tmp_path), "--config", str(settings))
    assert "server=/svc.internal/::1#5354\n" in (tmp_path / "etc/dnsmasq.d/meshagent.conf").read_text()


def test_install_refuses_where_nothing_answers_or_nobody_asks(mesh, agent, tmp_path):
    agent.answer("GET", "/v1/status", {"dns": None})
    assert "set dns: 127.0.0.1:15053" in mesh.run("dns", "install", "--root", str(tmp_path), code=2).stderr
    assert "answers no names" in mesh.run("dns", "show", code=2).stderr
    agent.answer("GET", "/v1/status", {"dns": TOLD})
    assert "--resolver" in mesh.run("dns", "install", "--root", str(tmp_path), code=1).stderr
    assert not (tmp_path / "etc").exists()


def test_show_tells_where_each_name_leads(mesh, answers, monkeypatch, tmp_path):
    found(monkeypatch, IPV4)
    assert mesh.json("dns", "show", "--root", str(tmp_path))["names"] == [
        {"name": "payments.mesh", "ipv4": IPV4, "ipv6": IPV6, "found": [IPV4], "ok": True}
    ]
    found(monkeypatch, "192.0.2.9")
    said = mesh.run("dns", "show", "--root", str(tmp_path), code=1).stdout
    assert "elsewhere: 192.0.2.9" in said and IPV6 in said
    found(monkeypatch)
    assert mesh.json("dns", "show", "--root", str(tmp_path), code=1)["names"][0]["ok"] is False


@pytest.mark.parametrize(
    ("told", "addresses", "state", "word"),
    [
        (TOLD, {IPV4, IPV6}, "ok", "find payments.mesh"),
        (TOLD, {IPV6}, "ok", "find payments.mesh"),
        (TOLD, set(), "warning", "does not ask there"),
        (TOLD, {IPV4, "192.0.2.9"}, "bad", "another resolver answers payments.mesh"),
        (TOLD | {"names": []}, set(), "ok", "no service here declares an upstream"),
    ],
)
def test_doctor_says_whether_names_reach_the_agent(told, addresses, state, word):
    finding = names_finding({"dns": told}, lambda name: frozenset(addresses))
    assert (finding.about, finding.state) == ("dns", state) and word in finding.what
    assert bool(finding.next_step) == (state != "ok")


@pytest.mark.parametrize("status", [None, {}, {"dns": None}, {"dns": TOLD | {"listening": False}}])
def test_doctor_looks_nothing_up_where_nothing_is_answered(status):
    assert names_finding(status, None) is None


def test_the_doctor_of_a_host_with_names_shows_the_finding(mesh, agent, monkeypatch):
    monkeypatch.setattr("meshagent.cli.doctor.looked_up", lambda name: frozenset({"192.0.2.9"}))
    well = {"envoy": {"ready": True}, "store_ok": True, "applied_revision": 1, "services": [], "dns": TOLD}
    agent.answer("GET", "/v1/status", well)
    agent.answer("GET", "/v1/services", {"services": []})
    assert "another resolver answers payments.mesh" in mesh.run("doctor", code=1).stdout


def test_a_lookup_is_right_with_one_of_the_two_addresses_and_wrong_with_any_other():
    assert look_up("payments", "mesh", lambda name: frozenset({IPV6})).ok
    assert not look_up("payments", "mesh", lambda name: frozenset({IPV6, "::1"})).ok
    assert lookups.look_up("payments", "a.b", lambda name: frozenset()).name == "payments.a.b"
