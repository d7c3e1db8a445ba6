"""The first authority of a mesh, its root on its way, its settings."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from meshagent.authority.founding import found_authority
from meshagent.authority.signers import countersign, waiting
from meshagent.authority.standing import Standing
from meshagent.ca.issuance import Issuer, new_root, to_pem
from meshagent.ca.root_files import create_root, digest_of, load_root, prepare_next
from meshagent.ca.root_transport import export_root, import_root, packed_root, unpacked_root
from meshagent.config import Machine
from meshagent.config.authority import AuthorityConfig, make_authority_config
from meshagent.errors import AuthorityUnavailable, Conflict, InvalidDocument, NotFound, UsageProblem
from meshagent.state.enrolment import SignerRecord
from meshagent.state.keys import Keys
from meshagent.state.records import decode, encode
from meshagent.store import open_store
from meshagent.store.base import Put

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DOMAIN = "mesh.internal"
PASSPHRASE = "correct horse battery"
MACHINE = Machine(1000, "VM_1.example.com", Path("/home/ada"), lambda: "10.0.0.5")
KEYS = Keys()


def settings(text: str = "", machine: Machine = MACHINE, **flags: object) -> AuthorityConfig:
    return make_authority_config(text, "authority.yaml", {}, flags, machine)


def config(tmp_path, name: str = "a1") -> AuthorityConfig:
    return settings("", data_dir=tmp_path / name, name=name)


def test_the_first_authority_is_founded_once_for_one_trust_domain(tmp_path):
    made = found_authority(config(tmp_path), DOMAIN, NOW)
    again = found_authority(config(tmp_path), DOMAIN, NOW).intermediate
    assert again.fingerprint == made.intermediate.fingerprint, "once more changes nothing"
    constraints = made.root.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.path_length, made.intermediate.root_digest) == (1, digest_of(made.root.certificate))
    with pytest.raises(UsageProblem, match="trust domain"):
        found_authority(config(tmp_path), "other.internal", NOW)


async def test_a_request_is_signed_once_for_the_key_that_was_looked_at(tmp_path):
    root = create_root(tmp_path, DOMAIN, NOW, 1)
    standing = Standing(config(tmp_path, "a2"), None, lambda: NOW)
    (tmp_path / "a2").mkdir(mode=0o700)
    store = await open_store(f"sqlite://{tmp_path}/mesh.db")
    try:
        with pytest.raises(NotFound):
            await waiting(store, KEYS, "a2")
        await store.commit([Put(KEYS.signer("a2"), encode(standing.record()))])
        asked = await waiting(store, KEYS, "a2")
        assert len(asked.fingerprint) == 64
        made = await countersign(store, KEYS, asked, root, DOMAIN, NOW)
        held = (await store.read(KEYS.signer("a2"))).entries[KEYS.signer("a2")]
        assert decode(SignerRecord, held.value) == made and made.csr == asked.record.csr
        found = x509.load_pem_x509_certificate(made.intermediate.encode())
        assert digest_of(found) == made.fingerprint
        with pytest.raises(Conflict):
            await countersign(store, KEYS, asked, root, DOMAIN, NOW)
        with pytest.raises(UsageProblem, match="no intermediates"):
            await countersign(store, KEYS, asked, shallow(), DOMAIN, NOW)
    finally:
        await store.close()


def shallow() -> Issuer:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    return Issuer(new_root(key, DOMAIN, NOW), key)


def test_a_root_travels_under_a_passphrase_and_comes_back_whole(tmp_path):
    here, there, file = tmp_path / "here", tmp_path / "there/root", tmp_path / "root.pem"
    here.mkdir(mode=0o700)
    made = create_root(here, DOMAIN, NOW, 1)
    export_root(here, file, PASSPHRASE, remove=True)
    assert load_root(here) is None and file.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in file.read_bytes() and to_pem(made.certificate) in file.read_bytes()
    with pytest.raises(UsageProblem, match="another trust domain|is for"):
        import_root(there, file, PASSPHRASE, "other.internal")
    import_root(there, file, PASSPHRASE, DOMAIN)
    back = load_root(there)
    assert back and back.key.private_numbers() == made.key.private_numbers()
    import_root(there, file, PASSPHRASE)  # the same one once more


def test_nothing_is_overwritten_and_nothing_is_deleted_that_was_not_read_back(tmp_path):
    here, file = tmp_path / "here", tmp_path / "root.pem"
    here.mkdir(mode=0o700)
    create_root(here, DOMAIN, NOW, 1)
    file.write_text("mine")
    with pytest.raises(UsageProblem, match="is there already"):
        export_root(here, file, PASSPHRASE, remove=True)
    with pytest.raises(UsageProblem, match="fewer than"):
        export_root(here, tmp_path / "short.pem", "short", remove=True)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    create_root(other, DOMAIN, NOW, 1)
    export_root(other, tmp_path / "other.pem", PASSPHRASE, remove=False)
    with pytest.raises(UsageProblem, match="holds another root"):
        import_root(here, tmp_path / "other.pem", PASSPHRASE)
    prepare_next(here, NOW)
    with pytest.raises(UsageProblem, match="change of roots"):
        export_root(here, tmp_path / "moved.pem", PASSPHRASE, remove=True)
    assert load_root(here) and load_root(other) and file.read_text() == "mine"
    with pytest.raises(AuthorityUnavailable):
        packed_root(tmp_path / "nothing", PASSPHRASE)


@pytest.mark.parametrize("passphrase", ["", "another passphrase"])
def test_without_the_passphrase_there_is_no_key(tmp_path, passphrase):
    tmp_path.chmod(0o700)
    create_root(tmp_path, DOMAIN, NOW, 1)
    data = packed_root(tmp_path, PASSPHRASE)
    for broken in (data, data[:200], b"", (tmp_path / "root.pem").read_bytes()):
        with pytest.raises(UsageProblem):
            unpacked_root(broken, passphrase)


def test_settings_default_to_what_the_machine_is():
    found = settings()
    assert (found.name, found.address, found.listen) == ("vm-1", "10.0.0.5:8443", "0.0.0.0:8443")
    assert found.data_dir == Path("/home/ada/.local/state/meshagent-authority")
    assert found.store == "sqlite:///home/ada/.local/state/meshagent/mesh.db" and found.store_for_hosts == ""
    root = settings("", Machine(0, "a.b", Path("/root"), lambda: "2001:db8::5"))
    assert (root.data_dir, root.address) == (Path("/var/lib/meshagent-authority"), "[2001:db8::5]:8443")
    assert settings("listen: 10.1.1.1:9000").address == "10.1.1.1:9000"


@pytest.mark.parametrize(
    ("store", "told"),
    [
        ("sqlite:///x.db", ""),
        ("etcd://127.0.0.1:2379", ""),
        ("etcd://10.0.0.1:2379", "etcd://10.0.0.1:2379"),
        ("consul://127.0.0.1:8500", "consul://127.0.0.1:8500"),
    ],
)
def test_hosts_are_told_the_store_where_they_reach_it(store, told):
    assert settings(f"store: {store}").store_for_hosts == told
    assert settings(f"store: {store}\nstore_for_hosts: consul://other:1").store_for_hosts == "consul://other:1"


@pytest.mark.parametrize(
    "text",
    [
        "max_ttl: 25h",
        "max_ttl: 0s",
        "host_ttl: 9999h",
        "listen: 8443",
        "listen: a:99999",
        "metrics: 0.0.0.0:9103",
        "issuer: {provider: acme}",
        "rate_limits: {enrol: 0}",
        "rate_limits: {enroll: 5}",
        "nomad: {rules: [{job: a, task: b, services: [web]}]}",
        "nomad: {jwks_url: 'http://10.0.0.1:4646/jwks', rules: [{job: a, task: b, services: [web]}]}",
        "nomad: {jwks_file: /k, rules: [{job: a, services: [web]}]}",
        "nomad: {jwks_file: /k, rules: [{job: a, task: b, service: c, services: [web]}]}",
        "nomad: {jwks_file: /k, rules: [{job: a, task: b, services: ['*']}]}",
        "nomad: {jwks_file: /k, rules: [{job: a, task: b, services: []}]}",
        "unknown: 1",
    ],
)
def test_settings_that_cannot_hold_are_refused(text):
    with pytest.raises(InvalidDocument):
        settings(text)


def test_public_keys_are_a_list_or_one_text():
    assert settings("policy_public_keys: [ed25519:AAAA, /a]").policy_public_keys == ("ed25519:AAAA", "/a")
    assert settings("policy_public_keys: ed25519:AAAA").policy_public_keys == ("ed25519:AAAA",)


def test_flags_win_and_are_checked(tmp_path):
    assert settings("name: a1", name="a2", listen=None).name == "a2"
    with pytest.raises(UsageProblem, match="--listen"):
        settings("", listen="nonsense")
