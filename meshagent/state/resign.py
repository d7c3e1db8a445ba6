"""Signing all of a mesh's policy anew: when a mesh begins to sign, and when its key changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshagent.errors import SignatureRefused
from meshagent.state.changes import Author, read_manifest, retried, unstage, write_change
from meshagent.state.index import Proof, index_puts
from meshagent.state.keys import Keys
from meshagent.state.records import (
    BundleRecord,
    HistoryRecord,
    Manifest,
    PolicyRecord,
    Revised,
    UnreadableRecord,
    decode,
    encode,
)
from meshagent.state.signing import UNSIGNED, Signing, Trust, key_id
from meshagent.store.base import Put, Store

_MEND = "put another record in its place with meshagent policy apply, or delete it; then sign"


@dataclass(frozen=True, slots=True)
class Signatures:
    """What was signed: the policy revision it has now, and how many documents."""

    revision: int
    documents: int
    key: str


async def sign_policy(store: Store, keys: Keys, author: Author, signing: Signing, *, adopt: bool) -> Signatures:
    """Sign every document, the trust bundle, the index and the manifest, as one new revision.

    Without `adopt` only what is signed by a trusted key already is signed again. With it, what the store holds now is
    taken as it is. Raises SignatureRefused with everything that cannot be signed; then nothing was.
    """
    return await retried(lambda: _once(store, keys, author, signing, adopt=adopt))


async def _once(store: Store, keys: Keys, author: Author, signing: Signing, *, adopt: bool) -> Signatures:
    if signing.signer is None:
        raise SignatureRefused("there is no key to sign with", next_step="set policy_signing_key; meshagent policy key")
    trust = Trust() if adopt else signing.trust
    snapshot = await store.read(keys.config, keys.bundle)
    manifest = read_manifest(snapshot, keys, trust)
    await unstage(store, keys, snapshot, manifest, UNSIGNED if adopt else signing)
    if adopt:  # an index that nobody believes is made anew
        manifest = manifest.model_copy(update={"index": {}, "signature": ""})
    values = {key: entry.value for key, entry in snapshot.entries.items()}
    puts = _documents(keys, values, manifest, signing, trust)
    bundle = _bundle(keys, values, manifest, signing, trust)
    count = len(puts)
    puts += index_puts(keys, [put.key for put in puts], manifest, values, signing)
    history = HistoryRecord(
        revision=manifest.revision + 1, who=author.who, at=author.at, why=author.why or "signed anew", edits=[]
    )
    await write_change(store, keys, snapshot, manifest, puts, history, signing, bundle)
    return Signatures(manifest.revision + 1, count, key_id(signing.signer.public))


def _documents(keys: Keys, values: Mapping[str, bytes], now: Manifest, signing: Signing, trust: Trust) -> list[Put]:
    proof = Proof(keys, trust)
    proof.follow(now)
    problems = dict(proof.hidden(values))
    puts: list[Put] = []
    for key, value in sorted(values.items()):
        if not keys.parse_document(key):
            continue
        try:
            held = decode(PolicyRecord, value).at(now.revision)
            proof.document(key, held, values)
        except UnreadableRecord as error:
            problems[key] = str(error)
            continue
        if held is None:
            continue
        state = Revised.model_validate(held.model_dump(exclude={"v", "replaces"}))
        new = PolicyRecord(
            revision=now.revision + 1,
            document=held.document,
            origins=held.origins,
            replaces=state,  # as it was signed, or not: who asks for signatures checks this one too
        )
        puts.append(Put(key, encode(signing.sign(key, new))))
    if problems:
        lines = "\n".join(f"{key}: {problem}" for key, problem in sorted(problems.items()))
        raise SignatureRefused(f"not everything here can be signed:\n{lines}", next_step=_MEND)
    return puts


def _bundle(keys: Keys, values: Mapping[str, bytes], now: Manifest, signing: Signing, trust: Trust) -> Put | None:
    if keys.bundle not in values:
        return None
    proof = Proof(keys, trust)
    proof.follow(now)
    try:
        record = decode(BundleRecord, values[keys.bundle])
        proof.bundle(record)
    except UnreadableRecord as error:
        raise SignatureRefused(f"{keys.bundle}: {error}", next_step=_MEND) from None
    new = record.model_copy(update={"signed_at": now.revision + 1, "signature": ""})
    return Put(keys.bundle, encode(signing.sign(keys.bundle, new)))
