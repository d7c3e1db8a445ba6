"""The last-known-good World on disk is read back as it was, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from meshagent.agent.lastgood import UnusableSnapshot, load_snapshot, save_snapshot, with_cuts
from meshagent.model.external import External
from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.mesh import Mesh
from meshagent.model.rollout import Progress, Rollout
from meshagent.model.service import Instance, Service, ServiceDefinition
from meshagent.model.view import Chain
from meshagent.model.world import Local, Origin, Stated, World
from meshagent.policy.resolve import Host, resolve

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HOST = Host("vm-1", "10.0.0.1")
LOCALS = (Local(ServiceDefinition(name="payments", port=8080, protocol="http"), 21000),)


PAY = {"name": "pay", "hosts": ["a.example"], "port": 443, "tls": {"mode": "originate"}}


def world(action="allow"):
    source = IntentionSource(name="web", action=action, reason="INC-7")
    return World(
        revision=7,
        mesh=Mesh(trust_domain="shop.internal"),
        intentions={
            "payments": Stated(Intention(name="payments", sources=(source,)), {"web": Origin("a.yaml", 3, "ann", NOW)})
        },
        services={"ledger": Stated(Service(name="ledger", protocol="tcp"))},
        instances={"ledger": (Instance(service="ledger", host="vm-2", id="ledger", address="10.0.0.2", port=21000),)},
        bundle=TrustBundle((("shop.internal", ("PEM\n",)),)),
        externals={"pay": Stated(External.model_validate(PAY), {"": Origin("b.yaml", 1)})},
        rollouts={"ledger": Stated(Rollout(name="ledger", base="v1", to="v2"), {"": Origin(who="ann")})},
        progress={"ledger": Progress(run="/v1/v2", turn=2, phase="running", step=1, since=NOW, host="vm-2")},
    )


@pytest.fixture
def path(tmp_path):
    tmp_path.chmod(0o700)
    return tmp_path / "snapshot.json"


def test_what_was_saved_is_read_back(path):
    view = resolve(world(), HOST, LOCALS, None, NOW)
    save_snapshot(path, world(), view)
    loaded, _ = load_snapshot(path)
    assert loaded == world()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_cuts_are_read_back_so_that_a_restarted_agent_serves_the_same_bytes(path):
    view = resolve(world(), HOST, LOCALS, None, NOW)
    for action in ("deny", "allow"):
        view = resolve(world(action), HOST, LOCALS, view, NOW)
    assert view.inbounds[0].default_cut == 1 and view.inbounds[0].chains == (Chain("web", 0),)
    save_snapshot(path, world(), view)
    loaded, cuts = load_snapshot(path)
    again = with_cuts(resolve(loaded, HOST, LOCALS, None, NOW), cuts)
    assert again == view
    assert resolve(loaded, HOST, LOCALS, again, NOW) == view


def test_the_cuts_of_calls_outside_are_read_back_too(path):
    upstreams = [{"service": "pay", "local_port": 9443}]
    caller = Local(ServiceDefinition.model_validate({"name": "web", "port": 80, "upstreams": upstreams}), 21000)
    view = None
    for action in ("allow", "deny"):
        judged = Intention(name="pay", sources=(IntentionSource(name="web", action=action),))
        view = resolve(replace(world(), intentions={"pay": Stated(judged)}), HOST, (caller,), view, NOW)
    assert view.egresses[0].cut == 1
    save_snapshot(path, replace(world(), intentions={"pay": Stated(judged)}), view)
    loaded, cuts = load_snapshot(path)
    assert with_cuts(resolve(loaded, HOST, (caller,), None, NOW), cuts) == view


def test_nothing_saved_is_nothing_wrong(path):
    assert load_snapshot(path) is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "version", "not json"])
def test_a_damaged_file_is_refused_whole(path, damage):
    save_snapshot(path, world(), resolve(world(), HOST, LOCALS, None, NOW))
    text = path.read_bytes()
    if damage == "version":
        body = json.loads(text)["body"].replace('"v":1', '"v":2')
        new = json.dumps({"checksum": json.loads(text)["checksum"], "body": body}).encode()
    else:
        middle = len(text) // 2
        flipped = text[:middle] + bytes([text[middle] ^ 1]) + text[middle + 1 :]
        new = {"truncate": text[:middle], "flip": flipped, "empty": b"", "not json": b"[]"}[damage]
    path.write_bytes(new)
    with pytest.raises(UnusableSnapshot):
        load_snapshot(path)


def test_a_file_that_others_may_read_is_not_trusted(path):
    save_snapshot(path, world(), resolve(world(), HOST, LOCALS, None, NOW))
    path.chmod(0o644)
    with pytest.raises(UnusableSnapshot):
        load_snapshot(path)
