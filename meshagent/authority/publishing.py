"""What an authority writes into the store: its own record, and its root into the trust bundle. Each by compare-and-set."""

from __future__ import annotations

import structlog

from meshagent.authority.ledger import Ledger
from meshagent.authority.signatory import key_digest
from meshagent.authority.standing import own_roots
from meshagent.ca.issuance import Issuer, public_key_of, trust_domain_of
from meshagent.ca.root_files import digest_of
from meshagent.errors import CertificateRefused, Conflict, UsageProblem
from meshagent.state.enrolment import SignerRecord
from meshagent.state.foundation import add_roots
from meshagent.state.keys import Keys
from meshagent.state.records import UnreadableRecord, decode, encode
from meshagent.store.base import Expect, Put, Store

_log = structlog.get_logger(__name__)


async def publish(store: Store, keys: Keys, name: str, record: SignerRecord) -> bool:
    """Make sure that the store shows this record of ours. Returns whether it was written.

    An intermediate that an operator signed meanwhile stays: it is taken up from there. Raises UsageProblem when another
    authority goes by this name, Conflict, and what the store raises.
    """
    key = keys.signer(name)
    entry = (await store.read(key)).entries.get(key)
    shown = _shown(entry.value) if entry else None
    if shown is not None and not same_holder(shown, record):
        raise UsageProblem(
            f"another authority, at {shown.address}, goes by the name {name}", next_step="set name in authority.yaml"
        )
    if shown is not None and (same(shown, record) or (shown.intermediate and not record.intermediate)):
        return False
    await store.commit([Expect(key, entry.revision if entry else 0), Put(key, encode(record))])
    _log.info("authority_published", name=name, address=record.address, fingerprint=record.fingerprint[:16])
    return True


async def publish_root(store: Store, keys: Keys, root: Issuer, ledger: Ledger) -> bool:
    """Make sure that the bundle in the store holds the root that this machine signs with. Returns whether it was added."""
    if digest_of(root.certificate) in ledger.retired or trust_domain_of(root.certificate) != ledger.trust_domain:
        return False
    try:
        return await add_roots(store, keys, own_roots(root))
    except Conflict:  # somebody else wrote the bundle; the next look is made with what it holds then
        return False


def same(shown: SignerRecord, ours: SignerRecord) -> bool:
    """Whether what is shown is what we are, whenever it was written and however the request was signed."""
    mine, theirs = ((each.address, each.intermediate, each.fingerprint, key_of(each.csr)) for each in (ours, shown))
    return mine == theirs


def same_holder(shown: SignerRecord, ours: SignerRecord) -> bool:
    """Whether the record is one of this authority: of the same key, or at the same address (its directory was lost)."""
    return shown.address == ours.address or key_of(shown.csr) == key_of(ours.csr)


def key_of(csr: str) -> str:
    """Hex SHA-256 of a CSR's public key, "" where there is none."""
    try:
        return key_digest(public_key_of(csr.encode()))
    except CertificateRefused:
        return ""


def _shown(value: bytes) -> SignerRecord | None:
    try:
        return decode(SignerRecord, value)
    except UnreadableRecord:
        return None
