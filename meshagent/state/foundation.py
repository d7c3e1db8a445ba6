"""The first things in a store: the mesh document, the manifest and the trust bundle."""

from __future__ import annotations

from meshagent.ca.rotation import digests_in
from meshagent.errors import Conflict
from meshagent.model.identity import TrustBundle
from meshagent.model.mesh import Mesh
from meshagent.state.changes import Author, require_signer
from meshagent.state.index import index_puts, next_index
from meshagent.state.keys import Keys
from meshagent.state.records import (
    BundleRecord,
    HistoryRecord,
    Manifest,
    OriginRecord,
    PolicyRecord,
    decode,
    dump,
    encode,
)
from meshagent.state.signing import UNSIGNED, Signing
from meshagent.store.base import Expect, Operation, Put, Store


async def lay_foundation(
    store: Store, keys: Keys, mesh: Mesh, bundle: TrustBundle, author: Author, signing: Signing = UNSIGNED
) -> bool:
    """Set up the mesh where there is none. Returns whether it was done; two hosts that try at once are both right.

    Raises SignatureRefused where signatures are asked for and there is no key.
    """
    require_signer(signing)
    if keys.manifest in (await store.read(keys.manifest)).entries:
        return False
    origin = OriginRecord(who=author.who, at=author.at)
    edit = HistoryRecord.Edit(kind="mesh", name="mesh", before=None, after=dump(mesh))
    history = HistoryRecord(revision=1, who=author.who, at=author.at, why=author.why, edits=[edit])
    record = PolicyRecord(revision=1, document=dump(mesh), origins={"": origin})
    roots = BundleRecord.of(bundle).model_copy(update={"signed_at": 1 if signing.signer else 0})
    puts = [
        Put(keys.mesh, encode(signing.sign(keys.mesh, record))),
        Put(keys.bundle, encode(signing.sign(keys.bundle, roots))),
    ]
    puts += index_puts(keys, [keys.mesh], None, {}, signing)
    index = next_index(keys, {}, puts, 1) if signing.signer else {}
    manifest = signing.sign(keys.manifest, Manifest(revision=1, index=index))
    operations: list[Operation] = [
        Expect(keys.manifest, 0),
        Put(keys.manifest, encode(manifest)),
        *puts,
        Put(keys.history(1), encode(history)),
    ]
    try:
        await store.commit(operations)
    except Conflict:
        return False
    return True


async def add_roots(store: Store, keys: Keys, bundle: TrustBundle) -> bool:
    """Make sure that the bundle in the store holds these roots. Returns whether something was added.

    Roots that a rotation retired are never added again: a host that slept through it must not bring them back.
    """
    entry = (await store.read(keys.bundle)).entries.get(keys.bundle)
    record = decode(BundleRecord, entry.value) if entry else BundleRecord(roots={})
    merged = with_roots(record, bundle)
    if merged == record:
        return False
    await store.commit([Expect(keys.bundle, entry.revision if entry else 0), Put(keys.bundle, encode(merged))])
    return True


def with_roots(record: BundleRecord, bundle: TrustBundle) -> BundleRecord:
    """The record with these roots too, but for those that were retired. Pure."""
    merged = {domain: list(pems) for domain, pems in record.roots.items()}
    for domain, pems in bundle.roots:
        held = merged.setdefault(domain, [])
        held += [pem for pem in pems if pem not in held and not digests_in(pem) & set(record.retired)]
    roots = {domain: pems for domain, pems in merged.items() if pems}
    return record.model_copy(update={"roots": roots, "forms": {**record.forms, **dict(bundle.forms)}})
