"""An import of Istio's authorization never allows what Istio would not, and says the same wherever it can."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.importing.verdicts import Call, imported, istio, judge, ours

PRINCIPALS = [
    "cluster.local/ns/foo/sa/web",
    "cluster.local/ns/foo/sa/orders",
    "*",
    "cluster.local/ns/foo/*",
    "*/sa/web",
]
PATHS = ["/", "/a", "/a*", "/a/*", "*", "*/b", "/a/b", "/c"]
CALLED = ["/", "/a", "/ab", "/a/", "/a/b", "/c", "/c/b", "/a/c"]
METHODS = ["GET", "POST", "*", "GE*", "get"]


def some(values):
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


def fields(**options):
    """One or two of the fields: with more, hardly any call meets all of them."""
    names = st.lists(st.sampled_from(sorted(options)), min_size=1, max_size=2, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: options[name] for name in chosen}))


sources = fields(
    principals=some(PRINCIPALS), notPrincipals=some(PRINCIPALS), namespaces=some(["foo", "bar"]),
    notNamespaces=some(["foo", "bar"]), notIpBlocks=some(["10.0.0.1", "10.0.0.2"]),
)  # fmt: skip
wide = fields(
    paths=some(PATHS), notPaths=some(PATHS), methods=some(METHODS), notMethods=some(METHODS),
    hosts=some(["shop", "other", "*"]), notPorts=some(["80", "81"]), ports=some(["80", "81"]),
)  # fmt: skip
whens = st.one_of(
    fields(values=some(["fin", "f*", "*n", "*"]), notValues=some(["fin", "o*"])).map(
        lambda found: {"key": "request.headers[X-Team]", **found}
    ),
    fields(values=some(PRINCIPALS), notValues=some(PRINCIPALS)).map(lambda found: {"key": "source.principal", **found}),
    fields(values=some(["foo", "bar"])).map(lambda found: {"key": "source.namespace", **found}),
)


def listed(values, name):
    return st.lists(values.map(lambda each: {name: each}), min_size=1, max_size=2)


rules = st.fixed_dictionaries(
    {},
    optional={
        "from": listed(sources, "source"),
        "to": listed(wide, "operation"),
        "when": st.lists(whens, min_size=1, max_size=2),
    },
)


def policy(rules, action="ALLOW", name="one", **meta):
    spec = {"selector": {"matchLabels": {"app": "shop"}}, "action": action, "rules": rules}
    head = {"name": name, "namespace": "foo", **meta}
    return {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": head, "spec": spec}


policies = st.lists(
    st.builds(policy, st.lists(rules, max_size=2), st.sampled_from(["ALLOW", "ALLOW", "DENY", "CUSTOM"])), min_size=1, max_size=3
)  # fmt: skip
CALLS = [
    Call(caller, method, path, headers)
    for caller in ("web", "orders", "stranger")
    for method in ("GET", "POST")
    for path in CALLED
    for headers in ((), (("x-team", "fin"),), (("x-team", "ops"),))
]


@settings(max_examples=80, deadline=None)
@given(policies)
def test_no_call_is_allowed_that_istio_would_refuse(found):
    allowed = judge(imported(found), "shop")
    for call in CALLS:
        assert not allowed(call) or istio(found, call), call


simple = st.fixed_dictionaries(
    {},
    optional={
        "from": listed(fields(principals=some(PRINCIPALS[:3])), "source"),
        "to": listed(fields(paths=some(PATHS), methods=some(["GET", "POST", "*"])), "operation"),
        "when": st.lists(
            fields(values=some(["fin", "f*"])).map(lambda each: {"key": "request.headers[X-Team]", **each}), max_size=1
        ),
    },
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.builds(policy, st.lists(simple, max_size=2), st.sampled_from(["ALLOW", "DENY"])), min_size=1, max_size=3
    )
)
def test_what_an_intention_can_say_decides_as_istio_does(found):
    allowed = judge(imported(found), "shop")
    for call in CALLS:
        assert allowed(call) == istio(found, call), call


def test_one_exception_is_kept_exactly():
    found = [
        policy([{"to": [{"operation": {"methods": ["GET"], "paths": ["/a*"], "notPaths": ["/a/b"]}}]}]),
        policy([{"to": [{"operation": {"paths": ["/c"]}}]}]),
    ]
    documents = imported(found)
    assert all(ours(documents, "shop", call) == istio(found, call) for call in CALLS)


def test_deny_all_but_is_kept_exactly():
    found = [
        policy([{"to": [{"operation": {"notPaths": ["/a*"]}}]}], "DENY"),
        policy([{"to": [{"operation": {"methods": ["GET"]}}]}]),
    ]
    documents = imported(found)
    assert ours(documents, "shop", Call("web", "GET", "/ab"))
    assert all(ours(documents, "shop", call) == istio(found, call) for call in CALLS)


def test_two_namespaces_accounts_of_one_name_are_allowed_nothing_until_they_are_told_apart():
    principals = ["cluster.local/ns/foo/sa/default", "cluster.local/ns/bar/sa/default"]
    found = [policy([{"from": [{"source": {"principals": [each]}}]}]) for each in principals]
    assert not ours(imported(found), "shop", Call("default"))
    told = imported(found, given={principals[0]: "web", principals[1]: "orders"})
    assert ours(told, "shop", Call("web")) and not ours(told, "shop", Call("default"))


def test_policies_of_parts_of_a_service_do_not_add_up():
    one, two = policy([{"to": [{"operation": {"paths": ["/a"]}}]}]), policy([{}], name="two")
    one["spec"]["selector"]["matchLabels"]["version"] = "v1"
    two["spec"]["selector"]["matchLabels"]["version"] = "v2"
    documents = imported([one, two])
    assert not any(ours(documents, "shop", call) for call in CALLS)


def test_a_refused_policy_beside_a_deny_opens_nothing():
    broken = policy([{"from": [{"source": {}}]}])
    documents = imported([broken, policy([{"to": [{"operation": {"paths": ["/a"]}}]}], "DENY")])
    assert not any(ours(documents, "shop", call) for call in CALLS)


def test_who_is_only_asked_for_a_certificate_is_not_allowed_where_plain_text_comes_in():
    peer = {
        "kind": "PeerAuthentication",
        "metadata": {"name": "p", "namespace": "foo"},
        "spec": {"selector": {"matchLabels": {"app": "shop"}}, "mtls": {"mode": "PERMISSIVE"}},
    }
    allow = policy([{"from": [{"source": {"principals": ["*"]}}]}])
    assert ours(imported([allow]), "shop", Call("stranger"))
    assert not ours(imported([peer, allow]), "shop", Call("stranger"))


def test_a_dry_run_and_an_audit_decide_nothing():
    dry = policy([{}], annotations={"istio.io/dry-run": "true"})
    found = imported([dry, policy([{}], "AUDIT")])
    assert found.documents == () and found.taken == 0 and len(found.notes) == 2


def test_the_mesh_wide_deny_reaches_every_service_and_opens_none():
    wide = policy([{"to": [{"operation": {"paths": ["/a"]}}]}], "DENY")
    wide["metadata"]["namespace"] = "istio-system"
    del wide["spec"]["selector"]
    documents = imported([wide, policy([{}])])
    assert ours(documents, "shop", Call("web", "GET", "/c")) and not ours(documents, "shop", Call("web", "GET", "/a"))
    assert not any(ours(documents, "other", call) for call in CALLS)


def test_a_deny_that_cannot_be_said_denies_more():
    lost = [
        {"methods": ["GE*"]},
        {"methods": ["POST", "GE*"]},
        {"paths": ["/a"], "ports": ["80"]},
        {"hosts": ["shop"], "paths": ["/c"]},
    ]
    for operation in lost:
        documents = imported([policy([{"to": [{"operation": operation}]}], "DENY")])
        refused = [call for call in CALLS if not istio([policy([{"to": [{"operation": operation}]}], "DENY")], call)]
        assert refused and not any(ours(documents, "shop", call) for call in refused), operation


def test_of_two_that_deny_all_but_neither_opens_what_the_other_denies():
    found = [policy([{"to": [{"operation": {"notPaths": [each]}}]}], "DENY") for each in ("/a*", "/a/b")]
    documents = imported(found)
    assert not any(ours(documents, "shop", call) for call in CALLS if not istio(found, call))


def test_a_deny_of_some_callers_that_are_no_services_here_is_a_deny_of_all():
    found = [policy([{"from": [{"source": {"namespaces": ["bar"]}}]}], "DENY")]
    assert not any(ours(imported(found), "shop", call) for call in CALLS)
