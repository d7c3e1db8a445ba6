"""A host opens the ports of the gateways that it is told to serve, but never its own."""

from dataclasses import replace

from meshagent.model.gateway import Gateway, GatewayListener, GatewayRoute
from meshagent.model.service import Instance, Service
from meshagent.model.world import Local, Stated
from meshagent.policy.gateways import opened, shut
from meshagent.policy.resolve import resolve, resolve_next
from tests.unit.policy.worlds import HOST, NOTHING, NOW, definition


def gateway(name="edge", *ports, service="ledger"):
    listeners = tuple(GatewayListener(port=port) for port in ports or (8000,))
    return Gateway(name=name, listeners=listeners, routes=(GatewayRoute(hosts=("*",), service=service),))


def world(*gateways, **more):
    return replace(NOTHING, gateways={each.name: Stated(each) for each in gateways}, **more)


def ports(gateways):
    return {each.name: [listener.port for listener in each.listeners] for each in gateways}


def test_a_gateway_that_the_host_is_not_told_to_serve_is_nothing_to_it():
    view = resolve(world(gateway("other")), HOST, (), None, NOW)
    assert (view.gateways, view.outbounds) == ((), ())
    assert resolve(world(gateway()), replace(HOST, gateways=()), (), None, NOW).gateways == ()


def test_it_calls_under_its_own_name_and_by_request_whatever_the_service_asks_for():
    ledger = Instance(service="ledger", host="vm-2", id="ledger", address="10.0.0.2", port=21000, protocol="http")
    bytes_ = {"ledger": Stated(Service(name="ledger", data_path="l4"))}
    found = world(gateway(), instances={"ledger": (ledger,)}, services=bytes_)
    (call,) = resolve(found, HOST, (), None, NOW).outbounds
    assert (call.source, call.upstream, call.listened, call.by_request) == ("edge", "ledger", False, True)


def test_the_hosts_own_ports_stay_its_own_and_that_is_told():
    local = Local(definition("web", "payments"), 21000, plain_port=81, capture_port=15001)
    asked = (gateway("edge", 8000, 21000, 80, 81, 15001, 9001), gateway("other", 8000, 8001))
    assert ports(opened(asked, [local])) == {"edge": [8000], "other": [8001]}
    told = {(name, port): owner for name, port, owner in shut(asked, [local])}
    assert told["edge", 21000] == "the mesh's mTLS port" and told["other", 8000] == "the gateway edge's"
    assert told["edge", 9001].endswith("for its upstream payments")
    assert opened(asked[:1], []) == asked[:1]


def test_another_gateway_document_is_taken_up_and_the_same_one_costs_nothing():
    first = resolve_next(world(gateway()), HOST, (), None, NOW)
    again = resolve_next(world(gateway()), HOST, (), first, NOW)
    assert again.view.outbounds[0] is first.view.outbounds[0]
    moved = resolve_next(world(gateway(service="orders")), HOST, (), again, NOW)
    assert [each.upstream for each in moved.view.outbounds] == ["orders"]
    assert resolve_next(NOTHING, HOST, (), moved, NOW).view.outbounds == ()
