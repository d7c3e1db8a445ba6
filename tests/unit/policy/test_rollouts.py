"""What a rollout makes of the routes of callers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.mesh import Mesh
from meshagent.model.rollout import Progress, Rollout, percent_of
from meshagent.model.route import MAX_WEIGHT, Route
from meshagent.model.service import Service, ServiceDefinition
from meshagent.model.world import Local, Origin, Stated, World
from meshagent.policy.resolve import Host, outbound_of, resolve, resolve_next
from meshagent.policy.rollouts import Split, as_routes, with_splits
from meshagent.policy.shifts import Place, shifts
from tests.unit.translate.route_table import instance

NOW = datetime(2026, 11, 21, tzinfo=UTC)
V1, V2 = {"version": "v1"}, {"version": "v2"}
BOTH = (instance(meta=V1), instance(number=2, meta=V2))
SUBSETS = {"v1": V1, "v2": V2, "v3": {"version": "v3"}}


def rollout(**more):
    return Rollout.model_validate({"name": "payments", "base": "v1", "to": "v2", **more})


def progress(step=0, phase="running", of=None, turn=1):
    run = (of or rollout()).run
    return Progress(run=run, turn=turn, phase=phase, step=step, since=NOW, host="vm-2")


def world(*rules, held=None, wanted=None, instances=BOTH, name="payments", **services):
    documents = {"payments": Service.model_validate({"name": "payments", "protocol": "http", "subsets": SUBSETS})}
    documents |= {each: Service.model_validate({"name": each, "protocol": "http"}) for each in services}
    found = {}
    for each in instances:
        found[each.service] = (*found.get(each.service, ()), each)
    route = Stated(Route.model_validate({"name": name, "rules": list(rules)}))
    return World(
        1,
        Mesh(),
        services={each: Stated(document) for each, document in documents.items()},
        instances=found,
        routes={name: route} if rules else {},
        rollouts={"payments": Stated(wanted or rollout(), {"": Origin("rollout.yaml", 3)})},
        progress={"payments": held} if held else {},
    )


def shares(world, number=0, upstream="payments"):
    way = outbound_of(world, "web", upstream).ways[number]
    whole = sum(each.weight for each in way.to)
    return {each.subset: 100 * each.weight / whole for each in way.to}


@pytest.mark.parametrize(
    ("held", "new"),
    [
        (None, 0),
        (progress(0), 5),
        (progress(1), 25),
        (progress(3), 100),
        (progress(9), 100),  # a word beyond the steps is the last of them
        (progress(2, "rolled_back"), 0),
        (progress(1, "done"), 100),
        (progress(2, of=rollout(id="earlier")), 0),
    ],
)
def test_the_share_of_the_new_subset_is_the_one_that_the_step_says(held, new):
    assert shares(world(held=held)).get("v2", 0) == new
    assert shares(world(held=held)).get("v1", 0) == 100 - new


@pytest.mark.parametrize(("state", "new"), [("paused", 25), ("aborted", 0), ("promoted", 100)])
def test_what_the_operator_says_counts_for_more_than_what_hosts_wrote(state, new):
    found = shares(world(held=progress(1), wanted=rollout(state=state)))
    assert found.get("v2", 0) == new


@given(
    st.builds(
        Progress,
        run=st.sampled_from([rollout().run, rollout(id="other").run, ""]),
        turn=st.integers(1, 2**40),
        phase=st.sampled_from(["running", "rolled_back", "done"]),
        step=st.integers(0, 31),
        since=st.datetimes(timezones=st.just(UTC)),
        host=st.just("vm-9"),
    ),
    st.sampled_from(["running", "paused", "aborted", "promoted"]),
)
def test_attack_whatever_a_host_writes_only_a_share_that_the_document_allows_can_come_of_it(forged, state):
    wanted = rollout(steps=[10, 40, 100], state=state)
    found = percent_of(wanted, forged)
    assert found in (0, 10, 40, 100)
    assert found == {"aborted": 0, "promoted": 100}.get(state, found)


def test_callers_hear_of_it_without_a_route_and_the_rule_says_where_it_is_from():
    way = outbound_of(world(held=progress()), "web", "payments").ways[0]
    assert (way.rule.name, str(way.origin)) == ("rollout", "rollout.yaml:3")


def test_a_new_subset_without_an_instance_in_service_gets_nothing_at_any_step():
    failing = instance(number=2, meta=V2, health="failing")
    for step in range(4):
        assert shares(world(held=progress(step), instances=[BOTH[0], failing])) == {"v1": 100}
        assert shares(world(held=progress(step), instances=[BOTH[0]])) == {"v1": 100}


def test_an_old_subset_without_an_instance_gets_nothing_either_while_it_goes_on():
    assert shares(world(held=progress(0), instances=[BOTH[1]])) == {"v2": 100}


def test_what_was_rolled_back_gets_nothing_also_when_the_old_one_is_gone():
    assert shares(world(held=progress(0, "rolled_back"), instances=[BOTH[1]])) == {"v1": 100}


def test_rules_keep_what_they_say_and_those_that_name_another_subset_are_left_alone():
    rules = (
        {"match": {"path_prefix": "/beta"}, "to": [{"subset": "v3"}]},
        {"match": {"path_prefix": "/old"}, "to": [{"subset": "v1"}], "timeout": "3s"},
        {"match": {"path_prefix": "/gone"}, "redirect": {"path": "/"}},
        {"match": {"path_prefix": "/mixed"}, "to": [{"weight": 3}, {"subset": "v3", "weight": 1}]},
    )
    third = instance(number=3, meta={"version": "v3"})
    found = world(*rules, held=progress(1), instances=[*BOTH, third])
    assert shares(found, 0) == {"v3": 100}
    assert shares(found, 1) == {"v1": 75, "v2": 25}
    assert outbound_of(found, "web", "payments").ways[1].rule.timeout.total_seconds() == 3
    assert outbound_of(found, "web", "payments").ways[2].rule.redirect
    assert shares(found, 3) == {"v1": 56.25, "v2": 18.75, "v3": 25}
    assert shares(found, 4) == {"v1": 75, "v2": 25}
    assert len(outbound_of(found, "web", "payments").ways) == 5


def test_no_rule_is_added_behind_one_that_takes_everything():
    found = world({"timeout": "3s"}, held=progress(1))
    assert len(outbound_of(found, "web", "payments").ways) == 1
    assert shares(found) == {"v1": 75, "v2": 25}


def test_the_route_of_another_service_that_leads_there_is_split_too_and_gets_no_rule_behind():
    found = world({"to": [{"service": "payments"}, {}]}, held=progress(1), name="shop", shop="http")
    found.instances["shop"] = (instance("shop"),)
    outbound = outbound_of(found, "web", "shop")
    assert len(outbound.ways) == 1
    assert {(each.service, each.subset): each.weight for each in outbound.ways[0].to} == {
        ("payments", "v1"): 3, ("payments", "v2"): 1, (None, None): 4,
    }  # fmt: skip


def test_without_a_rollout_the_route_is_the_same_object():
    found = world({"timeout": "3s"})
    quiet = World(1, Mesh(), services=found.services, instances=found.instances, routes=found.routes)
    before, after = (outbound_of(quiet, "web", "payments") for _ in range(2))
    assert before.ways[0].rule is after.ways[0].rule is found.routes["payments"].thing.rules[0]


def test_a_view_changes_with_the_progress_alone():
    host = Host("vm-9", "10.0.0.19")
    definition = {"name": "web", "port": 80, "upstreams": [{"service": "payments", "local_port": 9000}]}
    locals_ = (Local(ServiceDefinition.model_validate(definition), 21000),)
    before = world(held=progress(0))
    after = replace(before, progress={"payments": progress(1)})
    first = resolve_next(before, host, locals_, None, NOW)
    second = resolve_next(after, host, locals_, first, NOW)
    assert second.view == resolve(after, host, locals_, None, NOW)
    assert [each.weight for each in second.view.outbounds[0].ways[0].to] == [3, 1]
    assert resolve_next(after, host, locals_, second, NOW).view.outbounds[0] is second.view.outbounds[0]


def test_plan_tells_the_shares_of_a_rollout():
    before = world(held=progress(0))
    after = world(held=progress(1))
    (shift,) = shifts(before, after)
    assert shift.before == {Place("payments", "v1"): 95, Place("payments", "v2"): 5}
    assert shift.after == {Place("payments", "v1"): 75, Place("payments", "v2"): 25}


@given(
    st.lists(st.tuples(st.sampled_from([None, "v1", "v2", "v3"]), st.integers(0, MAX_WEIGHT)), min_size=1, max_size=4),
    st.integers(0, 100),
)
def test_shares_of_a_split_are_exact_and_its_weights_can_be_said(targets, percent):
    held = dict(targets)
    if not any(held.values()):
        return
    rule = {"to": [{"weight": weight} | ({"subset": subset} if subset else {}) for subset, weight in held.items()]}
    route = Stated(Route.model_validate({"name": "payments", "rules": [rule]}))
    made = with_splits(route, "payments", {"payments": Split("v1", "v2", percent)}).thing.rules[0].to
    got = {each.subset: each.weight for each in made}
    moved = held.get(None, 0) + held.get("v1", 0)
    wanted = {
        "v1": moved * (100 - percent) / 100,
        "v2": moved * percent / 100 + held.get("v2", 0),
        "v3": held.get("v3", 0),
    }
    assert len(got) == len(made) and max(got.values()) <= MAX_WEIGHT and None not in got
    for subset, weight in wanted.items():
        assert got.get(subset, 0) / sum(got.values()) == pytest.approx(weight / sum(wanted.values()), abs=1e-5)


def test_written_into_routes_a_rollout_says_what_it_says_by_itself():
    rules = ({"match": {"path_prefix": "/old"}, "to": [{"subset": "v1"}]},)
    for held in (None, progress(1), progress(3, "done")):
        before = world(*rules, held=held)
        after = as_routes(before)
        assert not after.rollouts and not after.progress
        assert outbound_of(after, "web", "payments") == outbound_of(before, "web", "payments")
    quiet = as_routes(after)
    assert quiet is after
