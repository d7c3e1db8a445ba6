"""The next view at the price of what differs is the view that all of it gives."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given

from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.service import Instance
from meshagent.model.world import Stated
from meshagent.policy.resolve import resolve, resolve_next
from tests.unit.policy.worlds import HOST, LOCALS, NOTHING, NOW, follow, steps


@given(steps)
def test_the_next_view_is_what_resolving_everything_gives(steps):
    last = None
    for world, locals_, now in follow(steps):
        whole = resolve(world, HOST, locals_, last.view if last else None, now)
        last = resolve_next(world, HOST, locals_, last, now)
        assert last.view == whole


def test_what_did_not_change_is_the_same_object_and_is_not_looked_at():
    first = resolve_next(NOTHING, HOST, tuple(LOCALS[:1]), None, NOW)
    ledger = Instance(service="ledger", host="vm-2", id="ledger", address="10.0.0.2", port=21000, protocol="http")
    then = resolve_next(replace(NOTHING, instances={"ledger": (ledger,)}), HOST, tuple(LOCALS[:1]), first, NOW)
    before, after = ({each.upstream: each for each in view.outbounds} for view in (first.view, then.view))
    assert after["payments"] is before["payments"] and after["ledger"] is not before["ledger"]
    assert then.view.inbounds[0] is first.view.inbounds[0]
    assert [endpoint.address for endpoint in after["ledger"].endpoints] == ["10.0.0.2"]


def test_an_intention_ends_at_its_time_although_nothing_else_changed():
    source = IntentionSource(name="orders", action="allow", expires_at=NOW + timedelta(seconds=5))
    world = replace(NOTHING, intentions={"web": Stated(Intention(name="web", sources=(source,)))})
    first = resolve_next(world, HOST, tuple(LOCALS[:1]), None, NOW)
    then = resolve_next(world, HOST, tuple(LOCALS[:1]), first, NOW + timedelta(seconds=5))
    assert first.view.inbounds[0].guard.rules and not then.view.inbounds[0].guard.rules
