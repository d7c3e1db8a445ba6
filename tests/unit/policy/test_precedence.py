"""Which intention decides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.mesh import Mesh
from meshagent.model.world import Stated
from meshagent.policy.explain import explain
from meshagent.policy.precedence import guard, next_expiry
from meshagent.policy.request import Request

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def stated(name, **sources):
    rows = [
        IntentionSource(name="*" if source == "anyone" else source, action=action) for source, action in sources.items()
    ]
    return Stated(Intention(name=name, sources=tuple(rows)))


def decide(intentions, source, default="deny", protocol="http"):
    rules = guard(
        "payments", protocol, Mesh(default_action=default), {each.thing.name: each for each in intentions}, NOW
    )
    return explain(rules, source).outcome


def test_exact_pair_beats_every_wildcard():
    both = [stated("payments", web="allow", anyone="deny"), stated("*", web="deny", anyone="deny")]
    assert decide(both, "web") == "allow"
    assert decide(both, "orders") == "deny"


def test_exact_destination_with_any_source_beats_any_destination_with_exact_source():
    assert decide([stated("payments", anyone="deny"), stated("*", web="allow")], "web") == "deny"


def test_any_destination_with_exact_source_beats_any_any():
    both = [stated("*", web="allow", anyone="deny")]
    assert decide(both, "web") == "allow"
    assert decide(both, "orders") == "deny"


def test_the_default_decides_last():
    assert decide([], "web", "allow") == "allow"
    assert decide([stated("payments", orders="allow")], "web", "deny") == "deny"


def test_an_expired_intention_is_as_if_it_were_not_there():
    gone = IntentionSource(name="web", action="allow", expires_at=NOW - timedelta(seconds=1))
    intentions = {"payments": Stated(Intention(name="payments", sources=(gone,)))}
    rules = guard("payments", "http", Mesh(), intentions, NOW)
    assert rules.rules == () and next_expiry("payments", intentions, NOW) is None
    earlier = NOW - timedelta(minutes=1)
    assert explain(guard("payments", "http", Mesh(), intentions, earlier), "web").allowed
    assert next_expiry("payments", intentions, earlier) == gone.expires_at


def test_an_l7_permission_on_a_tcp_service_is_a_deny():
    source = IntentionSource.model_validate(
        {"name": "web", "permissions": [{"action": "allow", "http": {"methods": ["GET"]}}]}
    )
    intentions = {"payments": Stated(Intention(name="payments", sources=(source,)))}
    assert (
        explain(guard("payments", "tcp", Mesh(default_action="allow"), intentions, NOW), "web", Request()).outcome
        == "deny"
    )


ACTIONS = st.sampled_from(["allow", "deny"])
SOURCES = st.dictionaries(st.sampled_from(["web", "orders", "batch", "anyone"]), ACTIONS)


@given(SOURCES, SOURCES, ACTIONS, st.sampled_from(["web", "orders", "batch", "other"]))
def test_the_guard_agrees_with_a_plain_reading_of_the_four_levels(exact, wildcard, default, source):
    levels = [exact.get(source), exact.get("anyone"), wildcard.get(source), wildcard.get("anyone"), default]
    expected = next(action for action in levels if action is not None)
    assert decide([stated("payments", **exact), stated("*", **wildcard)], source, default) == expected
