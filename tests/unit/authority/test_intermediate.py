"""An authority's own certificate: which one it takes, when it wants another, what it shows of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.authority.intermediate import adopted, cut, due, intermediate_key, keep_chain, kept_chain, request_of
from meshagent.authority.ledger import Ledger
from meshagent.authority.publishing import same, same_holder
from meshagent.authority.standing import Standing
from meshagent.authority.tls import peer_of
from meshagent.ca.issuance import CLIENT_ONLY, Issuer, issue, new_intermediate, new_root, to_pem
from meshagent.ca.root_files import create_root, digest_of
from meshagent.config.authority import AuthorityConfig
from meshagent.errors import AuthorityUnavailable, CertificateRefused
from meshagent.state.enrolment import SignerRecord

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DOMAIN = "mesh.internal"


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def root(length: int = 1, now: datetime = NOW) -> Issuer:
    key = new_key()
    return Issuer(new_root(key, DOMAIN, now, length), key)


def pem(issuer: Issuer) -> str:
    return to_pem(issuer.certificate).decode()


ROOT, KEY = root(), new_key()


def test_what_was_cut_is_adopted_with_or_without_its_root():
    made = cut(KEY, "a1", DOMAIN, ROOT, NOW)
    found = adopted(made.chain_pem, KEY, (pem(root()), pem(ROOT)), NOW)
    assert found == made and found.root_digest == digest_of(ROOT.certificate)
    assert adopted(made.chain_pem + pem(ROOT).encode(), KEY, (pem(ROOT),), NOW) == made
    assert made.ends == NOW + 365 * DAY


def test_an_intermediate_signs_end_entities_only_and_names_its_authority_and_mesh():
    certificate = cut(KEY, "a1", DOMAIN, ROOT, NOW).issuer.certificate
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert certificate.subject.rfc4514_string() == "CN=meshagent authority a1"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [each.value for each in names] == [f"spiffe://{DOMAIN}"]


def test_an_intermediate_never_outlives_its_root():
    later = NOW + 3600 * DAY
    assert cut(KEY, "a1", DOMAIN, ROOT, later).ends == ROOT.certificate.not_valid_after_utc


def test_a_root_for_one_machine_cuts_none():
    with pytest.raises(AuthorityUnavailable, match="no intermediates"):
        cut(KEY, "a1", DOMAIN, root(0), NOW)


def test_lies_are_not_adopted():
    own = cut(KEY, "a1", DOMAIN, ROOT, NOW)
    shallow = root(0)
    below_shallow = new_intermediate(KEY.public_key(), "a1", DOMAIN, shallow, NOW)
    leaf = issue(KEY.public_key(), f"spiffe://{DOMAIN}/svc/web", DAY, ROOT, NOW)
    lies = {
        "another key": (own.chain_pem, new_key(), ROOT, NOW),
        "does not lead": (own.chain_pem, KEY, root(), NOW),
        "ended": (own.chain_pem, KEY, ROOT, NOW + 366 * DAY),
        "has not begun": (own.chain_pem, KEY, ROOT, NOW - DAY),
        "no further CAs": (to_pem(below_shallow), KEY, shallow, NOW),
        "not a CA's": (to_pem(leaf), KEY, ROOT, NOW),
        "broken": (own.chain_pem + pem(root()).encode(), KEY, ROOT, NOW),
        "not a chain": (own.chain_pem * 6, KEY, ROOT, NOW),
        "cannot be read": (b"nonsense", KEY, ROOT, NOW),
    }
    for reason, (chain, key, trusted, now) in lies.items():
        with pytest.raises(CertificateRefused, match=reason):
            adopted(chain, key, (pem(trusted),), now)


def test_another_one_is_due_with_another_root_or_late_in_its_life():
    own = cut(KEY, "a1", DOMAIN, ROOT, NOW)
    assert due(NOW, None, ROOT, ())
    assert not due(NOW, own, ROOT, ()) and not due(NOW, own, None, ())
    assert due(NOW, own, root(), ())
    assert due(NOW, own, None, (own.root_digest,))
    assert not due(NOW + 240 * DAY, own, ROOT, ()) and due(NOW + 250 * DAY, own, ROOT, ())


def test_the_key_is_made_once_and_a_broken_one_is_told_without_its_words(tmp_path):
    key = intermediate_key(tmp_path)
    assert intermediate_key(tmp_path).private_numbers() == key.private_numbers()
    assert (tmp_path / "intermediate.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "intermediate.key").write_text("-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n")
    with pytest.raises(AuthorityUnavailable) as caught:
        intermediate_key(tmp_path)
    assert "secret" not in str(caught.value)


def settings(tmp_path, **more: object) -> AuthorityConfig:
    return AuthorityConfig(name="a1", address="10.0.0.1:8443", data_dir=tmp_path, **more)  # type: ignore[arg-type]


def ledger(*roots: Issuer, **more: object) -> Ledger:
    return Ledger(trust_domain=DOMAIN, roots=tuple(map(pem, roots)), **more)  # type: ignore[arg-type]


async def test_an_authority_with_the_root_cuts_its_own_and_another_when_the_root_changes(tmp_path):
    held = create_root_in(tmp_path)
    standing = Standing(settings(tmp_path), None, lambda: NOW)
    assert await standing.look(Ledger()) is None, "nothing is signed for a mesh that is not known"
    first = await standing.look(ledger(held))
    assert first and first.root_digest == digest_of(held.certificate) and kept_chain(tmp_path) == first.chain_pem
    assert await standing.look(ledger(held)) == first
    for name in ("root.pem", "root.key"):
        (tmp_path / "root" / name).unlink()
    other = create_root_in(tmp_path)
    assert await standing.look(ledger(held)) == first and "not in the mesh's trust bundle" in standing.problem
    second = await standing.look(ledger(held, other))
    assert second and second.root_digest == digest_of(other.certificate) and not standing.problem


def create_root_in(tmp_path) -> Issuer:
    (tmp_path / "root").mkdir(mode=0o700, exist_ok=True)
    return create_root(tmp_path / "root", DOMAIN, NOW, 1)


async def test_an_authority_without_the_root_takes_up_what_an_operator_signed(tmp_path):
    standing = Standing(settings(tmp_path), None, lambda: NOW)
    assert await standing.look(ledger(ROOT)) is None
    assert "ca root sign a1 --fingerprint sha256:" in standing.problems()[0]
    asked = standing.record()
    assert asked.intermediate == "" and asked.csr.startswith("-----BEGIN CERTIFICATE REQUEST")
    public = x509.load_pem_x509_csr(asked.csr.encode()).public_key()
    signed = to_pem(new_intermediate(public, "a1", DOMAIN, ROOT, NOW)).decode()  # type: ignore[arg-type]
    shown = asked.model_copy(update={"intermediate": signed})
    found = await standing.look(ledger(ROOT, signers={"a1": shown}))
    assert found and found.chain_pem.decode() == signed and not standing.problems()
    assert standing.record().intermediate == signed


async def test_of_two_intermediates_the_one_below_a_root_that_stays_is_taken(tmp_path):
    leaving, staying = root(), root()
    key = intermediate_key(tmp_path)
    keep_chain(tmp_path, cut(key, "a1", DOMAIN, leaving, NOW + DAY))
    record = Standing(settings(tmp_path), None, lambda: NOW + DAY).record()
    newer = cut(key, "a1", DOMAIN, staying, NOW).chain_pem.decode()
    shown = {"a1": record.model_copy(update={"intermediate": newer})}
    at = NOW + DAY + timedelta(hours=1)
    standing = Standing(settings(tmp_path), None, lambda: at)
    both = ledger(leaving, staying, leaving=(digest_of(leaving.certificate),), signers=shown)
    found = await standing.look(both)
    assert found and found.root_digest == digest_of(staying.certificate)


async def test_the_end_of_an_intermediate_is_told_thirty_days_before(tmp_path):
    key = intermediate_key(tmp_path)
    keep_chain(tmp_path, cut(key, "a1", DOMAIN, ROOT, NOW))
    for days, told in ((334, False), (336, True)):
        standing = Standing(settings(tmp_path), None, lambda days=days: NOW + days * DAY)
        assert await standing.look(ledger(ROOT))
        assert bool(standing.problems()) == told


class Other:
    """Another CA."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer, self.asked = issuer, 0

    async def intermediate(self, csr_pem: str) -> bytes:
        self.asked += 1
        public = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
        return to_pem(new_intermediate(public, "a1", DOMAIN, self.issuer, NOW))  # type: ignore[arg-type]


async def test_another_ca_is_asked_once_and_believed_only_below_a_root_of_the_bundle(tmp_path):
    upstream = Other(ROOT)
    standing = Standing(settings(tmp_path), upstream, lambda: NOW)
    assert await standing.look(ledger(root())) is None and "does not lead to a root" in standing.problem
    assert await standing.look(ledger(ROOT)) and await standing.look(ledger(ROOT))
    assert upstream.asked == 2


def test_a_record_is_ours_by_its_key_or_its_address():
    ours = record(KEY, "10.0.0.1:8443")
    assert same_holder(record(KEY, "10.0.0.2:8443"), ours) and same_holder(record(new_key(), "10.0.0.1:8443"), ours)
    assert not same_holder(record(new_key(), "10.0.0.2:8443"), ours)
    assert same(record(KEY, "10.0.0.1:8443"), ours), "another signature of the same request is no change"
    assert not same(ours.model_copy(update={"intermediate": "x"}), ours)


def record(key, address: str) -> SignerRecord:
    return SignerRecord(address=address, csr=request_of(key, "a1"), at=NOW)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"spiffe://{DOMAIN}/svc/web", "no host's"),
        (f"spiffe://{DOMAIN}/authority/a1", "no host's"),
        ("spiffe://other.internal/host/vm-1", "no host's"),
        (f"spiffe://{DOMAIN}/host/", "no host's"),
        (f"spiffe://{DOMAIN}/host/vm-1/svc/web", "no host's"),
        (f"spiffe://{DOMAIN}/host/VM-1", "no host's"),
        (f"spiffe://{DOMAIN}/host/vm-1", ""),
    ],
)
def test_a_peer_is_the_host_that_its_certificate_names(name, reason):
    certificate = issue(KEY.public_key(), name, DAY, ROOT, NOW, CLIENT_ONLY)
    der = certificate.public_bytes(encoding())
    if reason:
        with pytest.raises(CertificateRefused, match=reason):
            peer_of(der, DOMAIN, NOW)
        return
    assert peer_of(der, DOMAIN, NOW).host == "vm-1"
    for later in (NOW + DAY, NOW - DAY):
        with pytest.raises(CertificateRefused, match="has ended"):
            peer_of(der, DOMAIN, later)


def test_a_peer_with_two_names_or_without_a_certificate_is_nobody():
    two = issue(KEY.public_key(), f"spiffe://{DOMAIN}/host/vm-1", DAY, ROOT, NOW, CLIENT_ONLY, ("vm-1.internal",))
    with pytest.raises(CertificateRefused):
        peer_of(two.public_bytes(encoding()), DOMAIN, NOW)
    bare = x509.CertificateBuilder(x509.Name([]), x509.Name([]), KEY.public_key(), 1)
    bare = bare.not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    with pytest.raises(CertificateRefused):
        peer_of(bare.sign(KEY, hashes.SHA256()).public_bytes(encoding()), DOMAIN, NOW)
    for nothing in (None, b"", b"nonsense"):
        with pytest.raises(CertificateRefused):
            peer_of(nothing, DOMAIN, NOW)


def encoding():
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER
