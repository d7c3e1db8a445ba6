"""What is said in shadow: it decides nothing, and says what it would refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.external import External
from meshagent.model.intention import Intention, IntentionSource, Permission
from meshagent.model.mesh import Mesh
from meshagent.model.veto import Veto
from meshagent.model.world import Stated, World
from meshagent.policy.egress import egress_guard
from meshagent.policy.explain import default_words, doubted, explain
from meshagent.policy.plan import effects
from meshagent.policy.precedence import guard
from meshagent.policy.request import Request
from meshagent.policy.vetoes import vetoed

NOW = datetime(2026, 11, 21, tzinfo=UTC)
READS = Permission.model_validate({"action": "allow", "http": {"methods": ["GET"]}})


def entry(name, action="deny", shadow=True, **more):
    return IntentionSource(name=name, action=None if "permissions" in more else action, shadow=shadow, **more)


def judge(*sources, default="deny", any_destination=(), protocol="http"):
    intentions = {"payments": Stated(Intention(name="payments", sources=sources))}
    if any_destination:
        intentions["*"] = Stated(Intention(name="*", sources=any_destination))
    return guard("payments", protocol, Mesh(default_action=default), intentions, NOW)


def test_a_shadow_deny_refuses_nothing_and_says_what_it_would():
    rules = judge(entry("web"), default="allow")
    assert explain(rules, "web").allowed
    assert doubted(rules, "web").rule.id == "payments/web:shadow"
    assert doubted(rules, "orders") is None


def test_a_shadow_deny_of_a_pair_that_is_denied_opens_nothing():
    assert not explain(judge(entry("web")), "web").allowed
    both = judge(entry("web", shadow=False), entry("web"), default="allow")
    assert explain(both, "web").outcome == "deny" and doubted(both, "web") is None


def test_beside_an_allow_of_the_pair_the_allow_decides():
    rules = judge(entry("web", "allow", shadow=False), entry("web"))
    assert explain(rules, "web").rule.id == "payments/web"
    assert doubted(rules, "web").rule.id == "payments/web:shadow"


def test_a_mesh_that_denies_in_shadow_lets_pass_what_no_intention_names():
    rules = judge(entry("web", "allow", shadow=False), entry("batch", shadow=False), default="shadow-deny")
    assert explain(rules, "orders").allowed and "shadow-deny" in explain(rules, "orders").why
    assert doubted(rules, "orders").rule is None and default_words(rules) == "shadow-deny"
    assert doubted(rules, "web") is None
    assert not explain(rules, "batch").allowed and doubted(rules, "batch") is None


def test_where_an_intention_names_everybody_a_default_in_shadow_changes_nothing():
    assert judge(entry("*", "allow", shadow=False), default="shadow-deny").shadow is None


def test_precedence_holds_in_shadow_too():
    exact = judge(entry("web", "allow", shadow=False), entry("*"), default="allow")
    assert doubted(exact, "web") is None and doubted(exact, "orders").rule.id == "payments/*:shadow"
    wide = judge(entry("web", "allow", shadow=False), any_destination=(entry("web"),))
    assert doubted(wide, "web") is None


def test_permissions_in_shadow_judge_by_request():
    rules = judge(entry("web", permissions=(READS,)), default="allow")
    assert doubted(rules, "web", Request("GET")) is None
    assert doubted(rules, "web", Request("POST")).outcome == "deny"
    assert doubted(rules, "web").outcome == "depends"
    assert explain(rules, "web", Request("POST")).allowed


def test_what_permissions_ask_of_a_tcp_service_is_a_deny_in_shadow_as_in_force():
    assert doubted(judge(entry("web", permissions=(READS,)), default="allow", protocol="tcp"), "web").outcome == "deny"


def test_a_shadow_that_is_over_is_as_if_it_were_not_there():
    over = entry("web", expires_at=NOW - timedelta(seconds=1))
    assert judge(over, default="allow").shadow is None


def test_a_malformed_request_is_refused_by_nobodys_shadow():
    assert doubted(judge(entry("web"), default="allow"), "web", Request(path="/%2f")) is None


def test_consuls_veto_holds_in_shadow_too():
    rules = vetoed(judge(entry("web"), default="allow"), Veto(others=True, named={"orders": False}))
    assert not explain(rules, "orders").allowed and doubted(rules, "orders") is None
    assert explain(rules, "web").allowed and doubted(rules, "web") is not None


def test_a_call_out_of_the_mesh_is_doubted_as_one_within():
    external = External(name="stripe", hosts=("api.stripe.com",), port=443, tls={"mode": "none"})
    world = World(1, Mesh(default_action="shadow-deny"))
    assert doubted(egress_guard(world, "web", external, NOW), "web") is not None
    allowed = Intention(name="stripe", sources=(entry("web", "allow", shadow=False),))
    named = World(1, Mesh(default_action="shadow-deny"), {"stripe": Stated(allowed)})
    assert egress_guard(named, "web", external, NOW).shadow is None


def test_a_plan_tells_what_would_be_lost_apart_from_what_is():
    payments = {"payments": Stated(Intention(name="payments", sources=(entry("web", "allow", shadow=False),)))}
    worlds = [World(1, Mesh(default_action=action), payments) for action in ("allow", "shadow-deny", "deny")]
    to_shadow, to_deny = (effects(*pair, NOW) for pair in (worlds[:2], worlds[1:]))
    assert [(each.source, each.turn, each.shadow) for each in to_shadow] == [("*", "loses", True)]
    assert [(each.source, each.turn, each.shadow) for each in to_deny] == [("*", "loses", False)]


SOURCES = st.lists(
    st.builds(
        entry,
        st.sampled_from(["web", "orders", "*"]),
        st.sampled_from(["allow", "deny"]),
        st.booleans(),
    ),
    unique_by=lambda each: (each.name, each.shadow),
    max_size=6,
)


@given(SOURCES, SOURCES, st.sampled_from(["allow", "deny", "shadow-deny"]), st.sampled_from(["web", "orders", "x"]))
def test_what_is_in_force_is_as_if_nothing_were_said_in_shadow(exact, wide, default, source):
    rules = judge(*exact, default=default, any_destination=wide)
    forced = [[each for each in some if not each.shadow] for some in (exact, wide)]
    plain = judge(*forced[0], default="deny" if default == "deny" else "allow", any_destination=forced[1])
    assert (rules.rules, rules.default) == (plain.rules, plain.default)
    assert plain.shadow is None
    doubt = doubted(rules, source)
    assert (doubt is not None) == rules.doubts(source)


@pytest.mark.parametrize("shadow", ["yes", 1, None])
def test_shadow_is_true_or_false_and_nothing_that_looks_like_it(shadow):
    with pytest.raises(ValueError, match="shadow"):
        IntentionSource.model_validate({"name": "web", "action": "deny", "shadow": shadow})


def test_a_pair_has_one_entry_in_force_and_one_in_shadow_at_most():
    Intention(name="payments", sources=(entry("web", "allow", shadow=False), entry("web")))
    with pytest.raises(ValueError, match="names the source web in shadow more than once"):
        Intention(name="payments", sources=(entry("web"), entry("web", "allow")))
