"""Capture listeners: only what is declared is led anywhere, and nothing by an address that two could mean."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener

from meshagent.model.external import External
from meshagent.model.view import Captured, Egress, Guard, Outbound, ProxyView
from meshagent.model.virtual import virtual_addresses
from meshagent.translate import capture as module
from meshagent.translate.resources import translate
from meshagent.translate.settings import Settings
from meshagent.xds.types import CDS, LDS

WEB = Captured("web", 15001)
API, LEDGER = Outbound("web", "api", "http", ()), Outbound("web", "ledger", "tcp", (), local_port=9001)


def view(*outbounds, captured=(WEB,)):
    return ProxyView("vm-1", "10.0.0.1", "mesh.internal", (), outbounds, captured=captured)


def listener(found, **settings):
    resources = translate(found, {}, Settings("/log", **settings)).resources
    return Listener.FromString(resources[LDS, "capture/web"])


def addresses(chain):
    match = chain.filter_chain_match
    assert [field.name for field, _ in match.ListFields()] == ["prefix_ranges"]
    assert {each.prefix_len.value for each in match.prefix_ranges} == {32, 128} or len(match.prefix_ranges) == 1
    return {ip_address(each.address_prefix) for each in match.prefix_ranges}


def test_each_upstream_has_a_chain_matched_by_its_own_virtual_addresses_and_there_is_no_other():
    made = listener(view(API, LEDGER))
    assert {chain.name: addresses(chain) for chain in made.filter_chains} == {
        "web/api": set(virtual_addresses("api")),
        "web/ledger": set(virtual_addresses("ledger")),
    }
    assert not made.HasField("default_filter_chain")
    assert [each.name for each in made.listener_filters] == ["envoy.filters.listener.original_dst"]


def test_it_listens_on_loopback_alone_and_on_ipv6_where_there_is_any():
    made = listener(view(API))
    second = [each.address.socket_address.address for each in made.additional_addresses]
    assert (made.address.socket_address.address, second) == ("127.0.0.1", ["::1"])
    assert not listener(view(API), ipv6=False).additional_addresses


def test_an_upstream_without_a_port_has_no_listener_of_its_own_and_a_cluster_all_the_same():
    names = translate(view(API, LEDGER), {}, Settings("/log")).resources.keys()
    assert {name for kind, name in names if kind == LDS} == {"capture/web", "out/web/ledger:9001"}
    assert (CDS, "out/web/api") in names


def test_a_name_outside_the_mesh_is_led_to_and_judged_unless_the_app_speaks_tls_itself():
    guard = Guard("pay", (), "deny")
    calls = [
        Egress(
            "web",
            External.model_validate({"name": name, "hosts": ["a.example"], "port": 443, "tls": {"mode": mode}}),
            guard,
        )
        for name, mode in (("pay", "none"), ("relay", "passthrough"), ("shop", "originate"))
    ]
    made = listener(replace(view(API), egresses=tuple(calls)))
    assert [chain.name for chain in made.filter_chains] == ["web/api", "web/pay", "web/shop"]
    assert addresses(made.filter_chains[1]) == set(virtual_addresses("pay"))
    assert made.filter_chains[1].filters[0].name == "rbac-out/web/pay"
    assert listener(replace(view(API), egresses=(replace(calls[0], cut=1),))) != listener(
        replace(view(API), egresses=(calls[0],))
    )


@pytest.mark.parametrize("shared", [1, 2])
def test_an_address_that_two_upstreams_share_leads_to_neither_and_no_chain_matches_everything(shared, monkeypatch):
    def same(service):
        own = virtual_addresses(service)
        return virtual_addresses("other")[:shared] + own[shared:]

    monkeypatch.setattr(module, "virtual_addresses", same)
    chains = listener(view(API, LEDGER)).filter_chains
    if shared == 1:
        assert [addresses(chain) for chain in chains] == [{virtual_addresses(name)[1]} for name in ("api", "ledger")]
    else:
        assert not chains


def test_the_listener_stays_the_same_object_while_its_upstreams_do():
    before = translate(view(API, LEDGER), {}, Settings("/log"))
    same = translate(view(API, LEDGER), {}, Settings("/log"), before)
    more = translate(view(API), {}, Settings("/log"), before)
    assert same.pieces["capture", "web"] is before.pieces["capture", "web"] != more.pieces["capture", "web"]
