"""What becomes of routes and settings, and what is said of the rest."""

from __future__ import annotations

import pytest

from meshagent.documents.encode import plain
from meshagent.importing.spans import span
from tests.unit.importing.verdicts import imported


def istio(kind, spec, name="x"):
    return {"kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def virtual(*http, hosts=("reviews",)):
    return istio("VirtualService", {"hosts": list(hosts), "http": list(http)})


def to(host="reviews", **more):
    return {"destination": {"host": host, **more}}


def documents(found):
    return {(each.kind, each.name): plain(each) for each in found.documents}


def told(found, verdict=None):
    return [f"{note.field}: {note.message}" for note in found.notes if verdict in (None, note.verdict)]


def test_a_split_and_a_header_match_are_rules_in_order():
    canary = {"match": [{"headers": {"x-canary": {"exact": "true"}}}], "route": [to(subset="v2")]}
    split = {"route": [{**to(subset="v1"), "weight": 90}, {**to(subset="v2"), "weight": 10}]}
    found = imported([virtual(canary, split)])
    assert documents(found)["route", "reviews"]["rules"] == [
        {"match": {"headers": [{"name": "x-canary", "exact": "true"}]}, "to": [{"subset": "v2"}]},
        {"to": [{"subset": "v1", "weight": 90}, {"subset": "v2", "weight": 10}]},
    ]
    assert found.notes == ()


def test_a_fallback_of_weight_0_is_a_mistake_and_so_are_weights_that_do_not_add_up():
    split = {"route": [{**to(), "weight": 99}, {**to("backup"), "weight": 0}]}
    found = told(imported([virtual(split)]), "mistake")
    assert any("never called" in each for each in found) and any("add up to 99" in each for each in found)


def test_retries_in_a_destination_rule_are_said_to_be_in_the_wrong_place():
    rule = istio("DestinationRule", {"host": "reviews", "trafficPolicy": {"retries": {"attempts": 3}}})
    found = imported([rule])
    assert found.documents == ()
    assert any("VirtualService" in each and "retries" in each for each in told(found))


def test_a_match_that_cannot_be_kept_is_left_out_and_not_widened():
    rule = {"match": [{"uri": {"exact": "/a"}}, {"uri": {"exact": "/b"}, "port": 80}], "route": [to(subset="v2")]}
    found = imported([virtual(rule)])
    assert [each["match"] for each in documents(found)["route", "reviews"]["rules"]] == [{"path_exact": "/a"}]
    assert any("match[1].port" in each for each in told(found, "left out"))


@pytest.mark.parametrize(
    ("uri", "rewrite"),
    [({"prefix": "/a"}, {"path_prefix": "/z"}), ({"exact": "/a"}, {"path": "/z"}), ({"regex": "/a.*"}, None)],
)
def test_a_rewrite_replaces_what_was_matched(uri, rewrite):
    found = imported([virtual({"match": [{"uri": uri}], "rewrite": {"uri": "/z"}, "route": [to()]})])
    assert documents(found)["route", "reviews"]["rules"][0].get("rewrite") == rewrite


def test_a_part_that_a_model_refuses_is_left_out_with_the_models_reason():
    rule = istio("DestinationRule", {"host": "a", "trafficPolicy": {"outlierDetection": {"interval": "8ms"}}})
    found = imported([rule])
    assert found.documents == () and any("100ms" in each for each in told(found, "left out"))


def test_two_services_that_share_a_name_are_told_and_only_the_first_counts():
    one, two = (
        istio(
            "DestinationRule",
            {"host": f"a.{space}.svc.cluster.local", "trafficPolicy": {"loadBalancer": {"simple": simple}}},
        )
        for space, simple in (("foo", "RANDOM"), ("bar", "ROUND_ROBIN"))
    )
    two["metadata"]["namespace"] = "bar"
    found = imported([one, two])
    assert documents(found)["service", "a"]["load_balancer"] == {"policy": "random"}
    assert any("bar/a and foo/a" in each for each in told(found))


def test_a_field_in_two_spellings_refuses_the_object():
    found = imported([istio("DestinationRule", {"host": "a", "traffic_policy": {}, "trafficPolicy": {}})])
    assert found.taken == 0 and told(found, "invalid")


@pytest.mark.parametrize("value", ["x", "1", -1, "1h x", True, "99999999999h", {}])
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(ValueError, match="duration|hours"):
        span(value)


def test_durations_of_all_three_meshes():
    assert [span(each) for each in ("1h30m", "0.5s", 15_000_000_000, "250us", 0)] == [
        "90m",
        "500ms",
        "15s",
        "0.25ms",
        "0ms",
    ]


def test_router_splitter_and_resolver_are_laid_flat():
    found = imported(
        [
            {"Kind": "service-router", "Name": "web",
             "Routes": [{"Match": {"HTTP": {"PathExact": "/a"}}, "Destination": {"Service": "api"}}]},
            {"Kind": "service-splitter", "Name": "api", "Splits": [{"Weight": 99.5}, {"Weight": 0.5, "ServiceSubset": "v2"}]},
            {"Kind": "service-resolver", "Name": "api", "DefaultSubset": "v1", "ConnectTimeout": "15s",
             "Subsets": {"v1": {"Filter": "Service.Meta.version == v1"}, "v2": {"Filter": 'Service.Meta["version"] == "v2"'}}},
        ],
        "consul",
    )  # fmt: skip
    split = [{"subset": "v1", "weight": 9950}, {"subset": "v2", "weight": 50}]
    made = documents(found)
    assert made["route", "api"]["rules"] == [{"to": split}]
    assert made["route", "web"]["rules"] == [
        {"match": {"path_exact": "/a"}, "to": [{"service": "api", **each} for each in split]}
    ]
    assert made["service", "api"]["connection_pool"] == {"connect_timeout": "15s"}


def test_a_loop_of_resolvers_ends():
    entries = [
        {"Kind": "service-resolver", "Name": one, "Redirect": {"Service": two}} for one, two in (("a", "b"), ("b", "a"))
    ]
    imported(entries, "consul")


@pytest.mark.parametrize(
    ("source", "data"),
    [
        ({"Action": "allow", "Peer": "west"}, None),
        ({"Action": "deny", "Namespace": "other"}, {"action": "deny"}),
        ({"Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/a/"}}]},
         {"permissions": [{"action": "allow", "http": {"path_regex": "/a/.*"}}]}),
        ({"Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/a", "Header": [{"Name": "x", "Regex": "y"}]}}]},
         {"action": "deny"}),
        ({"Permissions": [{"Action": "deny", "HTTP": {"PathExact": "/a", "Header": [{"Name": "x", "Regex": "y"}]}}]},
         {"permissions": [{"action": "deny", "http": {"path_exact": "/a"}}]}),
        ({"Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/a"}, "JWT": {"Providers": []}}]}, {"action": "deny"}),
    ],
)  # fmt: skip
def test_consuls_intentions_open_nothing_that_consul_would_not(source, data):
    found = imported([{"Kind": "service-intentions", "Name": "api", "Sources": [{"Name": "web", **source}]}], "consul")
    made = documents(found).get(("intention", "api"), {}).get("sources", [None])[0]
    assert made == (None if data is None else {"name": "web", **data})


def kuma(kind, spec, **more):
    return {"type": kind, "name": "x", "mesh": "default", "spec": spec, **more}


def service(name):
    return {"kind": "MeshService", "name": name}


def permission(target, *entries):
    listed = [{"targetRef": who, "default": {"action": action}} for who, action in entries]
    return kuma("MeshTrafficPermission", {"targetRef": target, "from": listed})


def actions(found, name):
    return {each["name"]: each["action"] for each in documents(found)["intention", name]["sources"]}


def test_in_kuma_the_later_entry_for_all_takes_back_what_was_said_of_some():
    everyone = {"kind": "Mesh"}
    found = imported([permission(service("api"), (service("web"), "Allow"), (everyone, "Deny"))], "kuma")
    assert actions(found, "api") == {"*": "deny"}
    found = imported([permission(service("api"), (everyone, "Deny"), (service("web"), "Allow"))], "kuma")
    assert actions(found, "api") == {"*": "deny", "web": "allow"}


def test_of_two_permissions_of_a_service_one_that_denies_is_enough():
    policies = [
        permission(service("api"), (service("web"), "Allow")),
        permission(service("api"), ({"kind": "Mesh"}, "Deny")),
    ]
    assert actions(imported(policies, "kuma"), "api") == {"web": "deny", "*": "deny"}


def test_a_deny_in_rules_of_the_mesh_is_denied_at_each_service():
    def rules(target, **lists):
        entries = {kind: [{"spiffeID": {"type": "Exact", "value": value}}] for kind, value in lists.items()}
        return kuma("MeshTrafficPermission", {"targetRef": target, "rules": [{"default": entries}]})

    web = "spiffe://td/ns/foo/sa/web"
    found = imported([rules({"kind": "Mesh"}, deny=web), rules(service("api"), allow=web)], "kuma")
    assert actions(found, "api") == {"web": "deny"}


def said(found, name):
    """(source, action, whether in shadow) of each entry."""
    rows = documents(found)["intention", name]["sources"]
    return {(each["name"], each["action"], each.get("shadow", False)) for each in rows}


def test_what_is_allowed_with_a_shadow_deny_is_an_allow_and_a_deny_in_shadow():
    everyone = {"kind": "Mesh"}
    found = imported([permission(service("api"), (everyone, "AllowWithShadowDeny"), (service("web"), "Allow"))], "kuma")
    assert said(found, "api") == {("*", "allow", False), ("*", "deny", True), ("web", "allow", False)}
    assert not told(found, "changed")
    web = {"spiffeID": {"type": "Exact", "value": "spiffe://td/ns/foo/sa/web"}}
    spec = {"targetRef": service("api"), "rules": [{"default": {"allowWithShadowDeny": [web]}}]}
    assert said(imported([kuma("MeshTrafficPermission", spec)], "kuma"), "api") == {
        ("web", "allow", False),
        ("web", "deny", True),
    }


def test_a_deny_of_another_policy_leaves_nothing_of_an_allow_with_a_shadow_deny():
    policies = [
        permission(service("api"), (service("web"), "AllowWithShadowDeny")),
        permission(service("api"), ({"kind": "Mesh"}, "Deny")),
    ]
    assert said(imported(policies, "kuma"), "api") == {("web", "deny", False), ("*", "deny", False)}
    later = permission(service("api"), (service("web"), "AllowWithShadowDeny"), (service("web"), "Allow"))
    assert said(imported([later], "kuma"), "api") == {("web", "allow", False)}


def test_kumas_rules_are_written_in_the_order_in_which_it_tries_them():
    def rule(kind, value, path):
        match = [{"path": {"type": kind, "value": path}}]
        return {"matches": match, "default": {"backendRefs": [{"kind": "MeshService", "name": value}]}}

    rules = [
        rule("RegularExpression", "c", "/.*"),
        rule("PathPrefix", "b", "/"),
        rule("PathPrefix", "b2", "/a"),
        rule("Exact", "a", "/a"),
    ]
    found = imported([kuma("MeshHTTPRoute", {"to": [{"targetRef": service("web"), "rules": rules}]})], "kuma")
    assert [each["to"][0]["service"] for each in documents(found)["route", "web"]["rules"]] == ["a", "b2", "b", "c"]


def test_what_is_in_shadow_mode_or_of_another_mesh_is_not_imported():
    shadow = kuma("MeshTrafficPermission", {}, labels={"kuma.io/effect": "shadow"})
    other = {**permission(service("api"), (service("web"), "Allow")), "mesh": "other"}
    found = imported([shadow, other], "kuma")
    assert found.documents == () and len(told(found, "not imported")) == 2
