"""The host's services on disk: whole or not at all, and never lost by a start."""

from __future__ import annotations

import pytest

from meshagent.agent import roster as module
from meshagent.agent.roster import Roster
from meshagent.errors import DataDirUnusable
from meshagent.model.service import ServiceDefinition


def definition(name, port):
    return ServiceDefinition.model_validate({"name": name, "port": port})


def opened(tmp_path):
    changes = []
    made = Roster(tmp_path / "services.json", "127.0.0.1", 29000, lambda: changes.append(1))
    made.load()
    return made, changes


@pytest.fixture
def full_disk(monkeypatch):
    def refuse(path, data):
        raise DataDirUnusable(f"{path}: No space left on device")

    return lambda: monkeypatch.setattr(module, "write_private", refuse)


@pytest.fixture(autouse=True)
def ours(tmp_path):
    tmp_path.chmod(0o700)


def test_what_was_registered_is_there_after_a_restart_with_its_port_and_source(tmp_path):
    first, _ = opened(tmp_path)
    first.add(definition("web", 8080), "file")
    first.add(definition("api", 8081), "api")
    second, changes = opened(tmp_path)
    assert second.registered == first.registered
    assert len(changes) == 1


def test_a_start_writes_nothing_so_a_crash_in_it_loses_nothing(tmp_path, full_disk):
    first, _ = opened(tmp_path)
    first.add(definition("web", 8080), "file")
    full_disk()
    second, _ = opened(tmp_path)
    second.add(definition("web", 8080), "file")
    assert second.registered == first.registered


def test_a_service_that_cannot_be_kept_is_not_registered(tmp_path, full_disk):
    made, changes = opened(tmp_path)
    full_disk()
    with pytest.raises(DataDirUnusable):
        made.add(definition("web", 8080), "api")
    assert not made.registered
    assert not changes


def test_a_service_is_taken_down_whether_or_not_the_disk_takes_it(tmp_path, full_disk):
    made, changes = opened(tmp_path)
    made.add(definition("web", 8080), "api")
    full_disk()
    made.remove(("web", "web"))
    assert not made.registered
    assert len(changes) == 2


def test_services_that_stand_apart_share_no_port_and_take_none_that_is_spoken_for(tmp_path):
    made = Roster(tmp_path / "services.json", "127.0.0.1", 29000, lambda: None, apart=True)
    upstreams = [{"service": "ledger", "local_port": 29003}]
    told = {"name": "web", "port": 29002, "upstreams": upstreams}
    ports = [made.add(definition("payments", 8080), "api").mtls_port]
    ports.append(made.add(ServiceDefinition.model_validate(told), "api").mtls_port)
    ports.append(made.add(definition("ledger", 8081), "api").mtls_port)
    assert ports[0] == 29000 and len(set(ports)) == 3 and not {29002, 29003} & set(ports)
