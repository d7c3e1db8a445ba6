"""Changing roots: no stage begins before the one before it is confirmed, and every step can be made again or undone."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from meshagent.ca.rotation import digests_in
from meshagent.errors import RotationRefused, SignatureRefused
from meshagent.model.identity import TrustBundle
from meshagent.model.mesh import Mesh
from meshagent.state.changes import Author
from meshagent.state.fold import Fold
from meshagent.state.foundation import add_roots, lay_foundation
from meshagent.state.keys import Interest, Keys
from meshagent.state.records import ReportRecord
from meshagent.state.roots import Vault, activate, begin, end, keep, read_roots, retire, turn_back
from meshagent.state.rotation import Go, RotationRecord, Wait, judge, reversed_rotation
from meshagent.state.signing import UNSIGNED, Signing, Trust, new_signer
from meshagent.store.base import Changes
from meshagent.store.sqlite import open_sqlite

DOMAIN = "mesh.internal"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def pem(name):
    body = base64.b64encode(name.encode()).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


def digest(name):
    (found,) = digests_in(pem(name))
    return found


def bundle(*names, leaving=()):
    return TrustBundle(((DOMAIN, tuple(pem(name) for name in names)),), tuple(digest(each) for each in leaving))


def rotation(stage="distribute", **facts):
    at = {} if stage == "distribute" else {"activated_at": NOW}
    known = {"kind": "root", "trust_domain": DOMAIN, "old": [digest("old")], "new": [digest("new")]}
    return RotationRecord(**{**known, "stage": stage, "ttl_seconds": 3600, "began_at": NOW, **at, **facts})


def report(host, has, root="old", services=("web",), **facts):
    roots = {name: digest(root) for name in services}
    known = {"revision": 1, "services": list(services), "agent_version": "1", "at": NOW, "bundle": has.digest()}
    svids = dict.fromkeys(services, NOW + HOUR)
    return ReportRecord(**{"host": host, **known, "roots": roots, "svids": svids, **facts})


BOTH = bundle("old", "new")


def test_nothing_signs_with_a_new_root_before_every_live_host_has_it():
    late = report("vm-2", bundle("old"))
    waits = judge(rotation(), BOTH, [report("vm-1", BOTH), late], NOW + HOUR * 100)
    assert waits == Wait({"vm-2": "has not applied the new trust bundle"})
    assert judge(rotation(), BOTH, [report("vm-1", BOTH), report("vm-2", BOTH)], NOW) == Go("activate")


def test_an_agent_that_reports_no_bundle_is_waited_for_and_a_named_host_is_not():
    silent = report("vm-2", BOTH, bundle="")
    assert isinstance(judge(rotation(), BOTH, [silent], NOW), Wait)
    assert judge(rotation(without=["vm-2"]), BOTH, [silent], NOW) == Go("activate")
    assert isinstance(judge(rotation(without=["vm-3"]), BOTH, [silent], NOW), Wait)


@pytest.mark.parametrize("stage", ["distribute", "activate"])
def test_without_the_new_root_in_the_bundle_nothing_goes_on(stage):
    old = bundle("old")
    waits = judge(rotation(stage), old, [report("vm-1", old, "new")], NOW + HOUR * 2)
    assert waits == Wait({"(trust bundle)": f"does not hold the new root {digest('new')[:16]}"})


def test_an_old_root_goes_when_every_certificate_leads_to_the_new_one_and_one_life_has_passed():
    record, later = rotation("activate"), NOW + HOUR + timedelta(seconds=60)
    moved, still = report("vm-1", BOTH, "new"), report("vm-2", BOTH, "old", ("web", "payments"))
    elsewhere = {"vm-2": "the certificates of payments, web lead to another root"}
    assert judge(record, BOTH, [moved, still], NOW) == Wait(elsewhere, record.retirable_at)
    assert judge(record, BOTH, [moved, still], later) == Wait(elsewhere)
    assert judge(record, BOTH, [moved], later - timedelta(seconds=1)) == Wait({}, later)
    assert judge(record, BOTH, [moved], later) == Go("retire")
    assert judge(rotation("activate", without=["vm-2"]), BOTH, [moved, still], later) == Go("retire")


def test_a_host_whose_own_certificate_leads_to_the_old_root_holds_up_the_end():
    moved = report("vm-1", BOTH, "new")
    own = report("vm-2", BOTH, "new", roots={"web": digest("new"), "(host)": digest("old")})
    waits = judge(rotation("activate"), BOTH, [moved, own], NOW + HOUR * 2)
    assert waits == Wait({"vm-2": "the certificates of (host) lead to another root"})


def test_a_host_that_does_not_say_where_its_certificates_lead_holds_up_the_end():
    unknown = report("vm-1", BOTH, "new", roots={})
    assert isinstance(judge(rotation("activate"), BOTH, [unknown], NOW + HOUR * 2), Wait)


def test_short_lives_are_waited_for_with_a_tenth_of_them_and_long_ones_with_a_minute():
    assert rotation("activate", ttl_seconds=30).retirable_at == NOW + timedelta(seconds=33)
    assert rotation("activate", ttl_seconds=86400).retirable_at == NOW + timedelta(days=1, minutes=1)
    assert rotation().retirable_at is None


def test_the_way_back_is_the_same_road():
    back = reversed_rotation(rotation("activate", without=["vm-9"]), NOW + HOUR)
    assert (back.stage, back.old, back.new) == ("activate", [digest("new")], [digest("old")])
    assert back.activated_at == NOW + HOUR and back.without == []
    assert isinstance(judge(back, BOTH, [report("vm-1", BOTH, "new")], NOW + HOUR * 3), Wait)
    assert judge(back, BOTH, [report("vm-1", BOTH, "old")], NOW + HOUR * 3) == Go("retire")
    assert reversed_rotation(rotation(), NOW).stage == "retire"


# --- in a store, signed and not

ANN = new_signer()[0]
SIGNED = Signing(ANN, Trust.of(ANN.public))


@pytest.fixture(params=[UNSIGNED, SIGNED], ids=["unsigned", "signed"])
async def vault(tmp_path, request):
    store = await open_sqlite(tmp_path / "mesh.db")
    keys = Keys(signed=bool(request.param.trust))
    await lay_foundation(store, keys, Mesh(), bundle("old"), Author("ann", NOW), request.param)
    yield Vault(store, keys, request.param, lambda why: Author("ann", NOW, why))
    await store.close()


async def believed(vault):
    """The bundle as an agent reads it."""
    fold = Fold(vault.keys, Interest(), None, vault.signing.trust)
    snapshot = await vault.store.read(vault.keys.root)
    world = fold.add(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))
    assert not fold.problems
    return world.bundle


async def stored(vault):
    return await read_roots(vault.store, vault.keys, vault.signing.trust)


async def test_a_whole_rotation_in_the_store(vault):
    record = await begin(vault, rotation(), bundle("new"))
    assert await believed(vault) == BOTH
    record = await activate(vault, record, NOW + HOUR)
    assert record.activated_at == NOW + HOUR and await believed(vault) == bundle("old", "new", leaving=("old",))
    record = await retire(vault, record)
    assert await believed(vault) == bundle("new") and (await stored(vault)).rotation == record
    await end(vault, record)
    assert (await stored(vault)).rotation is None


async def test_a_root_that_was_retired_is_not_put_back_by_an_agent_but_may_come_back_by_a_rotation(vault):
    await end(vault, await retire(vault, await activate(vault, await begin(vault, rotation(), bundle("new")), NOW)))
    if not vault.signing.trust:
        assert not await add_roots(vault.store, vault.keys, bundle("old"))
    assert await believed(vault) == bundle("new")
    back = rotation(old=[digest("new")], new=[digest("old")])
    await begin(vault, back, bundle("old"))
    assert await believed(vault) == bundle("new", "old") and (await stored(vault)).bundle.retired == []


async def test_turned_back_before_the_activation_the_new_root_goes_at_once(vault):
    record = await turn_back(vault, await begin(vault, rotation(), bundle("new")), NOW)
    assert record.stage == "retire" and await believed(vault) == bundle("old")


async def test_turned_back_after_the_activation_both_stay_until_everybody_has_gone_back(vault):
    record = await activate(vault, await begin(vault, rotation(), bundle("new")), NOW)
    record = await turn_back(vault, record, NOW + HOUR)
    assert await believed(vault) == bundle("old", "new", leaving=("new",))
    await retire(vault, record)
    assert await believed(vault) == bundle("old")


async def test_of_two_who_turn_the_same_stage_one_is_told_that_it_moved(vault):
    record = await begin(vault, rotation(), bundle("new"))
    with pytest.raises(RotationRefused):
        await begin(vault, rotation(), bundle("other"))
    await activate(vault, record, NOW)
    for step in (activate(vault, record, NOW), turn_back(vault, record, NOW), end(vault, record)):
        with pytest.raises(RotationRefused, match="meanwhile"):
            await step
    with pytest.raises(RotationRefused):
        await keep(vault, record, rotation(without=["vm-1"]))


async def test_whom_not_to_wait_for_is_kept_in_the_record(vault):
    record = await begin(vault, rotation(), bundle("new"))
    await keep(vault, record, rotation(without=["vm-1"]))
    assert (await stored(vault)).rotation.without == ["vm-1"]


async def test_signed_roots_are_not_changed_without_the_key(tmp_path):
    store = await open_sqlite(tmp_path / "mesh.db")
    await lay_foundation(store, Keys(signed=True), Mesh(), bundle("old"), Author("ann", NOW), SIGNED)
    without_key = Vault(store, Keys(), UNSIGNED, lambda why: Author("eve", NOW, why))
    with pytest.raises(SignatureRefused, match="no key"):
        await begin(without_key, rotation(), bundle("new"))
    await store.close()
