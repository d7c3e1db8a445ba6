"""A route that leads to a service of which nothing is known counts once that is known, and nothing else waits for it."""

from __future__ import annotations

from meshagent.catalog.base import Listing
from meshagent.model.failover import FailoverStep
from meshagent.model.service import Service
from meshagent.model.world import Stated
from meshagent.state.awaiting import Backups
from meshagent.state.fold import Fold
from meshagent.state.keys import Interest
from tests.unit.state.test_fold import KEYS, MESH, PAYMENTS, changes, intention, manifest, record

INTEREST = Interest(frozenset({"payments"}), frozenset({"ledger"}))
ROUTE = KEYS.document("route", "ledger")


def route(*services):
    return {"kind": "route", "name": "ledger", "rules": [{"to": [{"service": name}]} for name in services]}


def start(document=None):
    fold = Fold(KEYS, INTEREST)
    held = {KEYS.manifest: manifest(1), KEYS.mesh: record(MESH), PAYMENTS: record(intention("allow"))}
    fold.add(changes(held | ({ROUTE: record(document)} if document else {}), full=True))
    return fold


def leads_to(fold):
    stated = fold.world.routes.get("ledger")
    return sorted(stated.thing.services) if stated else None


def test_a_route_to_the_service_itself_counts_at_once():
    document = {"kind": "route", "name": "ledger", "rules": [{"timeout": "1s"}]}
    fold = start(document)
    assert leads_to(fold) == [] and not fold.world.awaits and fold.beyond == frozenset()


def test_a_route_to_others_waits_until_all_of_them_are_known_be_there_any_instance_or_none():
    fold = start(route("b", "c"))
    assert leads_to(fold) is None and fold.world.awaits
    assert fold.beyond == {"b", "c"}
    fold.narrow(Interest(INTEREST.services, INTEREST.upstreams, fold.beyond))
    assert fold.list(Listing("b", (), {})).awaits
    world = fold.list(Listing("c", (), {}))
    assert leads_to(fold) == ["b", "c"] and not world.awaits


def test_the_route_before_it_counts_until_then_and_other_policy_is_not_held_up():
    fold = start(route("b"))
    fold.narrow(Interest(INTEREST.services, INTEREST.upstreams, frozenset({"b"})))
    fold.list(Listing("b", (), {}))
    newer = {KEYS.manifest: manifest(2), ROUTE: record(route("c"), 2), PAYMENTS: record(intention("deny"), 2)}
    world = fold.add(changes(newer))
    assert leads_to(fold) == ["b"] and world.awaits and world.revision == 2
    assert world.intentions["payments"].thing.sources[0].action == "deny"
    assert fold.beyond == {"b", "c"}


def test_a_route_that_is_deleted_or_forgotten_while_it_waits_is_waited_for_no_more():
    fold = start(route("b"))
    deleted = {KEYS.manifest: manifest(2), ROUTE: record(None, 2)}
    assert not fold.add(changes(deleted)).awaits and fold.beyond == frozenset()
    fold = start(route("b"))
    fold.narrow(Interest(INTEREST.services))
    assert fold.beyond == frozenset()


def test_a_host_watches_the_routes_of_what_it_calls_and_the_settings_of_what_these_lead_to():
    interest = Interest(frozenset({"web"}), frozenset({"a"}), frozenset({"b"}))
    wanted = {KEYS.name(key) for key in interest.documents(KEYS)}
    assert {"route/a", "service/a", "service/b", "service/web"} <= wanted
    assert not {"route/b", "route/web", "intention/b"} & wanted
    assert interest.wants(KEYS, KEYS.document("route", "a")) and not interest.wants(KEYS, KEYS.document("route", "b"))
    assert interest.wants(KEYS, KEYS.document("service", "b"))


def test_what_a_called_service_fails_over_to_is_followed_and_what_that_fails_over_to_is_not():
    steps = {"payments": "backup", "backup": "last", "other": "elsewhere"}
    services = {name: Stated(Service(name=name, failover=(FailoverStep(service=to),))) for name, to in steps.items()}
    backups = Backups()
    assert backups.of(services, frozenset({"payments", "nobody"})) == {"backup"}
    assert backups.of({}, frozenset({"payments"})) == frozenset()
    assert backups.of(services, frozenset({"payments", "other"})) == {"backup", "elsewhere"}
