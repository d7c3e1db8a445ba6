"""`meshagent token`: lines for new hosts, of which the store holds nothing that could be used; denials of joined ones."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshagent.model.identity import TrustBundle
from meshagent.model.joining import parse_join_line
from meshagent.model.mesh import Mesh
from meshagent.state.changes import Author
from meshagent.state.enrolment import GrantRecord, SignerRecord, TokenRecord, token_hash
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Keys
from meshagent.state.records import decode, encode
from meshagent.store.base import Put
from meshagent.store.sqlite import open_sqlite
from tests.unit.cli.conftest import SEEDED, Commands

KEYS = Keys()


def authority(name):
    """A CA's certificate that is its own issuer, as PEM, and its fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = x509.CertificateBuilder(subject, subject, key.public_key(), 7, SEEDED, SEEDED + timedelta(days=3650))
    made = built.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True).sign(key, hashes.SHA256())
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    return pem, f"sha256:{made.fingerprint(hashes.SHA256()).hex()}"


class Enrolling(Commands):
    """Commands on a mesh with two roots, of which the second signed the one authority's intermediate."""

    def store(self, work):
        async def run():
            opened = await open_sqlite(self.path)
            try:
                return await work(opened)
            finally:
                await opened.close()

        return asyncio.run(run())

    def read(self, key):
        async def work(store):
            return {name: entry.value for name, entry in (await store.read(key)).entries.items()}

        return self.store(work)

    def put(self, key, record):
        self.store(lambda store: store.commit([Put(key, encode(record))]))


@pytest.fixture
def mesh(env, tmp_path):
    made = Enrolling(env | {"MESHAGENT_STORE": f"sqlite://{tmp_path}/token.db"})
    tmp_path.chmod(0o700)
    made.path = tmp_path / "token.db"
    (old, _), (new, made.fingerprint) = authority("old"), authority("new")
    bundle = TrustBundle((("mesh.internal", (old, new)),))
    made.store(lambda store: lay_foundation(store, KEYS, Mesh(), bundle, Author("ann", SEEDED)))
    made.put(KEYS.signer("a1"), SignerRecord(address="10.0.0.5:8443", intermediate=new, at=SEEDED))
    made.put(KEYS.signer("a2"), SignerRecord(address="10.0.0.6:8443", csr="CSR", at=SEEDED))
    return made


def test_a_line_leads_to_the_authorities_that_can_sign_by_the_root_that_they_show(mesh):
    made = mesh.run("token", "create", "--host", "vm-b", "--services", "payments, batch")
    line = parse_join_line(made.stdout)
    assert (line.addresses, line.fingerprint, line.trust_domain) == (
        ("10.0.0.5:8443",),
        mesh.fingerprint,
        "mesh.internal",
    )
    assert "vm-b" in made.stderr and line.token not in made.stderr
    ((key, value),) = mesh.read(KEYS.tokens).items()
    record = decode(TokenRecord, value)
    assert key == KEYS.token(token_hash(line.token))
    assert (record.host, record.services, record.used_at) == ("vm-b", ("payments", "batch"), None)
    assert record.expires_at - record.at == timedelta(minutes=10)
    assert line.token.encode() not in value


def test_the_list_shows_ids_and_hosts_and_no_tokens(mesh):
    made = mesh.json("token", "create", "--host", "vm-b", "--services", "payments", "--ttl", "1h")
    mesh.put(KEYS.grant("vm-a"), GrantRecord(host="vm-a", services=("web",), denied=True, at=SEEDED))
    shown = mesh.run("token", "list").stdout
    assert made["id"] in shown and "open" in shown and "everything" in shown
    assert parse_join_line(made["line"]).token not in shown
    listed = mesh.json("token", "list")
    assert [(each["id"], each["state"]) for each in listed["tokens"]] == [(made["id"], "open")]
    assert listed["hosts"] == [{"host": "vm-a", "services": ["web"], "denied": ["everything"]}]


def test_a_token_that_is_revoked_is_gone(mesh):
    made = mesh.json("token", "create", "--host", "vm-b", "--services", "payments")
    assert "no token has the id" in mesh.run("token", "revoke", made["id"][:11], code=1).stderr
    assert "the token for vm-b is revoked" in mesh.run("token", "revoke", made["id"]).stdout
    assert mesh.read(KEYS.tokens) == {}
    assert "no token has the id" in mesh.run("token", "revoke", made["id"], code=1).stderr


def test_a_host_is_denied_wholly_or_one_service_of_it_and_allowed_again(mesh):
    mesh.put(KEYS.grant("vm-b"), GrantRecord(host="vm-b", services=("payments", "batch"), at=SEEDED))

    def grant():
        return decode(GrantRecord, mesh.read(KEYS.grants)[KEYS.grant("vm-b")])

    mesh.run("token", "deny", "vm-b", "--service", "payments")
    assert (grant().allows("payments"), grant().allows("batch")) == (False, True)
    mesh.run("token", "deny", "vm-b")
    assert not grant().allows("batch")
    mesh.run("token", "allow", "vm-b")
    mesh.run("token", "allow", "vm-b", "--service", "payments")
    assert grant().allows("payments") and grant().allows("batch") and "@" in grant().by
    assert "no host vm-x has joined" in mesh.run("token", "deny", "vm-x", code=1).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "vm-b", "--services", ","), "at least one service"),
        (("--host", "vm-b", "--services", "Web"), "'Web' must be 1 to 63"),
        (("--host", "VM", "--services", "web"), "'VM' must be 1 to 63"),
        (("--host", "vm-b", "--services", "web", "--ttl", "48h"), "at most 24h"),
    ],
)
def test_what_makes_no_sense_makes_no_token(mesh, words, said):
    assert said in mesh.run("token", "create", *words, code=2).stderr
    assert mesh.read(KEYS.tokens) == {}


def test_without_an_authority_there_is_no_token(mesh):
    mesh.put(KEYS.signer("a1"), SignerRecord(address="10.0.0.5:8443", csr="CSR", at=SEEDED))
    told = mesh.run("token", "create", "--host", "vm-b", "--services", "web", code=1).stderr
    assert "no authority is known" in told and "meshagent init" in told
    assert mesh.read(KEYS.tokens) == {}
