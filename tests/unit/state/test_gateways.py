"""A gateway counts on a host that serves it, once what it leads to is known there."""

from __future__ import annotations

from meshagent.catalog.base import Listing
from meshagent.state.fold import Fold
from meshagent.state.keys import Interest
from meshagent.state.waiting import _concerns
from tests.unit.state.test_fold import KEYS, changes, manifest, record

SERVES = Interest(gateways=frozenset({"edge"}))
EDGE = KEYS.document("gateway", "edge")


def leading(service):
    routes = [{"hosts": ["*"], "service": service}]
    return {"kind": "gateway", "name": "edge", "listeners": [{"port": 8443}], "routes": routes}


def stored(service, revision=1):
    return {KEYS.manifest: manifest(revision), EDGE: record(leading(service), revision)}


def follows(*upstreams):
    return Interest(upstreams=frozenset(upstreams), gateways=SERVES.gateways)


def serving(service="web"):
    fold = Fold(KEYS, SERVES)
    fold.add(changes(stored(service), full=True))
    fold.narrow(follows(service))
    fold.add(changes(stored(service), full=True))
    fold.list(Listing(service, (), {}))
    return fold


def test_it_waits_until_what_it_leads_to_is_known():
    fold = Fold(KEYS, SERVES)
    fold.add(changes(stored("web"), full=True))
    assert fold.called == {"web"} and fold.world.gateways == {} and fold.world.awaits
    assert serving().world.gateways["edge"].thing.services == {"web"} and not serving().world.awaits


def test_one_that_leads_elsewhere_leaves_the_one_before_it_in_force_until_then():
    fold = serving("web")
    fold.add(changes(stored("api", 2)))
    assert fold.called == {"web", "api"} and fold.world.awaits
    assert fold.world.gateways["edge"].thing.services == {"web"}
    fold.narrow(follows("web", "api"))
    fold.list(Listing("api", (), {}))
    assert fold.world.gateways["edge"].thing.services == {"api"} and fold.called == {"api"}


def test_it_is_followed_by_those_alone_who_serve_it():
    assert EDGE in SERVES.prefixes(KEYS) and SERVES.wants(KEYS, EDGE)
    assert EDGE not in Interest(frozenset({"edge"})).prefixes(KEYS) and not Interest(frozenset({"edge"})).wants(
        KEYS, EDGE
    )


def test_a_damaged_or_vanished_record_leaves_it_and_a_deleted_one_closes_it():
    fold = serving()
    fold.add(changes({EDGE: b"{"}))
    assert fold.world.gateways and "last good version" in fold.problems[EDGE]
    fold.add(changes({}, deleted=[EDGE]))
    assert fold.world.gateways
    fold.add(changes({KEYS.manifest: manifest(2), EDGE: record(None, 2)}))
    assert fold.world.gateways == {} and fold.called == set()


def test_a_change_of_it_concerns_the_hosts_that_serve_it():
    assert _concerns([("gateway", "edge")], (), (), ["edge"])
    assert not _concerns([("gateway", "edge")], ["edge"], ["edge"], [])
