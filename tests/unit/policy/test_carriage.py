"""Bytes for whom nothing is asked of requests, requests for all others, on both sides by themselves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Intention
from meshagent.model.mesh import Mesh
from meshagent.model.route import Route
from meshagent.model.service import Instance, Service, ServiceDefinition
from meshagent.model.view import Inbound
from meshagent.model.world import Local, Stated, World
from meshagent.policy.carriage import sees_requests
from meshagent.policy.precedence import guard
from meshagent.policy.resolve import Host, outbound_of, resolve
from meshagent.translate.inbound import inbound_listener
from meshagent.translate.settings import Settings

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HOST = Host("vm-1", "10.0.0.1")
REPORTS = [{"action": "allow", "http": {"path_prefix": "/reports"}}]


def world(*rules, sources=(), instances=(), **service):
    other = Service.model_validate({"name": "ledger", "protocol": "http", **service.pop("ledger", {})})
    said = {"name": "payments", "protocol": "http", "data_path": "l4"} | service
    intention = Intention.model_validate({"name": "payments", "sources": list(sources)})
    return World(
        1,
        Mesh(),
        intentions={"payments": Stated(intention)},
        services={"payments": Stated(Service.model_validate(said)), "ledger": Stated(other)},
        instances={"payments": tuple(instances)} if instances else {},
        routes={"payments": Stated(Route.model_validate({"name": "payments", "rules": list(rules)}))},
    )


def inbound(*sources, before=None, **service) -> Inbound:
    local = Local(ServiceDefinition(name="payments", port=80, protocol="http"), 21000)
    return resolve(world(sources=sources, **service), HOST, (local,), before, NOW)


def test_bytes_are_taken_from_who_may_make_any_call_by_name_and_from_nobody_else():
    view = inbound(
        {"name": "web", "action": "allow"},
        {"name": "reporting", "permissions": REPORTS},
        {"name": "orders", "action": "deny"},
        {"name": "*", "action": "allow"},
    )
    found = view.inbounds[0]
    assert [chain.source for chain in found.chains] == ["reporting", "web"]
    assert [chain.source for chain in found.byte_chains] == ["web"]
    listener = inbound_listener((found,), view, Settings("/log"))
    offered = {
        chain.name: list(chain.filter_chain_match.application_protocols)
        for chain in listener.filter_chains
        if chain.filter_chain_match.application_protocols
    }
    assert offered == {"payments/web/l4": ["meshagent-l4"]}


def test_beyond_so_many_sources_callers_are_read_as_requests():
    sources = [{"name": f"s{number:03}", "action": "allow"} for number in range(70)]
    found = inbound(*sources).inbounds[0]
    assert len(found.byte_chains) == 64 and found.default_open
    calls = {name: outbound_of(world(sources=sources), name, "payments") for name in ("s000", "s069")}
    rules = guard("payments", "http", Mesh(), world(sources=sources).intentions, NOW)
    assert not sees_requests(world(), calls["s000"], rules) and sees_requests(world(), calls["s069"], rules)


def test_what_becomes_permissions_loses_its_way_for_bytes_and_is_cut():
    before = inbound({"name": "web", "action": "allow"})
    after = inbound({"name": "web", "permissions": REPORTS}, before=before).inbounds[0]
    assert before.inbounds[0].byte_chains and not after.byte_chains
    assert after.chains[0].cut == 1


@pytest.mark.parametrize(
    "service",
    [
        {"data_path": "l7"},
        {"protocol": "tcp"},
        {"rate_limit": {"requests_per_second": 1}},
        {"adaptive_concurrency": {}},
        {"load_balancer": {"policy": "maglev", "hash_on": [{"header": "x-user"}]}},
        {"connection_pool": {"max_requests": 5}},
        {"retry_budget": {"percent": 5}},
        {"timeouts": {"request": "2s"}},
        {"tracing": {"sampling": 5}},
    ],
    ids=lambda service: next(iter(service)),
)
def test_what_is_asked_of_requests_counts_for_more_than_l4_on_both_sides(service):
    assert not inbound({"name": "web", "action": "allow"}, **service).inbounds[0].byte_chains
    assert outbound_of(world(**service), "web", "payments").data_path == ""


SPLIT = {"to": [{"service": "payments", "weight": 9}, {"service": "ledger"}], "idle_timeout": "1h"}
BY_USER = {"load_balancer": {"policy": "maglev", "hash_on": [{"header": "x-user"}]}}


@pytest.mark.parametrize(
    ("rules", "more", "bytes_pass"),
    [
        ([], {}, True),
        ([SPLIT], {}, True),
        ([SPLIT], {"ledger": BY_USER}, False),
        ([SPLIT | {"timeout": "1s"}], {}, False),
        ([SPLIT | {"match": {"path_prefix": "/x"}}], {}, False),
        ([{"retry": {"attempts": 1}}], {}, False),
        ([{"match": {"sources": ["orders"]}, "timeout": "1s"}], {}, True),
        ([{"match": {"sources": ["web"]}, "timeout": "1s"}], {}, False),
    ],
)
def test_a_caller_goes_back_to_requests_where_a_rule_for_it_looks_at_them(rules, more, bytes_pass):
    assert outbound_of(world(*rules, **more), "web", "payments").by_request is not bytes_pass


def test_an_instance_behind_a_proxy_of_consuls_own_is_called_by_request():
    native = {"host": "old", "id": "p", "address": "10.0.0.9", "port": 80, "plain": True, "native": True}
    consul = "11111111-2222-3333-4444-555555555555.consul"
    known = replace(
        world(instances=[Instance.model_validate({"service": "payments", **native})]),
        bundle=TrustBundle(
            (("mesh.internal", ("pem",)), (consul, ("pem",))), forms=((consul, "ns/default/dc/dc1/svc"),)
        ),
    )
    assert outbound_of(known, "web", "payments").plain_endpoints[0].native
    assert outbound_of(known, "web", "payments").data_path == ""
    assert outbound_of(replace(known, bundle=TrustBundle()), "web", "payments").data_path == "l4"
