"""The provider consul: whom it asks for keys, and what it takes for an answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from meshagent.ca import open_authority
from meshagent.ca.consul import ConsulAuthority
from meshagent.ca.keys import new_key_and_csr
from meshagent.errors import AuthorityUnavailable, CertificateRefused, StoreDenied, StoreUnavailable, UsageProblem
from meshagent.wire.consul import Answer
from tests.unit.ca.lying_ca import ROOT

DOMAIN = "0b2f.consul"
WEB = f"spiffe://{DOMAIN}/ns/default/dc/dc1/svc/web"
NOW = datetime.now(UTC)
ROOTS, SELF, LEAF = "/v1/agent/connect/ca/roots", "/v1/agent/self", "/v1/agent/connect/ca/leaf/web"


class Consul:
    """Answers by path: a value, or what it raises."""

    def __init__(self, **answers):
        self.answers = {ROOTS: {"TrustDomain": DOMAIN, "Roots": []}, SELF: {"Config": {"Datacenter": "dc1"}}} | answers

    async def get(self, path):

        found = self.answers[path]
        if isinstance(found, Exception):
            raise found
        return Answer(200, {}, json.dumps(found).encode())

    async def follow(self, _, *, index):
        return
        yield

    async def close(self):
        pass


def opened(answers=None, **settings):
    settings = {"address": "consul://127.0.0.1:8500"} | settings
    made = open_authority("consul", settings, trust_domain="mesh.internal", data_dir=Path(), clock=lambda: NOW)
    assert isinstance(made, ConsulAuthority)
    made._consul = Consul(**(answers or {}))
    return made


def leaf(**more):
    key = new_key_and_csr()[0].decode()
    ends = (NOW + timedelta(hours=1)).isoformat()
    return {"PrivateKeyPEM": key, "CertPEM": "chain", "SerialNumber": "0a", "ValidBefore": ends} | more


@pytest.mark.parametrize(
    "address", ["consul://10.0.0.1:8500", "consul://127.0.0.1:8500,consul.example:8500", "consul://[2001:db8::1]:8500"]
)
def test_keys_do_not_travel_in_plain_text(address):
    with pytest.raises(UsageProblem, match="private keys"):
        opened(address=address)


@pytest.mark.parametrize(
    "address", ["consul://127.0.0.1:8500", "consul://[::1]", "consul://localhost", "consul://c.example?tls=true"]
)
def test_this_machine_or_tls_will_do(address):
    opened(address=address)


async def test_the_key_is_given_as_envoy_reads_it():
    issued = await opened({LEAF: leaf()}).issue(WEB, timedelta(hours=1))
    assert issued.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    serialization.load_pem_private_key(issued.key_pem, None)


async def test_a_certificate_that_lives_longer_than_asked_is_refused_and_the_setting_is_named():
    ends = (NOW + timedelta(hours=71, minutes=58)).isoformat()
    with pytest.raises(CertificateRefused, match="live for 72h") as told:
        await opened({LEAF: leaf(ValidBefore=ends)}).issue(WEB, timedelta(hours=1))
    assert "ca.ttl to 72h" in told.value.next_step


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        leaf(PrivateKeyPEM="x"),
        leaf(PrivateKeyPEM=None),
        leaf(CertPEM=7),
        leaf(ValidBefore="soon"),
        leaf(SerialNumber=None),
    ],
)
async def test_an_answer_without_sense_is_refused_and_no_key_is_repeated(answer):
    with pytest.raises((AuthorityUnavailable, CertificateRefused)) as told:
        await opened({LEAF: answer}).issue(WEB, timedelta(hours=1))
    assert "PRIVATE" not in str(told.value)


async def test_a_missing_right_is_named():
    with pytest.raises(CertificateRefused) as told:
        await opened({LEAF: StoreDenied("Consul refuses: Permission denied")}).issue(WEB, timedelta(hours=1))
    assert 'service "web" { policy = "write" }' in told.value.next_step


async def test_connect_that_is_off_is_named():
    off = StoreUnavailable("500: Connect must be enabled in order to use this endpoint")
    health = await opened({ROOTS: off}).check()
    assert not health.ok and "connect { enabled = true }" in health.problems[0]


@pytest.mark.parametrize("domain", ["", "UPPER.consul", "a..b", "x/svc", None])
async def test_a_trust_domain_that_is_none_is_not_taken(domain):
    with pytest.raises(AuthorityUnavailable):
        await opened({ROOTS: {"TrustDomain": domain}}).named("web")


async def test_the_datacenter_is_asked_or_set_and_never_guessed():
    assert await opened().named("web") == WEB
    denied = {SELF: StoreDenied("no right")}
    alone, several = {"/v1/catalog/datacenters": ["dc7"]}, {"/v1/catalog/datacenters": ["dc1", "dc2"]}
    assert "/dc/dc7/" in await opened(denied | alone).named("web")
    with pytest.raises(AuthorityUnavailable, match="datacenter"):
        await opened(denied | several).named("web")
    assert "/dc/dc2/" in await opened(denied | several, datacenter="dc2").named("web")


async def test_the_bundle_says_the_form_of_the_ids():
    root = ROOT.pem
    bundle = await opened({ROOTS: {"TrustDomain": DOMAIN, "Roots": [{"RootCert": root}]}}).bundle()
    assert bundle.domains("mesh.internal").ids("web") == (WEB,)
