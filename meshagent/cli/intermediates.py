"""Intermediates of the mesh's authorities under another root: the same names and keys, signed once more."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from cryptography import x509

from meshagent.ca.issuance import Issuer, new_intermediate, to_pem
from meshagent.ca.keys import signed_by
from meshagent.ca.root_files import digest_of
from meshagent.ca.x509 import UNREADABLE
from meshagent.errors import Conflict
from meshagent.state.enrolment import SignerRecord
from meshagent.state.keys import Keys
from meshagent.state.records import UnreadableRecord, decode, encode
from meshagent.store.base import Entry, Expect, Put, Store

_ATTEMPTS = 3


async def sign_again(
    store: Store, keys: Keys, trust_domain: str, root: Issuer, known: Collection[x509.Certificate], now: datetime
) -> tuple[str, ...]:
    """Give every authority that has an intermediate of a `known` root one of `root`. Returns their names.

    Who has none, or one that no known root signed, is nobody that an operator ever let in: `ca root sign` is for those.
    """
    done: list[str] = []
    for key in (await store.read(keys.signers)).entries:
        name = key.removeprefix(keys.signers)
        if await _sign_one(store, key, name, trust_domain, root, known, now):
            done.append(name)
    return tuple(done)


async def _sign_one(
    store: Store,
    key: str,
    name: str,
    trust_domain: str,
    root: Issuer,
    known: Collection[x509.Certificate],
    now: datetime,
) -> bool:
    for _ in range(_ATTEMPTS):
        entry = (await store.read(key)).entries.get(key)
        record = _again(entry, name, trust_domain, root, known, now)
        if entry is None or record is None:
            return False
        try:
            await store.commit([Expect(key, entry.revision), Put(key, encode(record))])
        except Conflict:  # the authority wrote its record meanwhile
            continue
        return True
    return False


def _again(
    entry: Entry | None,
    name: str,
    trust_domain: str,
    root: Issuer,
    known: Collection[x509.Certificate],
    now: datetime,
) -> SignerRecord | None:
    """The record with another intermediate; None where it needs none, or may have none."""
    try:
        record = decode(SignerRecord, entry.value) if entry else None
        if record is None or not record.intermediate:
            return None
        held = x509.load_pem_x509_certificate(record.intermediate.encode())
    except (UnreadableRecord, *UNREADABLE):
        return None
    if signed_by(held, root.certificate) or not any(signed_by(held, each) for each in known):
        return None
    made = new_intermediate(held.public_key(), name, trust_domain, root, now)
    change = {"intermediate": to_pem(made).decode(), "fingerprint": digest_of(made), "at": now}
    return record.model_copy(update=change)
