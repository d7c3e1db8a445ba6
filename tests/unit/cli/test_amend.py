"""What allow and deny make of an intention: pure, in all combinations with what is there."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from meshagent.cli.amend import Wish, amended, placed, without
from meshagent.model.intention import HttpMatch, Intention, IntentionSource, Permission
from meshagent.model.view import Guard, Rule
from meshagent.policy.explain import explain
from meshagent.policy.request import Request

LATER = datetime(2099, 1, 1, tzinfo=UTC)
PATHS = ("/", "/admin", "/admin/x", "/ADMIN", "/reports", "/reports/x")


def http(path, *, ignore_case=False):
    return HttpMatch(path_prefix=path, ignore_case=ignore_case)


permissions = st.builds(
    Permission,
    action=st.sampled_from(["allow", "deny"]),
    http=st.builds(http, st.sampled_from(PATHS), ignore_case=st.booleans()),
)
intentions = st.one_of(
    st.none(),
    st.builds(IntentionSource, name=st.just("web"), action=st.sampled_from(["allow", "deny"])),
    st.builds(
        IntentionSource, name=st.just("web"), permissions=st.lists(permissions, min_size=1, max_size=4).map(tuple)
    ),
)
wishes = st.builds(
    Wish,
    source=st.just("web"),
    destination=st.just("payments"),
    action=st.sampled_from(["allow", "deny"]),
    http=st.builds(http, st.sampled_from(PATHS), ignore_case=st.booleans()),
)


def rule(source):
    return Rule(source.name, source.action, source.permissions, f"payments/{source.name}")


def allowed(source, path):
    rules = (rule(source),) if source else ()
    return explain(Guard("payments", rules, "deny"), "web", Request("GET", path)).allowed


@given(wish=wishes, held=intentions)
def test_what_was_wished_for_holds_afterwards(wish, held):
    source = amended(wish, held, rule(held) if held else None, "deny").source
    assert allowed(source, wish.http.path_prefix) is (wish.action == "allow")


@given(wish=wishes, held=intentions, path=st.sampled_from(PATHS))
def test_a_deny_never_allows_and_takes_only_what_it_names(wish, held, path):
    wish = Wish(wish.source, wish.destination, "deny", wish.http)
    source = amended(wish, held, rule(held) if held else None, "deny").source
    named = allowed(IntentionSource(name="web", permissions=(Permission(action="allow", http=wish.http),)), path)
    assert allowed(source, path) is (allowed(held, path) and not named)


@given(wish=wishes, held=intentions, path=st.sampled_from(PATHS))
def test_an_allow_never_allows_more_than_it_names(wish, held, path):
    wish = Wish(wish.source, wish.destination, "allow", wish.http)
    source = amended(wish, held, rule(held) if held else None, "deny").source
    named = allowed(IntentionSource(name="web", permissions=(Permission(action="allow", http=wish.http),)), path)
    if allowed(source, path):
        assert named or allowed(held, path)


def test_denying_a_path_under_a_default_of_allow_keeps_the_rest():
    source = amended(Wish("web", "payments", "deny", http("/admin")), None, None, "allow").source
    assert allowed(source, "/reports")
    assert not allowed(source, "/admin")


def test_the_end_and_the_reason_of_an_intention_stay_unless_new_ones_are_given():
    held = IntentionSource(name="web", action="allow", expires_at=LATER, reason="INC-7")
    source = amended(Wish("web", "payments", "deny", http("/admin")), held, rule(held), "deny").source
    assert (source.expires_at, source.reason) == (LATER, "INC-7")
    plain = amended(Wish("web", "payments", "allow"), held, rule(held), "deny").source
    assert (plain.expires_at, plain.reason) == (None, "")


def test_a_source_keeps_its_place_in_the_document():
    web, batch = (IntentionSource(name=name, action="allow") for name in ("web", "batch"))
    document = Intention(name="payments", sources=(web, batch))
    denied = IntentionSource(name="web", action="deny")
    assert placed(document, "payments", denied).sources == (denied, batch)
    assert placed(None, "payments", web).sources == (web,)
    assert without(document, {"web"}) == Intention(name="payments", sources=(batch,))
    assert without(Intention(name="payments", sources=(web,)), {"web"}) is None
