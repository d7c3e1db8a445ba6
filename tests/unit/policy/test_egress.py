"""Upstreams outside the mesh: judged by the caller's own proxy, and ended where the rules get stricter."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from meshagent.model.external import External
from meshagent.model.intention import Intention
from meshagent.model.world import Stated
from meshagent.policy.resolve import resolve, resolve_next
from tests.unit.policy.worlds import HOST, LOCALS, NOTHING, NOW, changed_instances

WEB = LOCALS[:1]
GET = [{"action": "allow", "http": {"methods": ["GET"]}}]


def outside(protocol="http", name="payments"):
    tls = {"mode": "originate"}
    told = {"name": name, "hosts": ["a.example"], "port": 443, "protocol": protocol, "tls": tls}
    return {name: Stated(External.model_validate(told))}


def world(*sources, name="payments", protocol="http"):
    intention = Intention.model_validate({"name": name, "sources": sources})
    return replace(NOTHING, externals=outside(protocol), intentions={name: Stated(intention)})


def egress(world, previous=None, now=NOW):
    view = resolve(world, HOST, tuple(WEB), previous, now)
    (found,) = view.egresses
    return view, found


def test_an_upstream_outside_is_no_upstream_of_the_mesh_and_is_closed_unless_an_intention_allows_it():
    view, found = egress(replace(NOTHING, externals=outside()))
    assert found.closed and found.guard.default == "deny" and found.local_port == 9001
    assert [each.upstream for each in view.outbounds] == ["ledger"]
    assert not egress(world({"name": "web", "action": "allow"}))[1].closed
    assert egress(world({"name": "orders", "action": "allow"}))[1].closed
    assert not egress(world({"name": "*", "action": "allow"}, name="*"))[1].closed


def test_the_document_wins_over_what_is_registered_under_the_name():
    registered = replace(NOTHING, externals=outside(), instances=changed_instances("payments", "tcp"))
    _, found = egress(registered)
    assert found.external.protocol == "http" and found.closed


def test_permissions_on_requests_that_nobody_sees_deny():
    _, found = egress(world({"name": "web", "permissions": GET}, protocol="tcp"))
    assert found.closed


@pytest.mark.parametrize(
    ("before", "after", "cut"),
    [
        ({"action": "allow"}, {"action": "deny"}, 1),
        ({"action": "allow"}, {"permissions": GET}, 1),
        ({"permissions": GET}, {"action": "allow"}, 0),
        ({"action": "deny"}, {"action": "allow"}, 0),
        ({"action": "allow"}, {"action": "allow", "reason": "INC-7"}, 0),
    ],
)
def test_what_is_open_ends_only_where_the_source_may_do_less(before, after, cut):
    view, _ = egress(world({"name": "web", **before}))
    assert egress(world({"name": "web", **after}), view)[1].cut == cut


def test_what_others_may_do_changes_nothing_here():
    first = resolve_next(world({"name": "web", "action": "allow"}), HOST, tuple(WEB), None, NOW)
    both = world({"name": "web", "action": "allow"}, {"name": "orders", "action": "deny"})
    then = resolve_next(both, HOST, tuple(WEB), first, NOW)
    assert then.view.egresses[0] is first.view.egresses[0]


def test_an_intention_on_the_outside_ends_at_its_time():
    ends = NOW + timedelta(seconds=5)
    allowed = world({"name": "web", "action": "allow", "expires_at": ends})
    first = resolve_next(allowed, HOST, tuple(WEB), None, NOW)
    assert first.view.valid_until == ends and not first.view.egresses[0].closed
    then = resolve_next(allowed, HOST, tuple(WEB), first, ends)
    assert then.view.egresses[0].closed and then.view.egresses[0].cut == 1


def test_a_service_of_the_name_that_runs_here_stays_what_it_is():
    view = resolve(replace(NOTHING, externals=outside("http2")), HOST, (LOCALS[0], LOCALS[2]), None, NOW)
    assert [each.protocol for each in view.inbounds] == ["http", "tcp"]
