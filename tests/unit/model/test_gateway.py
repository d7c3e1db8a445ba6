"""The gateway document refuses what could not be meant."""

import pytest
from pydantic import ValidationError

from meshagent.model.certificate import KeyPair
from meshagent.model.gateway import Gateway

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
    with pytest.raises(ValidationError, match="names a certificate twice"):
        gateway(listeners=[{"port": 1, "tls": {**TLS, "others": [TLS]}}])
    with pytest.raises(ValidationError, match="/etc/edge.pem is asked for in two ways"):
        gateway(listeners=[{"port": 1, "tls": TLS}, {"port": 2, "tls": {**TLS, "key_file": "/etc/other.key"}}])


ACME = {"directory": "https://ca.example/dir", "hosts": ["shop.example.org"], "terms_agreed": True}


def ordering(**more):
    return gateway(listeners=[{"port": 443, "tls": {"acme": {**ACME, **more}}}, {"port": 80}])


def test_a_certificate_is_ordered_or_read_from_files():
    made = ordering()
    assert [each.place for each in made.orders] == ["acme/shop.example.org"] and not list(made.files)
    both = gateway(listeners=[{"port": 443, "tls": {**TLS, "others": [{"acme": ACME}]}}, {"port": 80}])
    assert [each.place for each in both.certificates] == ["/etc/edge.pem", "acme/shop.example.org"]
    for tls in ({}, {"cert_file": "/a"}, {"key_file": "/a"}):
        with pytest.raises(ValidationError, match="needs cert_file and key_file, or acme"):
            gateway(listeners=[{"port": 443, "tls": tls}])
    with pytest.raises(ValidationError, match="beside it there can be no cert_file"):
        gateway(listeners=[{"port": 443, "tls": {**TLS, "acme": ACME}}, {"port": 80}])


def test_an_order_needs_a_port_where_the_ca_can_ask_and_one_way_of_being_asked_for():
    with pytest.raises(ValidationError, match="one without tls is needed"):
        gateway(listeners=[{"port": 443, "tls": {"acme": ACME}}])
    other = {"acme": {**ACME, "hosts": ["shop.example.org", "pay.example.org"]}}
    with pytest.raises(ValidationError, match="acme/shop.example.org is asked for in two ways"):
        gateway(listeners=[{"port": 443, "tls": {"acme": ACME}}, {"port": 444, "tls": other}, {"port": 80}])


@pytest.mark.parametrize(
    "wrong",
    [
        {"directory": "http://ca.example/dir"},
        {"directory": "https://ca.example/a b"},
        {"hosts": []},
        {"hosts": ["*.example.org"]},
        {"hosts": ["localhost"]},
        {"hosts": ["10.0.0.1"]},
        {"hosts": ["Shop.example.org"]},
        {"hosts": ["../shop.example.org"]},
        {"hosts": ["shop.example.org", "shop.example.org"]},
        {"terms_agreed": False},
        {"email": "a@b, c@d"},
        {"ca_file": "root.pem"},
    ],
    ids=str,
)
def test_what_no_ca_would_take_is_refused(wrong):
    with pytest.raises(ValidationError):
        ordering(**wrong)


def test_a_key_is_never_shown():
    assert "secret" not in repr(KeyPair(b"chain", b"secret"))
