"""In which order instances are called, which services take another's place, and where calls go now."""

from __future__ import annotations

from meshagent.model.mesh import Mesh
from meshagent.model.route import Route
from meshagent.model.service import Instance, Service
from meshagent.model.view import Tier
from meshagent.model.world import Stated, World
from meshagent.policy.failover import landing
from meshagent.policy.resolve import outbound_of
from meshagent.policy.shifts import Place, shifts
from meshagent.policy.tiers import tier_of, tiers_of

HOME, REGION, ANY = Tier("eu", "eu-1a"), Tier("eu"), Tier()
SUBSETS = {"v1": {"version": "v1"}, "v2": {"version": "v2"}}


def order(*steps, region="eu", zone="eu-1a"):
    return tiers_of(Service.model_validate({"name": "a", "failover": steps}).failover, region, zone)


def instance(service, number=1, zone="eu-1a", region="eu", health="passing", **more):
    facts = {"host": f"vm-{number}", "id": service, "address": f"10.0.0.{number}", "port": 21000, "protocol": "http"}
    place = {"region": region, "zone": zone, "health": health}
    return Instance.model_validate({"service": service, **facts, **place, **more})


def world(*instances, rules=(), protocols=(), **failovers):
    """`failovers`: the steps of each service; services with none are just known."""
    speaks = dict(protocols)
    services = {
        name: Stated(
            Service.model_validate(
                {"name": name, "protocol": speaks.get(name, "http"), "failover": steps, "subsets": SUBSETS}
            )
        )
        for name, steps in failovers.items()
    }
    found = {}
    for each in instances:
        found[each.service] = (*found.get(each.service, ()), each)
    routes = {"payments": Stated(Route.model_validate({"name": "payments", "rules": rules}))} if rules else {}
    return World(1, Mesh(), services=services, instances=found, routes=routes)


def outbound(found):
    return outbound_of(found, "web", "payments", "eu", "eu-1a")


def lands(found, subset=None):
    where = landing(outbound(found), "payments", subset)
    return where.service, where.subset, where.tier, where.served


def test_the_own_place_comes_ahead_of_what_steps_name_and_what_none_names_comes_last():
    assert order() == order({"service": "b"}) == ()
    assert order({"zone": "any"}) == (HOME, REGION, ANY)
    assert order({"region": "any"}) == (REGION, ANY)
    assert order({"zone": "any"}, {"region": "any"}) == (HOME, REGION, ANY)
    assert order({"zone": "eu-1b"}) == (HOME, Tier("eu", "eu-1b"), ANY)
    assert order({"region": "us"}, {"region": "asia"}) == (REGION, Tier("us"), Tier("asia"), ANY)
    assert order({"zone": "eu-1b"}, {"region": "us"}) == (HOME, Tier("eu", "eu-1b"), REGION, Tier("us"), ANY)
    assert order({"zone": "eu-1a"}, {"region": "eu"}) == (HOME, REGION, ANY), "where one is already adds nothing"


def test_an_instance_is_in_the_first_tier_that_has_its_place():
    tiers = order({"zone": "any"}, {"region": "us"})
    places = [("eu", "eu-1a"), ("eu", "eu-1b"), ("eu", ""), ("us", "eu-1a"), ("asia", ""), ("", "")]
    assert [tier_of(tiers, *place) for place in places] == [0, 1, 1, 2, 3, 3]


def test_a_host_that_does_not_say_where_it_stands_is_near_to_those_that_do_not_either():
    tiers = order({"zone": "any"}, region="", zone="")
    assert [tier_of(tiers, *place) for place in (("", ""), ("eu", "eu-1a"))] == [0, 2]


def test_calls_go_to_the_first_tier_with_an_instance_in_service_and_then_to_other_services():
    steps = {"payments": [{"zone": "any"}, {"service": "b1"}, {"service": "b2"}], "b1": [], "b2": []}
    near, far = instance("payments"), instance("payments", 2, zone="eu-1b")
    down = instance("payments", health="failing")
    assert lands(world(near, far, **steps)) == ("payments", None, 0, True)
    assert lands(world(down, far, **steps)) == ("payments", None, 1, True)
    assert lands(world(down, instance("b1", 3), instance("b2", 4), **steps)) == ("b1", None, 0, True)
    assert lands(world(down, instance("b1", 3, health="failing"), instance("b2", 4), **steps)) == ("b2", None, 0, True)
    assert lands(world(down, **steps)) == ("payments", None, 0, False)


def test_a_subset_goes_through_its_own_tiers_before_another_service_takes_its_place():
    steps = {"payments": [{"zone": "any"}, {"service": "b1"}], "b1": []}
    here, there = instance("payments", meta={"version": "v2"}), instance("payments", 2, "eu-1b", meta={"version": "v1"})
    found = world(here, there, instance("b1", 3), rules=[{"to": [{"subset": "v1"}]}], **steps)
    assert lands(found, "v1") == ("payments", "v1", 1, True)
    assert lands(world(here, instance("b1", 3), **steps), "v1") == ("b1", None, 0, True)
    (part,) = (each for each in outbound(found).beyond if each.subset)
    assert (part.subset, part.failover, [each.tier for each in part.endpoints]) == ("v1", ("b1",), [1])


def test_only_what_speaks_alike_takes_anothers_place_and_only_one_level_deep():
    steps = {
        "payments": [{"service": "db"}, {"service": "nobody"}, {"service": "b1"}],
        "b1": [{"service": "b2"}],
        "b2": [],
    }
    found = outbound(world(db=[], protocols=[("db", "tcp")], **steps))
    assert found.failover == ("b1",)
    assert [(each.upstream, each.failover) for each in found.beyond] == [("b1", ())]


def test_a_target_of_a_route_has_its_own_failover_and_a_split_leaves_out_what_is_empty_first():
    steps = {"payments": [], "ledger": [{"service": "b1"}], "b1": []}
    rules = [{"to": [{"service": "ledger"}, {"subset": "v1"}]}]
    up = instance("payments", meta={"version": "v1"})
    found = outbound(world(up, instance("b1", 3), rules=rules, **steps))
    assert {each.upstream: each.failover for each in found.beyond} == {"ledger": ("b1",), "b1": ()}
    assert [(each.service, each.subset) for each in found.ways[0].to] == [(None, "v1")]
    assert landing(found, "ledger", None).service == "b1"


def test_plan_tells_what_a_failover_moves_now():
    down, backup = instance("payments", health="failing"), instance("b1", 3)
    before = world(down, backup, payments=[], b1=[])
    after = world(down, backup, payments=[{"service": "b1"}], b1=[])
    (shift,) = shifts(before, after)
    assert (dict(shift.before), dict(shift.after)) == ({Place("payments"): 100}, {Place("b1"): 100})
    well = [world(instance("payments"), backup, payments=steps, b1=[]) for steps in ([], [{"service": "b1"}])]
    assert shifts(*well) == ()
