"""Capture ports: one a service, kept, and told by nobody's guess whose they are."""

from __future__ import annotations

import pytest

from meshagent.agent.roster import Roster
from meshagent.errors import UsageProblem
from meshagent.model.service import ServiceDefinition

FIRST = 29400


def definition(name, user=None, **more):
    capture = {"capture": {"user": user}} if user else {}
    return ServiceDefinition.model_validate({"name": name, "port": 8080} | capture | more)


@pytest.fixture
def roster(tmp_path):
    tmp_path.chmod(0o700)

    def opened():
        made = Roster(tmp_path / "services.json", "127.0.0.1", 29000, lambda: None, capture_port=FIRST)
        made.load()
        return made

    return opened


def test_each_captured_service_has_a_port_which_its_instances_share_and_a_restart_keeps(roster):
    made = roster()
    for each in (definition("web", "web"), definition("web", "web", id="web-2"), definition("api", "api")):
        made.add(each, "api")
    made.add(definition("db"), "api")
    ports = {place: each.capture_port for place, each in made.registered.items()}
    assert ports["web", "web"] == ports["web", "web-2"] != ports["api", "api"]
    assert ports["db", "db"] == 0 and all(not port or port >= FIRST for port in ports.values())
    assert {place: each.capture_port for place, each in roster().registered.items()} == ports
    assert {local.capture_port for local in made.locals(None)} == set(ports.values())


def test_a_service_that_is_no_longer_captured_gives_its_port_back(roster):
    made = roster()
    made.add(definition("web", "web"), "api")
    assert made.add(definition("web"), "api").capture_port == 0


def test_attack_50_two_services_cannot_have_the_same_user_nor_one_service_two(roster):
    made = roster()
    made.add(definition("web", "web"), "api")
    with pytest.raises(UsageProblem, match="api captures user web, which web does"):
        made.add(definition("api", "web"), "api")
    with pytest.raises(UsageProblem, match="web captures user other, but its instance web user web"):
        made.add(definition("web", "other", id="web-2"), "api")
    assert made.registered.keys() == {("web", "web")}
    assert made.add(definition("web", "other"), "api").definition.capture.user == "other"
