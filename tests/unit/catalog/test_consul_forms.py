"""Instances as Consul's catalog holds them: nothing is lost on the way, and nothing is believed on the way back."""

from __future__ import annotations

import copy
import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.catalog.base import Offer
from meshagent.catalog.consul_forms import check_id, listing_of, meta_of, registration_of, service_id
from meshagent.errors import StoreDenied
from meshagent.model.service import Instance, ServiceDefinition

TTL = timedelta(seconds=10)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
TEXTS = st.text(max_size=60)
INSTANCES = st.builds(
    Instance,
    service=NAMES,
    host=NAMES,
    id=NAMES,
    address=st.sampled_from(["10.0.0.1", "127.0.0.1", "fd00::1"]),
    port=st.integers(1, 65535),
    protocol=st.sampled_from(["http", "http2", "grpc", "tcp"]),
    health=st.sampled_from(["passing", "failing"]),
    meta=st.dictionaries(
        TEXTS | st.sampled_from(["version", "meshagent", "meshagent-host", "consul-x"]), TEXTS, max_size=20
    ),
    region=TEXTS,
    zone=TEXTS,
)
PAYMENTS = Instance(
    service="payments", host="vm-1", id="payments", address="10.0.0.1", port=21000, meta={"version": "2"}
)
DEFINITION = ServiceDefinition.model_validate(
    {"name": "payments", "port": 8080, "protocol": "http", "upstreams": [{"service": "ledger", "local_port": 9000}]}
)


def entry_of(body, node="n1"):
    """What Consul's health endpoint says of a registration: by way of JSON, as over the wire."""
    told = json.loads(json.dumps(body))
    checks = [{"CheckID": "serfHealth", "Status": "passing"}]
    checks += [{"CheckID": each["CheckID"], "Status": each["Status"]} for each in told["Checks"]]
    service = {
        "ID": told["ID"],
        "Service": told["Name"],
        "Kind": "",
        **{k: told[k] for k in ("Address", "Port", "Meta")},
    }
    return {"Node": {"Node": node, "Address": "10.9.9.9"}, "Service": service, "Checks": checks}


def registered(instance=PAYMENTS):
    return entry_of(registration_of(Offer(instance, DEFINITION), TTL))


def utf8(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@given(INSTANCES)
def test_an_instance_comes_back_as_it_went(instance):
    if not utf8(instance.region) or not utf8(instance.zone):
        return
    listing = listing_of(instance.service, [registered(instance)])
    assert listing.instances == (instance,) and not listing.problems


@given(st.dictionaries(TEXTS, st.text(max_size=3000), max_size=64))
def test_what_consul_cannot_hold_is_refused_and_nothing_is_cut(meta):
    try:
        made = meta_of(PAYMENTS.model_copy(update={"meta": meta}))
    except StoreDenied:
        assert sum(map(len, json.dumps(meta))) > 10_000 or len(meta) > 20
        return
    assert len(made) <= 64
    assert all(len(name) <= 128 and len(text.encode()) <= 512 for name, text in made.items())


def test_a_service_and_its_proxy_are_registered_as_consuls_own_sidecars_are():
    body = registration_of(Offer(PAYMENTS, DEFINITION), TTL)
    assert (body["ID"], body["Name"], body["Address"], body["Port"]) == ("payments.vm-1", "payments", "10.0.0.1", 8080)
    assert body["Meta"]["version"] == "2"
    (check,) = body["Checks"]
    assert (check["TTL"], check["Status"], check["DeregisterCriticalServiceAfter"]) == ("10s", "passing", "1m")
    proxy = body["Connect"]["SidecarService"]
    assert (proxy["Address"], proxy["Port"]) == ("10.0.0.1", 21000)
    assert proxy["Proxy"]["Upstreams"] == [{"DestinationName": "ledger", "LocalBindPort": 9000}]
    assert proxy["Checks"][0]["AliasService"] == body["ID"]


def test_instances_of_one_host_and_of_one_service_are_told_apart():
    ids = {
        service_id(PAYMENTS.model_copy(update={"service": service, "host": host, "id": name}))
        for service in ("a", "a-b")
        for host in ("h", "a-h")
        for name in ("a", "1", "a-1")
    }
    assert len(ids) == 12
    assert check_id(PAYMENTS) == "meshagent:payments.vm-1"


@pytest.mark.parametrize("place", [0, 1])
def test_one_critical_check_of_the_service_or_its_node_takes_it_out(place):
    entry = registered()
    entry["Checks"][place]["Status"] = "critical"
    assert listing_of("payments", [entry]).instances[0].health == "failing"
    entry["Checks"][place]["Status"] = "warning"
    assert listing_of("payments", [entry]).instances[0].health == "passing"


def test_attack_35_what_is_no_address_or_port_of_a_host_is_refused():
    hostile = {
        "meshagent-address": ["", "payments.example", "/run/x.sock", "0.0.0.0", "224.0.0.1", "10.0.0.1:80", "::"],
        "meshagent-port": ["0", "70000", "-1", "8e3", "", "21000 ", "\u0663\u0663"],
        "meshagent-host": ["", "../x", "A", "vm-2", "a/b"],
        "meshagent-id": ["", "x", "*"],
        "meshagent-protocol": ["", "udp"],
        "meshagent": ["2", ""],
        "meshagent-more-0": ["[]", "{", '{"a":1}'],
    }
    for name, values in hostile.items():
        for value in values:
            entry = registered()
            entry["Service"]["Meta"][name] = value
            listing = listing_of("payments", [entry, registered(PAYMENTS.model_copy(update={"host": "vm-3"}))])
            assert [each.host for each in listing.instances] == ["vm-3"], (name, value)
            assert len(listing.problems) == 1, (name, value)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_no_answer_ends_the_agent(junk):
    entry = registered()
    for path in (
        ("Service", "Meta"),
        ("Service", "ID"),
        ("Service", "Port"),
        ("Node", "Node"),
        ("Checks",),
        ("Service",),
    ):
        broken = copy.deepcopy(entry)
        inner = broken
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = junk
        listing_of("payments", [broken, junk])


def test_who_was_registered_without_meshagent_is_plain_text_at_its_own_port():
    entry = registered()
    entry["Service"] |= {"Meta": {"team": "red"}, "ID": "Payments_1", "Port": 8080}
    (found,) = listing_of("payments", [entry]).instances
    assert (found.plain, found.address, found.port, found.id, found.host) == (
        True,
        "10.0.0.1",
        8080,
        "payments-1",
        "n1",
    )
    entry["Service"]["Address"] = ""
    assert listing_of("payments", [entry]).instances[0].address == "10.9.9.9"
    for wrong in ({"Address": "payments.example"}, {"Port": 0}, {"Kind": "connect-proxy"}):
        other = copy.deepcopy(entry)
        other["Service"] |= wrong
        listing = listing_of("payments", [other])
        assert listing.instances == () and len(listing.problems) == 1, wrong


def test_an_instance_that_two_consul_agents_show_is_one_and_passes_when_either_says_so():
    old, new = registered(), registered()
    old["Checks"][1]["Status"] = "critical"
    for order in ([old, new], [new, old]):
        (found,) = listing_of("payments", order).instances
        assert found.health == "passing"


def test_two_hosts_of_one_name_are_both_called():
    other = PAYMENTS.model_copy(update={"address": "10.0.0.2"})
    assert len(listing_of("payments", [registered(), registered(other)]).instances) == 2


def connected(name="legacy", **more):
    """A proxy of Consul's own, as `health/connect` tells of it."""
    told = {"ID": f"{name}-proxy", "Service": f"{name}-proxy", "Kind": "connect-proxy", "Port": 21500, "Meta": None}
    proxied = {"Proxy": {"DestinationServiceName": name, "DestinationServiceID": name}}
    return {"Node": {"Node": "n1", "Address": "10.0.0.7"}, "Service": told | proxied | more, "Checks": []}


def app(name="legacy", **more):
    told = {"ID": name, "Service": name, "Port": 8080, "Meta": None}
    return {"Node": {"Node": "n1", "Address": "10.0.0.7"}, "Service": told | more, "Checks": []}


def test_what_stands_behind_consuls_proxy_is_called_there_and_not_in_plain_text():
    listing = listing_of("legacy", [app()], [connected()])
    (found,) = listing.instances
    assert (found.address, found.port, found.native, found.plain) == ("10.0.0.7", 21500, True, True)
    other = listing_of("legacy", [app(ID="second", Port=8081)], [connected()])
    assert [(each.port, each.native) for each in other.instances] == [(21500, True), (8081, False)]


def test_our_own_proxies_are_told_of_by_their_services_alone():
    assert listing_of("legacy", [], [connected(Meta={"meshagent": "1"})]).instances == ()


def test_a_service_that_takes_mtls_itself_is_called_there():
    (found,) = listing_of("legacy", [app()], [app()]).instances
    assert (found.port, found.native) == (8080, True)


@pytest.mark.parametrize(
    "more",
    [
        {"Proxy": {"DestinationServiceName": "payments"}},
        {"Proxy": None},
        {"Proxy": {}},
        {"Kind": "mesh-gateway"},
        {"Port": 0},
        {"Address": "consul.example"},
    ],
)
def test_a_proxy_of_something_else_is_left_out_and_named(more):
    listing = listing_of("legacy", [], [connected(**more)])
    assert listing.instances == () and "legacy-proxy" in next(iter(listing.problems))


def test_a_proxy_that_is_critical_is_not_called():
    told = connected() | {"Checks": [{"Status": "critical"}]}
    assert listing_of("legacy", [], [told]).instances[0].health == "failing"
