"""A host's own certificate goes over to a new root before the old one goes: afterwards nobody would know the host."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from meshagent.ca.authority import open_authority
from meshagent.ca.host_identity import host_csr, host_key
from meshagent.ca.issuance import issue, to_pem
from meshagent.ca.root_files import create_root, digest_of
from meshagent.ca.x509 import host_id
from meshagent.errors import AuthorityUnavailable
from meshagent.model.identity import TrustBundle
from meshagent.private import write_private

DOMAIN = "mesh.internal"
WEEK = timedelta(days=7)


class Clock:
    def __init__(self):
        self.now = datetime.now(UTC)

    def __call__(self):
        return self.now


class Authority:
    """Answers as an authority does, with the root that signs now."""

    def __init__(self, issuer, clock):
        self.issuer, self.clock, self.renewed, self.away = issuer, clock, 0, False

    async def post(self, path, body, bearer=""):
        assert path == "/v1/renew"
        self.renewed += 1
        if self.away:
            raise AuthorityUnavailable("away")
        return {"chain": self.sign(body["csr"])}

    def sign(self, csr):
        key = x509.load_pem_x509_csr(csr.encode()).public_key()
        return to_pem(issue(key, host_id(DOMAIN, "vm-1"), WEEK, self.issuer, self.clock())).decode()


@pytest.fixture
def moving(tmp_path):
    """The client of a host that has joined, its authority, both roots and the clock."""
    clock = Clock()
    old, new = (
        create_root(directory(tmp_path / name), DOMAIN, clock.now - timedelta(days=1)) for name in ("old", "new")
    )
    data = directory(tmp_path / "data")
    authority = Authority(old, clock)
    write_private(data / "host.pem", authority.sign(host_csr(host_key(data))).encode())
    (data / "roots.pem").write_bytes(to_pem(old.certificate) + to_pem(new.certificate))
    (data / "roots.pem").chmod(0o600)
    client = open_authority({"addresses": ["127.0.0.1:8443"]}, trust_domain=DOMAIN, data_dir=data, clock=clock)
    client._calls = authority
    return client, authority, old, new, clock


def directory(path):
    path.mkdir(mode=0o700)
    return path


def bundle(*issuers, leaving=()):
    pems = tuple(to_pem(each.certificate).decode() for each in issuers)
    return TrustBundle(((DOMAIN, pems),), tuple(digest_of(each.certificate) for each in leaving))


async def minute(client, roots, clock):
    for _ in range(60):
        await client.tend(roots)
        clock.now += timedelta(seconds=1)


async def test_it_is_renewed_once_when_another_root_signs_and_says_where_it_leads(moving):
    client, authority, old, new, clock = moving
    await minute(client, bundle(old, new), clock)
    assert client.own_root == digest_of(old.certificate) and authority.renewed == 0
    authority.issuer = new
    await minute(client, bundle(old, new, leaving=[old]), clock)
    assert client.own_root == digest_of(new.certificate) and authority.renewed == 1


async def test_an_authority_that_still_signs_with_the_old_root_is_asked_once_a_minute(moving):
    client, authority, old, new, clock = moving
    for _ in range(5):
        await minute(client, bundle(old, new, leaving=[old]), clock)
    assert client.own_root == digest_of(old.certificate) and 3 <= authority.renewed <= 6
    authority.issuer = new
    await minute(client, bundle(old, new, leaving=[old]), clock)
    await minute(client, bundle(old, new, leaving=[old]), clock)
    assert client.own_root == digest_of(new.certificate)


async def test_one_that_is_away_is_asked_again_with_pauses(moving):
    client, authority, old, new, clock = moving
    authority.away = True
    await minute(client, bundle(old, new, leaving=[old]), clock)
    assert 1 <= authority.renewed < 30
    authority.away, authority.issuer = False, new
    await minute(client, bundle(old, new, leaving=[old]), clock)
    await minute(client, bundle(old, new, leaving=[old]), clock)
    assert client.own_root == digest_of(new.certificate)
