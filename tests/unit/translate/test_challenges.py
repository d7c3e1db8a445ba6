"""A CA that asks for a certificate is answered before all other routes, on every name, and only while it asks."""

from envoy.config.route.v3.route_pb2 import RouteConfiguration

from meshagent.model.gateway import Gateway
from meshagent.model.view import Outbound, ProxyView
from meshagent.translate.resources import translate
from meshagent.translate.settings import Settings
from meshagent.xds.types import RDS

ACME = {"directory": "https://ca.example/dir", "hosts": ["shop.example.org"], "terms_agreed": True}
LISTENERS = [{"port": 443, "tls": {"acme": ACME}}, {"port": 80}]
ROUTES = [{"hosts": ["*.example.org"], "service": "web"}]
PATH = "/.well-known/acme-challenge/token"


def routes(challenges, listeners=LISTENERS, previous=None):
    edge = Gateway.model_validate({"name": "edge", "listeners": listeners, "routes": ROUTES})
    view = ProxyView("vm-1", "10.0.0.1", "mesh.internal", (), (Outbound("edge", "web", "http", ()),), gateways=(edge,))
    made = translate(view, {}, Settings("/log"), previous, challenges=challenges)
    return RouteConfiguration.FromString(made.resources[RDS, "gateway/edge"]), made


def test_each_name_answers_first_and_names_without_a_route_too():
    found, _ = routes({"token": "token.thumb"})
    assert [list(each.domains) for each in found.virtual_hosts] == [["*.example.org"], ["*"]]
    for virtual in found.virtual_hosts:
        first = virtual.routes[0]
        assert (first.match.path, first.direct_response.status) == (PATH, 200)
        assert first.direct_response.body.inline_string == "token.thumb"
    assert len(found.virtual_hosts[0].routes) > 1 and len(found.virtual_hosts[1].routes) == 1


def test_nothing_of_it_is_there_before_and_after():
    asked, made = routes({"token": "token.thumb"})
    before, _ = routes({})
    after, _ = routes({}, previous=made)
    assert before == after != asked
    assert [list(each.domains) for each in before.virtual_hosts] == [["*.example.org"]]


def test_a_gateway_that_orders_nothing_answers_nobody():
    plain = [{"port": 80}]
    assert routes({"token": "token.thumb"}, plain)[0] == routes({}, plain)[0]
