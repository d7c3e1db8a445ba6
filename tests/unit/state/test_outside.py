"""A name outside the mesh counts on a host that calls it, once the intentions on it are followed there."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from meshagent.agent.watching import Watching
from meshagent.errors import StoreUnavailable, UsageProblem
from meshagent.state.fold import Fold
from meshagent.state.keys import Interest
from meshagent.state.outside import refuse_outside
from meshagent.store import open_store
from meshagent.store.base import Put
from tests.unit.state.test_fold import KEYS, changes, intention, manifest, record

BEFORE = Interest(frozenset({"web"}), frozenset({"pay"}))
AFTER = Interest(BEFORE.services, BEFORE.upstreams, outside=frozenset({"pay"}))
PAY = KEYS.document("external", "pay")
JUDGED = KEYS.document("intention", "pay")
DOCUMENT = {"kind": "external", "name": "pay", "hosts": ["a.example"], "port": 443, "tls": {"mode": "none"}}
STORED = {KEYS.manifest: manifest(1), PAY: record(DOCUMENT), JUDGED: record(intention("allow", "pay"))}


def followed():
    fold = Fold(KEYS, BEFORE)
    fold.add(changes(STORED, full=True))
    fold.narrow(AFTER)
    fold.add(changes(STORED, full=True))
    return fold


def test_it_does_not_count_before_its_intentions_are_known():
    fold = Fold(KEYS, BEFORE)
    fold.add(changes(STORED, full=True))
    assert fold.outside == {"pay"} and fold.world.externals == {} and fold.world.awaits
    fold.narrow(AFTER)
    fold.add(changes(STORED, full=True))
    assert fold.world.externals["pay"].thing.port == 443 and not fold.world.awaits
    assert fold.world.intentions["pay"].thing.sources[0].action == "allow"


def test_a_host_follows_the_intentions_of_no_upstream_but_those():
    assert JUDGED not in BEFORE.prefixes(KEYS) and JUDGED in AFTER.prefixes(KEYS)
    assert not BEFORE.wants(KEYS, JUDGED) and AFTER.wants(KEYS, JUDGED)
    assert KEYS.externals in BEFORE.prefixes(KEYS) and KEYS.externals not in Interest(BEFORE.services).prefixes(KEYS)
    assert BEFORE.wants(KEYS, PAY) and not BEFORE.wants(KEYS, KEYS.document("external", "other"))


def test_one_that_is_deleted_is_a_service_again_and_one_that_vanished_stays():
    fold = followed()
    fold.add(changes({}, deleted=[PAY]))
    assert fold.world.externals and "without having been deleted" in fold.problems[PAY]
    fold.add(changes({KEYS.manifest: manifest(2), PAY: record(None, 2)}))
    assert fold.world.externals == {} and fold.outside == set()


def test_it_is_held_after_a_restart_and_forgotten_with_its_upstream():
    again = Fold(KEYS, AFTER, followed().world)
    assert again.outside == {"pay"}
    again.narrow(Interest(BEFORE.services))
    assert again.outside == set() and again.world.externals == {}


@pytest.fixture
async def store(tmp_path):
    """The document in force, and one that is deleted, in a store of its own."""
    opened = await open_store(f"sqlite://{tmp_path}/mesh.db")
    await opened.commit([Put(key, value) for key, value in STORED.items()])
    await opened.commit(
        [Put(KEYS.document("external", "gone"), record(None)), Put(KEYS.document("external", "odd"), b"{")]
    )
    yield opened
    await opened.close()


async def test_a_service_cannot_have_a_name_that_is_outside(store):
    with pytest.raises(UsageProblem, match="pay is a name outside the mesh"):
        await refuse_outside(store, KEYS, "pay")
    for name in ("web", "gone", "odd"):
        await refuse_outside(store, KEYS, name)
    await store.commit([Put(PAY, record(DOCUMENT, revision=2))])
    await refuse_outside(store, KEYS, "pay")  # that revision is not in force yet


async def test_a_store_that_does_not_answer_keeps_no_service_from_coming_up():
    class Silent:
        async def read(self, *_):
            raise StoreUnavailable("away")

    watching = Watching(Silent(), KEYS, None, lambda _: None, lambda: datetime.now(UTC))
    await watching.refuse_outside("pay")
