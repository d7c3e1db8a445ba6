"""The gateway document refuses what could not be meant."""

import pytest
from pydantic import ValidationError

from meshagent.model.gateway import Gateway, KeyPair

TLS = {"cert_file": "/etc/edge.pem", "key_file": "/etc/edge.key"}
WEB = {"hosts": ["shop.example.org"], "service": "web"}


def gateway(*routes, listeners=({"port": 8443, "tls": TLS},)):
    return Gateway.model_validate({"name": "edge", "listeners": list(listeners), "routes": list(routes)})


def test_its_defaults_are_everybody_and_the_whole_host():
    made = gateway(WEB)
    assert (made.listeners[0].address, made.routes[0].path_prefix, made.services) == ("0.0.0.0", "/", {"web"})
    assert [each.cert_file for each in made.certificates] == ["/etc/edge.pem"]


@pytest.mark.parametrize("host", ["Shop.example.org", "shop.example.org:443", "*shop.org", "a.*.org", "", "-a", "a b"])
def test_a_host_is_a_plain_lower_case_name(host):
    with pytest.raises(ValidationError, match="must be a lower-case name"):
        gateway({**WEB, "hosts": [host]})


@pytest.mark.parametrize("host", ["*", "*.example.org", "localhost", "10.0.0.1", "xn--bcher-kva.example"])
def test_these_are_hosts(host):
    assert gateway({**WEB, "hosts": [host]}).routes[0].hosts == (host,)


@pytest.mark.parametrize("file", ["edge.pem", "/etc/../root/key", "/a\x00b", "//a"])
def test_a_file_is_a_plain_absolute_path(file):
    with pytest.raises(ValidationError):
        gateway(listeners=[{"port": 1, "tls": {**TLS, "cert_file": file}}])


@pytest.mark.parametrize(
    ("first", "second", "reached"),
    [
        ("/", "/api", False),
        ("/api", "/api/", False),
        ("/api", "/api/v1", False),
        ("/api", "/apis", True),
        ("/api", "/", True),
    ],
)
def test_a_route_that_is_never_reached_is_refused(first, second, reached):
    routes = {**WEB, "path_prefix": first}, {**WEB, "path_prefix": second, "service": "api"}
    if reached:
        assert gateway(*routes).services == {"web", "api"}
        return
    with pytest.raises(ValidationError, match="number 1 is never reached for shop.example.org"):
        gateway(*routes)
    assert gateway(routes[0], {**routes[1], "hosts": ["pay.example.org"]}).routes


def test_http_3_is_only_beside_tls():
    assert gateway(listeners=[{"port": 8443, "tls": TLS, "http3": True}]).listeners[0].http3
    with pytest.raises(ValidationError, match="http3: is always encrypted, so it needs tls"):
        gateway(listeners=[{"port": 8000, "http3": True}])


def test_ports_certificates_and_keys_are_told_once():
    with pytest.raises(ValidationError, match="two have the same port"):
        gateway(listeners=[{"port": 1}, {"port": 1, "address": "::"}])
    with pytest.raises(ValidationError, match="names a cert_file twice"):
        gateway(listeners=[{"port": 1, "tls": {**TLS, "others": [TLS]}}])
    with pytest.raises(ValidationError, match="is given two key files"):
        gateway(listeners=[{"port": 1, "tls": TLS}, {"port": 2, "tls": {**TLS, "key_file": "/etc/other.key"}}])


def test_a_key_is_never_shown():
    assert "secret" not in repr(KeyPair(b"chain", b"secret"))
