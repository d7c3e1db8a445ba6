"""What the authority knows of the mesh: folded from the store, kept on disk, closed where it cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.authority.ledger import Ledger, Reading, keep_ledger, load_ledger
from meshagent.ca.issuance import new_root, to_pem
from meshagent.model.mesh import Mesh
from meshagent.state.enrolment import GrantRecord, SignerRecord
from meshagent.state.keys import Keys
from meshagent.state.records import BundleRecord, Manifest, PolicyRecord, dump, encode
from meshagent.state.signing import Trust, new_signer
from meshagent.store.base import Changes, Entry

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEYS = Keys()


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


GRANT = GrantRecord(host="vm-1", services=("web",), at=NOW)
SIGNER = SignerRecord(address="10.0.0.1:8443", intermediate="pem", at=NOW)
ROOT, OTHER = (to_pem(new_root(key, "mesh.one", NOW)).decode() for key in (new_key(), new_key()))
BUNDLE = BundleRecord(roots={"mesh.one": [ROOT], "other": [OTHER]}, leaving=["aa"], retired=["bb"])


def mesh(domain: str = "mesh.one", revision: int = 1) -> bytes:
    return encode(PolicyRecord(revision=revision, document=dump(Mesh(trust_domain=domain))))


CONTENT = {
    KEYS.manifest: encode(Manifest(revision=1)),
    KEYS.mesh: mesh(),
    KEYS.bundle: encode(BUNDLE),
    KEYS.grant("vm-1"): encode(GRANT),
    KEYS.signer("a1"): encode(SIGNER),
}


def changes(content: dict[str, bytes], *deleted: str, full: bool = False) -> Changes:
    return Changes(1, tuple(Entry(key, value, 1) for key, value in content.items()), deleted, full)


def reading(trust: Trust | None = None, last: Ledger | None = None) -> Reading:
    return Reading(KEYS, trust or Trust(), last or Ledger())


def test_a_mesh_is_read_whole():
    found = reading().take(changes(CONTENT, full=True))
    assert (found.trust_domain, found.roots, found.leaving, found.retired) == (
        "mesh.one",
        (ROOT,),
        ("aa",),
        ("bb",),
    )
    assert found.grants == {"vm-1": GRANT} and found.addresses() == ("10.0.0.1:8443",)
    assert found.known and not found.problems


def test_changes_add_up_and_a_deleted_grant_is_gone():
    held = reading()
    held.take(changes(CONTENT, full=True))
    denied = GRANT.model_copy(update={"denied": True})
    assert held.take(changes({KEYS.grant("vm-1"): encode(denied)})).grants["vm-1"].denied
    assert held.take(changes({}, KEYS.grant("vm-1"))).grants == {}


def test_an_empty_store_takes_nothing_away():
    held = reading()
    before = held.take(changes(CONTENT, full=True))
    assert held.take(changes({}, full=True)) == before
    assert held.take(changes({}, *CONTENT)) == before


def test_a_grant_that_cannot_be_read_or_says_another_host_is_none():
    content = CONTENT | {KEYS.grant("vm-1"): b"{}", KEYS.grant("vm-2"): encode(GRANT)}
    found = reading().take(changes(content, full=True))
    assert found.grants == {} and KEYS.grant("vm-1") in found.problems


@pytest.mark.parametrize("bundle", [b"broken", encode(BundleRecord(roots={})), None])
def test_without_a_readable_bundle_the_last_roots_stay(bundle):
    held = reading()
    held.take(changes(CONTENT, full=True))
    content = {key: value for key, value in CONTENT.items() if key != KEYS.bundle}
    found = held.take(changes(content | ({KEYS.bundle: bundle} if bundle else {}), full=True))
    assert found.roots == (ROOT,)


def test_one_spoilt_root_takes_no_other_away():
    bundle = BundleRecord(roots={"mesh.one": ["spoilt", ROOT]})
    found = reading().take(changes(CONTENT | {KEYS.bundle: encode(bundle)}, full=True))
    assert found.roots == (ROOT,) and "cannot be read" in found.problems[KEYS.bundle]
    held = reading()
    held.take(changes(CONTENT, full=True))
    spoilt = BundleRecord(roots={"mesh.one": ["spoilt"]})
    assert held.take(changes({KEYS.bundle: encode(spoilt)})).roots == (ROOT,)


def test_a_staged_mesh_document_does_not_count_yet():
    held = reading()
    held.take(changes(CONTENT, full=True))
    assert held.take(changes({KEYS.mesh: mesh("evil", revision=2)})).trust_domain == "mesh.one"


def test_where_policy_is_signed_nothing_else_is_believed():
    signer, _ = new_signer()
    trust = Trust.of(signer.public)
    assert not reading(trust).take(changes(CONTENT, full=True)).known
    manifest = signer.sign(KEYS.manifest, Manifest(revision=1, index={"bundle": 1}))
    bundle = signer.sign(KEYS.bundle, BUNDLE.model_copy(update={"signed_at": 1}))
    domain = signer.sign(KEYS.mesh, PolicyRecord(revision=1, document=dump(Mesh(trust_domain="mesh.one"))))
    signed = {KEYS.manifest: encode(manifest), KEYS.mesh: encode(domain), KEYS.bundle: encode(bundle)}
    held = reading(trust)
    assert held.take(changes(signed, full=True)).known
    forged = signer.sign(KEYS.bundle, BUNDLE).model_copy(update={"roots": {"mesh.one": [OTHER]}})
    assert held.take(changes({KEYS.bundle: encode(forged)})).roots == (ROOT,)
    older = signer.sign(KEYS.bundle, BundleRecord(roots={"mesh.one": [OTHER]}, signed_at=0))
    assert held.take(changes({KEYS.bundle: encode(older)})).roots == (ROOT,)


def test_it_is_kept_and_read_back_closed_to_others(tmp_path):
    ledger = reading().take(changes(CONTENT, full=True))
    keep_ledger(tmp_path, ledger)
    assert load_ledger(tmp_path) == ledger
    assert (tmp_path / "ledger.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", '{"v": 2}', '{"v": 1, "more": 1}'])
def test_one_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / "ledger.json").write_text(text)
    (tmp_path / "ledger.json").chmod(0o600)
    assert load_ledger(tmp_path) == Ledger()
