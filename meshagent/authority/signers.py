"""An operator with the root signs the authorities that have none: `meshagent ca root sign`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.x509 import BasicConstraints

from meshagent.ca.issuance import Issuer, new_intermediate, public_key_of, to_pem
from meshagent.ca.root_files import digest_of
from meshagent.ca.x509 import key_der
from meshagent.errors import NotFound, UsageProblem
from meshagent.state.enrolment import SignerRecord
from meshagent.state.keys import Keys
from meshagent.state.records import UnreadableRecord, decode, encode
from meshagent.store.base import Expect, Put, Store


@dataclass(frozen=True, slots=True)
class Waiting:
    """An authority's request: `fingerprint` is the hex SHA-256 of its public key (DER), to be compared with what it says."""

    name: str
    record: SignerRecord
    fingerprint: str
    revision: int = field(repr=False)


async def waiting(store: Store, keys: Keys, name: str) -> Waiting:
    """The request of the authority of this name. Raises NotFound, CertificateRefused for a CSR of no use."""
    key = keys.signer(name)
    entry = (await store.read(key)).entries.get(key)
    if entry is None:
        raise NotFound(f"no authority {name} asks for a certificate", next_step="start it: meshagent authority")
    try:
        record = decode(SignerRecord, entry.value)
    except UnreadableRecord as error:
        raise NotFound(f"the record of the authority {name} {error}", next_step="start it anew") from None
    public = public_key_of(record.csr.encode())
    return Waiting(name, record, hashlib.sha256(key_der(public)).hexdigest(), entry.revision)


async def countersign(
    store: Store, keys: Keys, asked: Waiting, root: Issuer, trust_domain: str, now: datetime
) -> SignerRecord:
    """Sign the request with the root and put the intermediate where the authority finds it. Raises Conflict, UsageProblem."""
    depth = root.certificate.extensions.get_extension_for_class(BasicConstraints).value.path_length
    if depth == 0:
        raise UsageProblem("this root may sign no intermediates", next_step="use the root of an authority")
    made = new_intermediate(public_key_of(asked.record.csr.encode()), asked.name, trust_domain, root, now)
    record = asked.record.model_copy(
        update={"intermediate": to_pem(made).decode(), "fingerprint": digest_of(made), "at": now}
    )
    key = keys.signer(asked.name)
    await store.commit([Expect(key, asked.revision), Put(key, encode(record))])
    return record
