"""effects: who gains and who loses whom, from two worlds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.intention import Intention
from meshagent.model.mesh import Mesh
from meshagent.model.service import Service
from meshagent.model.world import Stated, World
from meshagent.policy.explain import explain
from meshagent.policy.plan import effects
from meshagent.policy.precedence import guard

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BY_PATH = {"permissions": [{"action": "allow", "http": {"path_prefix": "/x"}}]}
BY_OTHER = {"permissions": [{"action": "allow", "http": {"path_prefix": "/y"}}]}
ALLOW, DENY = {"action": "allow"}, {"action": "deny"}


def world(default="deny", **intentions):
    """`payments={"web": ALLOW}`; the name `every` stands for `*`."""
    stated = {}
    for destination, sources in intentions.items():
        name = "*" if destination == "every" else destination
        rows = [{"name": source, **what} for source, what in sources.items()]
        stated[name] = Stated(Intention.model_validate({"name": name, "sources": rows}))
    services = {"payments": Stated(Service(name="payments", protocol="http"))}
    return World(1, Mesh(default_action=default), stated, services)


@pytest.mark.parametrize(
    ("before", "after", "turn"),
    [
        (DENY, ALLOW, "gains"),
        (ALLOW, DENY, "loses"),
        (ALLOW, BY_PATH, "narrows"),
        (BY_PATH, ALLOW, "widens"),
        (DENY, BY_PATH, "gains"),
        (BY_PATH, DENY, "loses"),
        (BY_PATH, BY_OTHER, "differs"),
    ],
)
def test_each_turn_has_its_word(before, after, turn):
    found = effects(world(payments={"web": before}), world(payments={"web": after}), NOW)
    assert [(each.source, each.destination, each.turn) for each in found] == [("web", "payments", turn)]


def test_what_says_the_same_otherwise_is_no_effect():
    assert effects(world(payments={"web": DENY}), world(), NOW) == ()
    assert effects(world(payments={"web": ALLOW}), world(payments={"web": ALLOW}), NOW) == ()


def test_an_intention_on_every_destination_reaches_all_that_are_known():
    found = effects(world(), world(every={"web": ALLOW}), NOW, ("orders",))
    assert [(each.source, each.destination) for each in found] == [("web", "orders"), ("web", "payments")]


SOURCES = st.dictionaries(st.sampled_from(["web", "batch", "*"]), st.sampled_from([ALLOW, DENY]), max_size=3)


@given(SOURCES, SOURCES, st.sampled_from(["allow", "deny"]), st.sampled_from(["allow", "deny"]))
def test_a_source_is_named_exactly_when_its_verdict_changes(old, new, old_default, new_default):
    before, after = world(old_default, payments=old), world(new_default, payments=new)
    turns = {each.source: each.turn for each in effects(before, after, NOW)}

    def allowed(world, source):
        rules = guard("payments", "http", world.mesh, world.intentions, NOW)
        return explain(rules, source).allowed

    for source in {*old, *new} - {"*"}:
        was, is_ = allowed(before, source), allowed(after, source)
        assert turns.get(source) == (None if was == is_ else "gains" if is_ else "loses")
