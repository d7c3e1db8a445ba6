"""What a name outside the mesh may say, and what is meant where it says nothing."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshagent.model.external import External


def external(**told):
    tls = {"mode": told.pop("mode", "originate"), **told.pop("tls", {})}
    told = {"name": "pay", "hosts": ["pay.example"], "port": 443, **told}
    return External.model_validate({**told, "tls": tls})


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"hosts": []}, "at least 1 item"),
        ({"hosts": ["*.example"]}, "wildcards are not taken"),
        ({"hosts": ["Pay.example"]}, "lower case"),
        ({"hosts": ["pay.example."]}, "DNS name"),
        ({"hosts": ["0.0.0.0"]}, "can be connected to"),
        ({"hosts": ["300.1.2.3"]}, "DNS name"),
        ({"hosts": ["pay.example", "pay.example"]}, "named twice"),
        ({"hosts": ["a.example", "b.example"]}, "sni or subject_alt_names"),
        ({"port": 0}, "greater than or equal to 1"),
        ({"mode": "insecure"}, "originate"),
        ({"tls": {"verify": False}}, "not permitted"),
        ({"tls": {"ca_file": "roots.pem"}}, "pattern"),
        ({"protocol": "grpc"}, "http2"),
        ({"mode": "passthrough", "protocol": "http"}, "needs protocol tcp"),
        ({"mode": "passthrough", "hosts": ["192.0.2.1"]}, "192.0.2.1 is an address"),
        ({"mode": "passthrough", "tls": {"sni": "pay.example"}}, "sni is of mode originate"),
        ({"mode": "none", "tls": {"ca_file": "/roots.pem"}}, "ca_file is of mode originate"),
    ],
)
def test_what_could_not_be_carried_out_is_refused(told, words):
    with pytest.raises(ValidationError, match=words):
        external(**told)


def test_the_host_is_asked_for_and_must_be_proven_unless_something_else_is_told():
    alone = external()
    assert (alone.server_name, alone.proven_names, alone.authority) == ("pay.example", ("pay.example",), "pay.example")
    named = external(hosts=["a.example", "b.example"], port=8443, tls={"sni": "c.example"})
    assert (named.server_name, named.proven_names, named.authority) == ("c.example", ("c.example",), "c.example:8443")
    both = external(tls={"sni": "c.example", "subject_alt_names": ["d.example", "192.0.2.1"]})
    assert (both.server_name, both.proven_names) == ("c.example", ("d.example", "192.0.2.1"))


def test_an_address_is_not_asked_for_by_name_but_must_be_proven():
    numbered = external(hosts=["2001:db8::1"], port=8443)
    assert (numbered.server_name, numbered.proven_names) == ("", ("2001:db8::1",))
    assert numbered.authority == "[2001:db8::1]:8443"


def test_the_port_is_left_out_of_host_where_the_scheme_implies_it():
    assert external(mode="none", port=80).authority == "pay.example"
    assert external(mode="none", port=443).authority == "pay.example:443"
