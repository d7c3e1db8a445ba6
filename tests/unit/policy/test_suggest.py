"""The least intentions that let pass what was seen, and what a change would refuse of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.intention import Intention, IntentionSource, Permission
from meshagent.model.mesh import Mesh
from meshagent.model.observed import CallKey, Observed
from meshagent.model.service import Instance, Service
from meshagent.model.world import Stated, World
from meshagent.policy.explain import explain
from meshagent.policy.precedence import guard
from meshagent.policy.request import Request
from meshagent.policy.suggest import gathered, losses, suggested

NOW = datetime(2026, 11, 21, tzinfo=UTC)
READS = Permission.model_validate({"action": "allow", "http": {"methods": ["GET"], "path_prefix": "/reports"}})


def instance(service, protocol):
    return Instance(service=service, host="vm-1", id=service, address="10.0.0.1", port=21000, protocol=protocol)


INSTANCES = {
    name: (instance(name, protocol),) for name, protocol in (("pay", "http"), ("db", "tcp"), ("clock", "grpc"))
}


def world(*intentions, default="shadow-deny", services=()):
    return World(
        1,
        Mesh(default_action=default),
        {each.name: Stated(each) for each in intentions},
        {each.name: Stated(each) for each in services},
        INSTANCES,
    )


def of(destination, *sources):
    return Intention(name=destination, sources=sources)


def allow(name, **more):
    return IntentionSource(name=name, action="allow", **more)


def saw(source, destination, method="", path="", calls=1, host="vm-1", ago=0):
    return Observed(CallKey(source, destination, method, path), calls, NOW - timedelta(seconds=ago), (host,))


def applied(before, made):
    return World(
        2, Mesh(), {**before.intentions, **{each.name: Stated(each) for each in made.documents}}, {}, INSTANCES
    )


def passes(there, source, destination, method="GET", path="/"):
    protocol = INSTANCES[destination][0].protocol
    judge = guard(destination, protocol, there.mesh, there.intentions, NOW)
    return explain(judge, source, Request(method, path)).allowed


def test_each_pair_that_was_seen_and_no_other():
    found = [saw("web", "pay", calls=7), saw("web", "db"), saw("batch", "pay")]
    made = suggested(world(), found, NOW, by_request=False)
    pairs = [(each.source.name, each.destination) for each in made.suggestions]
    assert pairs == [("web", "db"), ("batch", "pay"), ("web", "pay")]
    assert [each.name for each in made.documents] == ["db", "pay"]
    after = applied(world(), made)
    assert passes(after, "web", "pay") and passes(after, "web", "db") and not passes(after, "batch", "db")
    assert made.suggestions[2].evidence[0].words == "7 calls, the last at 2026-11-21T00:00:00Z, seen by vm-1"


def test_what_is_allowed_already_is_not_suggested_again_and_stays():
    there = world(of("pay", allow("web"), IntentionSource(name="evil", action="deny"), allow("*", shadow=True)))
    made = suggested(there, [saw("web", "pay"), saw("batch", "pay")], NOW, by_request=False)
    assert made.suggestions == ()  # the shadow allows everybody
    there = world(of("pay", allow("web"), IntentionSource(name="evil", action="deny")))
    made = suggested(there, [saw("web", "pay"), saw("batch", "pay")], NOW, by_request=False)
    assert [each.name for each in made.documents[0].sources] == ["web", "evil", "batch"]


def test_what_is_refused_is_never_suggested():
    there = world(of("pay", IntentionSource(name="evil", action="deny")))
    assert suggested(there, [saw("evil", "pay")], NOW, by_request=False).documents == ()
    assert suggested(world(default="deny"), [saw("web", "pay")], NOW, by_request=False).documents == ()


def test_a_mesh_that_allows_everything_can_be_asked_too():
    made = suggested(world(default="allow"), [saw("web", "pay")], NOW, by_request=False)
    assert [each.source.name for each in made.suggestions] == ["web"]


def test_by_request_methods_and_paths_that_were_seen_pass_and_no_others():
    found = [
        saw("web", "pay", calls=9),
        saw("web", "pay", "GET", "/orders/*", 5),
        saw("web", "pay", "PUT", "/orders/*", 2),
        saw("web", "pay", "GET", "/health", 2),
    ]
    made = suggested(world(), found, NOW, by_request=True)
    assert [
        permission.http.model_dump(exclude_defaults=True) for permission in made.suggestions[0].source.permissions
    ] == [
        {"methods": ("GET",), "path_exact": "/health"},
        {"methods": ("GET", "PUT"), "path_regex": "/orders/[^/]+"},
    ]
    assert [each.calls for each in made.suggestions[0].evidence] == [2, 7]
    after = applied(world(), made)
    assert passes(after, "web", "pay", "PUT", "/orders/17") and passes(after, "web", "pay", "GET", "/health")
    assert not passes(after, "web", "pay", "DELETE", "/orders/17") and not passes(after, "web", "pay", "GET", "/admin")


def test_what_everybody_may_do_goes_on_beside_what_is_suggested():
    there = world(of("pay", IntentionSource(name="*", permissions=(READS,), shadow=True)))
    made = suggested(there, [saw("web", "pay", "POST", "/pay")], NOW, by_request=True)
    after = applied(there, made)
    assert passes(after, "web", "pay", "POST", "/pay") and passes(after, "web", "pay", "GET", "/reports/x")
    assert not passes(after, "web", "pay", "GET", "/other")


def test_a_tcp_service_and_one_that_is_carried_as_bytes_are_allowed_whole():
    carried = world(services=(Service(name="pay", data_path="l4"),))
    made = suggested(carried, [saw("web", "pay", "GET", "/x"), saw("web", "db")], NOW, by_request=True)
    assert [each.source.action for each in made.suggestions] == ["allow", "allow"]
    assert not any(each.blind for each in made.suggestions)


def test_a_service_that_is_not_there_any_more_is_as_it_was_seen():
    made = suggested(world(), [saw("web", "gone", "GET", "/x"), saw("web", "away")], NOW, by_request=True)
    assert [(each.destination, bool(each.source.permissions)) for each in made.suggestions] == [
        ("away", False),
        ("gone", True),
    ]


def test_without_a_logged_request_a_pair_is_allowed_whole_and_that_is_told():
    made = suggested(world(), [saw("web", "clock")], NOW, by_request=True)
    assert made.suggestions[0].source.action == "allow" and made.suggestions[0].blind


def test_what_a_shadow_names_is_not_contradicted():
    there = world(of("pay", allow("web"), IntentionSource(name="web", action="deny", shadow=True)))
    made = suggested(there, [saw("web", "pay")], NOW, by_request=False)
    assert made.documents == () and "pay/web:shadow names the pair" in made.left[0].why


def test_who_has_proven_nothing_cannot_be_named():
    made = suggested(world(), [saw("", "pay", "GET", "/")], NOW, by_request=False)
    assert made.documents == () and "nobody has proven who calls" in made.left[0].why


def test_an_entry_that_is_over_makes_room():
    there = world(of("pay", allow("web", expires_at=NOW - timedelta(days=1)), allow("web", shadow=True)))
    made = suggested(
        world(of("pay", there.intentions["pay"].thing.sources[0])), [saw("web", "pay")], NOW, by_request=False
    )
    assert [(each.name, each.expires_at) for each in made.documents[0].sources] == [("web", None)]


def test_several_hosts_words_are_added_up():
    found = gathered([saw("web", "pay", calls=2, host="vm-2", ago=60), saw("web", "pay", calls=3, host="vm-1")])
    assert found == (Observed(CallKey("web", "pay"), 5, NOW, ("vm-1", "vm-2")),)


def test_a_change_is_told_with_the_calls_that_it_would_refuse():
    before = world(of("pay", allow("web"), allow("batch")), default="deny")
    after = world(of("pay", IntentionSource(name="web", permissions=(READS,))), default="deny")
    found = [
        saw("batch", "pay"),
        saw("web", "pay"),
        saw("web", "pay", "GET", "/reports/x"),
        saw("web", "pay", "PUT", "/"),
    ]
    told = [
        (each.observed.key, each.rule.id if each.rule else None, each.some)
        for each in losses(before, after, found, NOW)
    ]
    assert told == [
        (CallKey("batch", "pay"), None, False),
        (CallKey("web", "pay"), "pay/web", True),
        (CallKey("web", "pay", "PUT", "/"), "pay/web", False),
    ]


def test_nothing_is_told_of_what_is_refused_already_and_of_what_goes_on():
    before = world(of("pay", allow("web")), default="deny")
    after = world(of("pay", allow("web"), allow("batch")), default="deny")
    assert list(losses(before, after, [saw("batch", "pay"), saw("web", "pay"), saw("web", "db")], NOW)) == []


CALLS = st.builds(
    saw,
    st.sampled_from(["web", "batch", "nightly"]),
    st.sampled_from(["pay", "clock"]),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["/", "/a", "/a/*", "/a/b", "/b/**"]),
)


@given(st.lists(CALLS, max_size=12), st.booleans())
def test_whatever_was_seen_passes_once_it_is_applied_and_deny_is_the_default(found, by_request):
    found = gathered(found)
    made = suggested(world(), found, NOW, by_request=by_request)
    after = applied(world(), made)
    for each in found:
        path = each.key.path.replace("**", "x/y").replace("*", "17")
        assert passes(after, each.key.source, each.key.destination, each.key.method, path)
    assert suggested(after, found, NOW, by_request=by_request).documents == ()
    pairs = {each.key[:2] for each in found}
    for source in ("web", "batch", "nightly"):
        for destination in ("pay", "clock"):
            if (source, destination) not in pairs:
                assert not passes(after, source, destination)
