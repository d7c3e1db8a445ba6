"""The generated RBAC filter says what `explain` says, for any policy and any call."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from meshagent.model.identity import TrustBundle
from meshagent.model.intention import HeaderMatch, HttpMatch, Permission
from meshagent.model.view import Guard, Rule
from meshagent.policy.explain import explain
from meshagent.policy.request import Malformed, Request, judged_path
from meshagent.translate.rbac import caller_config, guard_rules, plain_rules
from tests.unit.translate import walker
from tests.unit.translate.walker import allowed

DOMAIN = "mesh.internal"
DOMAINS = TrustBundle().domains(DOMAIN)
NAMES = ["web", "orders", "web2"]
PATHS = ["/", "/reports", "/reports/x", "/reportsx", "/Reports", "/admin", "/a/b"]
MATCHED = ["fin", "ops", "finance", "n", "f.n"]
VALUES = [*MATCHED, "", "a,fin", "fin, ops", "ops,finance", "fi", "xfin", "f-n"]

header_matches = st.builds(
    lambda name, matcher, value, invert: HeaderMatch.model_validate(
        {"name": name, matcher: True if matcher == "present" else value, "invert": invert}
    ),
    st.sampled_from(["x-team", "x-role"]),
    st.sampled_from(["exact", "prefix", "suffix", "present"]),
    st.sampled_from(MATCHED),
    st.booleans(),
)
http_matches = st.builds(
    lambda methods, kind, path, ignore_case, headers: HttpMatch.model_validate(
        {"methods": methods or ["GET"], "headers": headers, "ignore_case": ignore_case} | ({kind: path} if kind else {})
    ),
    st.lists(st.sampled_from(["GET", "POST"]), max_size=2, unique=True),
    st.sampled_from([None, "path_exact", "path_prefix", "path_regex"]),
    st.sampled_from(PATHS),
    st.booleans(),
    st.lists(header_matches, max_size=2).map(tuple),
)
permissions = st.lists(
    st.builds(Permission, action=st.sampled_from(["allow", "deny"]), http=http_matches), min_size=1, max_size=3
)
outcomes = st.one_of(st.sampled_from(["allow", "deny"]), permissions.map(tuple))


def build(named, anyone, default):
    rows = [*sorted(named.items()), *([("*", anyone)] if anyone else [])]
    rules = [
        Rule(
            source, what if isinstance(what, str) else None, () if isinstance(what, str) else what, f"payments/{source}"
        )
        for source, what in rows
    ]
    return Guard("payments", tuple(rules), default)


guards = st.builds(
    build,
    st.dictionaries(st.sampled_from(NAMES), outcomes),
    st.one_of(st.none(), outcomes),
    st.sampled_from(["allow", "deny"]),
)
requests = st.builds(
    Request,
    st.sampled_from(["GET", "POST", "PUT"]),
    st.sampled_from([*PATHS, "//admin", "/x/../admin", "/reports?x=/admin", "/%61dmin"]),
    st.lists(st.tuples(st.sampled_from(["x-team", "x-role", "other"]), st.sampled_from(VALUES)), max_size=3).map(tuple),
)


@settings(max_examples=400)
@given(guards, st.sampled_from([*NAMES, "stranger"]), requests)
def test_the_filter_and_explain_agree_on_every_call(guard, source, request):
    path = judged_path(request.path)
    assert not isinstance(path, Malformed)
    said = explain(guard, source, request)
    for join in (False, True):
        walker.JOIN = join
        done = allowed(guard_rules(guard, DOMAINS), [f"spiffe://{DOMAIN}/svc/{source}"], request, path)
        # Joined, a value that comes twice looks like a list: refused where it could be allowed, never the other way round.
        assert said.allowed == done or (join and not done), (join, said)


@settings(max_examples=100)
@given(guards, requests)
def test_without_a_certificate_only_what_any_stranger_may_do_is_open(guard, request):
    path = judged_path(request.path)
    stranger = explain(guard, "", request).allowed
    assert allowed(plain_rules(guard), [], request, path) == stranger
    assert not allowed(guard_rules(guard, DOMAINS), [], request, path)


@given(guards, requests)
def test_another_trust_domain_is_nobody(guard, request):
    path = judged_path(request.path)
    for uri in ("spiffe://mesh.internal.evil/svc/web", "spiffe://MESH.internal/svc/web", "spiffe://other/svc/web"):
        assert not allowed(guard_rules(guard, DOMAINS), [uri], request, path)


@settings(max_examples=100)
@given(guards, guards, st.sampled_from([*NAMES, "stranger"]), requests)
def test_the_filter_judges_by_the_shadow_beside_what_is_in_force(guard, shadow, source, request):
    made = caller_config("http", replace(guard, shadow=shadow), source)
    path = judged_path(request.path)
    walker.JOIN = False
    for rules, judge in ((made.rules, guard), (made.shadow_rules, shadow)):
        assert allowed(rules, [], request, path) == explain(judge, source, request).allowed
    assert not caller_config("http", guard, source).HasField("shadow_rules")


@given(guards)
def test_the_bytes_do_not_depend_on_chance(guard):
    first, second = guard_rules(guard, DOMAINS), guard_rules(guard, DOMAINS)
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_a_name_is_compared_whole_and_never_as_a_pattern():
    guard = build({"a-b": "allow"}, None, "deny")
    for name in ("axb", "a-b2", "a-", "a-b/../x"):
        assert not allowed(guard_rules(guard, DOMAINS), [f"spiffe://{DOMAIN}/svc/{name}"], Request(), "/")
