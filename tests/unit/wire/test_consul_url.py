"""The URL of a Consul store."""

import pytest

from meshagent.errors import UsageProblem
from meshagent.wire.consul_url import parse_url


def test_a_host_alone_gets_consuls_own_port():
    assert parse_url("consul://consul.example").urls == ("http://consul.example:8500",)
    assert parse_url("consul://consul.example?tls=true").urls == ("https://consul.example:8501",)


def test_several_agents_keep_their_order():
    address = parse_url("consul://10.0.0.2:1,[::1]:2,c")
    assert address.urls == ("http://10.0.0.2:1", "http://[::1]:2", "http://c:8500")


def test_datacenter_namespace_and_partition_go_into_every_call():
    address = parse_url("consul://a/?partition=p&ns=team&dc=eu-1")
    assert dict(address.scope) == {"dc": "eu-1", "ns": "team", "partition": "p"}


def test_the_configuration_may_ask_for_tls():
    assert parse_url("consul://a:8500?tls=false", tls=True).urls == ("https://a:8500",)


@pytest.mark.parametrize(
    "url",
    [
        "http://a",
        "consul://",
        "consul://a:0",
        "consul://a:65536",
        "consul://a:x",
        "consul://a,,b",
        "consul://a/path",
        "consul://a#b",
        "consul://a?dc=",
        "consul://a?dc=x&dc=y",
        "consul://a?tls=yes",
        "consul://a?wait=5s",
        "consul://a b",
    ],
)
def test_what_is_no_such_url_is_refused_with_the_form(url: str):
    with pytest.raises(UsageProblem, match="Not the URL") as refusal:
        parse_url(url)
    assert "consul://host:port" in refusal.value.next_step


@pytest.mark.parametrize("url", ["consul://a:hunter2@b", "consul://a?token=hunter2"])
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str):
    with pytest.raises(UsageProblem) as refusal:
        parse_url(url)
    assert "hunter2" not in str(refusal.value) + refusal.value.next_step
    assert "store_token_file" in refusal.value.next_step
