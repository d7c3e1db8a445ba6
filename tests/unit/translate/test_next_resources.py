"""The resources of the next view, at the price of what differs, are those that all of the view gives."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from meshagent.policy.resolve import resolve, resolve_next
from meshagent.translate import resources
from meshagent.translate.resources import Translated, difference, translate, translate_rules
from meshagent.translate.router import ROUTER
from meshagent.translate.settings import Settings
from meshagent.xds.types import ECDS, EDS, RDS
from tests.unit.policy.worlds import HOST, LOCALS, NOTHING, NOW, changed_instances, follow, steps

SETTINGS = Settings("/log")


@given(steps)
def test_the_next_resources_are_what_translating_everything_gives_and_their_difference_leads_there(steps):
    last, translated, served = None, Translated(), {}
    for world, locals_, now in follow(steps):
        last = resolve_next(world, HOST, locals_, last, now)
        following = translate(last.view, {}, SETTINGS, translated)
        changed, removed = difference(translated, following)
        assert changed.keys().isdisjoint(removed) and served.keys() >= set(removed)
        served = {key: value for key, value in served.items() if key not in removed} | changed
        translated = following
        assert served == translate(last.view, {}, SETTINGS).resources == following.resources


@given(steps)
def test_the_rules_ahead_are_among_what_follows_them(steps):
    last, translated = None, Translated()
    for world, locals_, now in follow(steps):
        last = resolve_next(world, HOST, locals_, last, now)
        ahead = translate_rules(last.view, SETTINGS, translated)
        following = translate(last.view, {}, SETTINGS, translated)
        changed, _ = difference(translated, following)
        rules = {key for key in translated.resources if key[0] == ECDS and not key[1].startswith("out/")}
        rules.discard((ECDS, ROUTER))  # what it counts refuses nobody
        due = {key: value for key, value in changed.items() if key in rules}
        ways = ahead.items() - due.items()  # of splits that lose a target
        assert due.items() <= ahead.items() and ways <= changed.items()
        assert all(key[0] in (RDS, ECDS) and key[1].startswith("out/") for key, _ in ways)
        translated = following


@given(steps)
def test_a_shadow_that_comes_or_goes_is_a_change_of_rules_alone(steps):
    for world, locals_, now in follow(steps):
        default = "deny" if world.mesh.default_action == "deny" else "allow"
        named = {name: replace(stated, thing=unshadowed(stated.thing)) for name, stated in world.intentions.items()}
        plain = replace(world, intentions=named, mesh=world.mesh.model_copy(update={"default_action": default}))
        before = resolve(plain, HOST, locals_, None, now)
        for shadows in (world, replace(world, mesh=world.mesh.model_copy(update={"default_action": "shadow-deny"}))):
            if default == "deny" and shadows is not world:
                continue
            after = resolve(shadows, HOST, locals_, before, now)
            changed, removed = difference(translate(before, {}, SETTINGS), translate(after, {}, SETTINGS))
            assert not removed and all(key[0] == ECDS and key[1].startswith("rbac") for key in changed)


def unshadowed(intention):
    return intention.model_copy(update={"sources": tuple(each for each in intention.sources if not each.shadow)})


def test_an_endpoint_change_builds_its_load_assignment_and_nothing_else(monkeypatch):
    first = resolve_next(NOTHING, HOST, tuple(LOCALS[:2]), None, NOW)
    before = translate(first.view, {}, SETTINGS)
    world = replace(NOTHING, instances=changed_instances("ledger", "tcp"))
    then = resolve_next(world, HOST, tuple(LOCALS[:2]), first, NOW)
    for name in ("upstream_cluster", "outbound_listener", "rbac_filter", "inbound_listener", "app_cluster"):
        monkeypatch.delattr(resources, name)
    changed, removed = difference(before, translate(then.view, {}, SETTINGS, before))
    assert changed.keys() == {(EDS, "out/web/ledger")} and removed == []
