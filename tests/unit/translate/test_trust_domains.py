"""Envoy's configuration where two trust domains are believed."""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import SPIFFECertValidatorConfig

from meshagent.model.identity import TrustBundle
from meshagent.model.view import Chain, Endpoint, Guard, Inbound, Outbound, ProxyView, Rule
from meshagent.policy.request import Request
from meshagent.translate.clusters import load_assignment, plain_assignment, plain_cluster, upstream_cluster
from meshagent.translate.natives import natives
from meshagent.translate.rbac import guard_rules
from meshagent.translate.secrets import roots_secret
from meshagent.translate.tls import accept_from, connect_to
from tests.unit.translate.walker import allowed

OWN, OTHER, FORM = "mesh.internal", "0b2f.consul", "ns/default/dc/dc1/svc"
BUNDLE = TrustBundle(((OTHER, ("theirs\n",)), (OWN, ("ours\n",))), forms=((OTHER, FORM),))
DOMAINS = BUNDLE.domains(OWN)
OURS, THEIRS = DOMAINS.ids("web")


def named(action, source="web"):
    return Rule(source, action, (), f"payments/{source}")


def names_in(context):
    matchers = context.common_tls_context.combined_validation_context.default_validation_context
    return [each.matcher.exact or f"{each.matcher.prefix}*" for each in matchers.match_typed_subject_alt_names]


def test_each_domain_has_its_own_roots_and_one_alone_has_plain_ones():
    view = ProxyView("vm", "127.0.0.1", OWN, (), (), bundle=BUNDLE)
    custom = roots_secret(view).validation_context.custom_validator_config
    validator = SPIFFECertValidatorConfig()
    assert custom.typed_config.Unpack(validator)
    assert {each.name: each.trust_bundle.inline_bytes for each in validator.trust_domains} == {
        OWN: b"ours\n",
        OTHER: b"theirs\n",
    }
    alone = ProxyView("vm", "127.0.0.1", OWN, (), (), bundle=TrustBundle(BUNDLE.roots[:1], forms=BUNDLE.forms))
    assert roots_secret(alone).validation_context.trusted_ca.inline_bytes == b"theirs\n"


def test_a_chain_and_an_upstream_take_either_id_of_a_service_and_no_other():
    socket, context = TransportSocket(), DownstreamTlsContext()
    accept_from(socket, "payments", DOMAINS, "web", ())
    assert socket.typed_config.Unpack(context) and names_in(context) == [OURS, THEIRS]
    accept_from(socket, "payments", DOMAINS, None, ())
    assert socket.typed_config.Unpack(context) and names_in(context) == [
        f"spiffe://{OWN}/*",
        f"spiffe://{OTHER}/{FORM}/*",
    ]
    upstream = UpstreamTlsContext()
    connect_to(socket, "orders", "web", "orders.web.mesh.internal", DOMAINS, ())
    assert socket.typed_config.Unpack(upstream) and names_in(upstream) == [OURS, THEIRS]


def test_a_rule_holds_for_a_service_by_whichever_of_its_ids():
    for guard, expected in (
        (Guard("payments", (named("allow"),), "deny"), (True, False)),
        (Guard("payments", (named("deny"), named("allow", "*")), "deny"), (False, True)),
        (Guard("payments", (named("deny"),), "allow"), (False, True)),
    ):
        rules = guard_rules(guard, DOMAINS)
        for service, wanted in zip(("web", "orders"), expected, strict=True):
            for name in DOMAINS.ids(service):
                assert allowed(rules, [name], Request(), "/") == wanted, (guard, name)
        for stranger in (
            f"spiffe://{OTHER}/svc/web",
            f"spiffe://{OTHER}/ns/default/dc/dc2/svc/web",
            "spiffe://x/svc/web",
        ):
            assert not allowed(rules, [stranger], Request(), "/")


def inbound(*rules, default="deny", protocol="http", service="payments", chains=()):
    guard = Guard(service, rules, default)
    return Inbound(service, service, protocol, "127.0.0.1", 8080, 21000, guard, chains, 0)


def test_who_comes_without_a_server_name_must_be_allowed_by_name():
    found = natives((inbound(named("allow"), named("deny", "orders")),), DOMAINS)
    assert found is not None and found.sources == ("web",)
    assert natives((inbound(named("allow", "*")),), DOMAINS).sources is None
    assert natives((inbound(default="allow"),), DOMAINS).sources is None


def test_nobody_comes_without_a_server_name_where_that_could_let_in_more_than_the_rules():
    assert natives((inbound(),), DOMAINS) is None
    assert natives((inbound(named("deny")),), DOMAINS) is None
    assert natives((inbound(named("allow")), inbound(named("allow"), service="ledger")), DOMAINS) is None
    assert natives((inbound(named("allow")),), TrustBundle().domains(OWN)) is None
    speaks_first = inbound(named("allow"), named("deny", "orders"), default="allow", protocol="tcp")
    assert speaks_first.shut_out and natives((speaks_first,), DOMAINS) is None


def test_another_rule_is_another_chain_and_another_author_is_not():
    one = natives((inbound(named("allow")),), DOMAINS)
    assert one == natives((inbound(named("allow"), chains=(Chain("web", 3),)),), DOMAINS)
    assert one != natives((inbound(named("allow"), named("deny", "orders")),), DOMAINS)


NATIVE, PLAIN = Endpoint("10.0.0.1", 21500, proxy="consul"), Endpoint("10.0.0.2", 80)


def sockets(cluster):
    found = {each.name: each.transport_socket.name for each in cluster.transport_socket_matches}
    return cluster.transport_socket.name, found


def test_what_stands_behind_consuls_proxy_is_never_spoken_to_in_plain_text():
    tls, raw = "envoy.transport_sockets.tls", "envoy.transport_sockets.raw_buffer"
    http = Outbound("orders", "web", "http", (), local_port=1, plain_endpoints=(NATIVE, PLAIN))
    assert sockets(plain_cluster(http, DOMAINS)) == (tls, {"native": tls, "plain": raw})
    tcp = Outbound("orders", "web", "tcp", (), local_port=1, plain_endpoints=(NATIVE, PLAIN))
    assert sockets(upstream_cluster(tcp, OWN, DOMAINS)) == (tls, {"native": tls, "plain": raw})
    for assignment in (plain_assignment(http), load_assignment(tcp)):
        told = [
            each.metadata.filter_metadata["envoy.transport_socket_match"]
            for each in assignment.endpoints[0].lb_endpoints
        ]
        assert [dict(each) for each in told] == [{"native": True}, {"plain": True}]


def test_consuls_proxy_is_known_by_consuls_id_of_the_service_alone():
    cluster = plain_cluster(Outbound("orders", "web", "http", (), local_port=1, plain_endpoints=(NATIVE,)), DOMAINS)
    context = UpstreamTlsContext()
    assert cluster.transport_socket.typed_config.Unpack(context)
    assert names_in(context) == [THEIRS]
    assert context.sni == f"web.default.dc1.internal.{OTHER}"
    assert not context.common_tls_context.alpn_protocols
