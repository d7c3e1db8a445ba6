"""The UDP listener of a gateway with HTTP/3."""

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.quic.v3.quic_transport_pb2 import QuicDownstreamTransport

from meshagent.model.certificate import KeyPair
from meshagent.model.gateway import Gateway
from meshagent.model.view import ProxyView
from meshagent.translate.resources import translate
from meshagent.translate.settings import Settings
from meshagent.xds.types import LDS

TLS = {"cert_file": "/etc/edge.pem", "key_file": "/etc/edge.key"}
EDGE = Gateway.model_validate({"name": "edge", "listeners": [{"port": 8443, "tls": TLS, "http3": True}]})


def listeners(workers):
    view = ProxyView("vm-1", "10.0.0.1", "mesh.internal", (), (), gateways=(EDGE,))
    made = translate(
        view, {}, Settings("/log", workers=workers), key_pairs={TLS["cert_file"]: KeyPair(b"chain", b"key")}
    )
    found = {name: Listener.FromString(value) for (kind, name), value in made.resources.items() if kind == LDS}
    assert found.keys() == {"gateway/edge:8443", "gateway/edge:8443/udp"}
    return found


def test_it_shares_the_routes_of_the_one_for_tcp_and_takes_nothing_before_the_handshake():
    tcp, udp = listeners(1).values()
    for made in (tcp, udp):
        assert made.address.socket_address.port_value == 8443
    managers = [
        HttpConnectionManager.FromString(each.filter_chains[0].filters[1].typed_config.value) for each in (tcp, udp)
    ]
    assert [each.rds.route_config_name for each in managers] == ["gateway/edge", "gateway/edge"]
    assert [each.codec_type for each in managers] == [HttpConnectionManager.AUTO, HttpConnectionManager.HTTP3]
    socket = QuicDownstreamTransport.FromString(udp.filter_chains[0].transport_socket.typed_config.value)
    assert socket.HasField("enable_early_data") and not socket.enable_early_data.value


@pytest.mark.parametrize("workers", [1, 4])
def test_its_port_is_shared_only_where_several_workers_have_to(workers):
    assert {name: made.enable_reuse_port.value for name, made in listeners(workers).items()} == {
        "gateway/edge:8443": False,
        "gateway/edge:8443/udp": workers > 1,
    }


def test_without_a_certificate_neither_is_there():
    view = ProxyView("vm-1", "10.0.0.1", "mesh.internal", (), (), gateways=(EDGE,))
    assert not [name for kind, name in translate(view, {}, Settings("/log")).resources if kind == LDS]
