"""A name outside the mesh counts on a host that calls it, once the intentions on it are followed there."""

from __future__ import annotations

from meshagent.state.fold import Fold
from meshagent.state.keys import Interest
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
