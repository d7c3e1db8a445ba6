"""The trust bundle in the store, changed by rotations: each step is one compare-and-set, whoever else writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from meshagent.ca.rotation import digests_in
from meshagent.errors import NotFound, RotationRefused, SignatureRefused
from meshagent.model.identity import TrustBundle
from meshagent.state.changes import Author, read_manifest, require_signer, retried, unstage, write_change
from meshagent.state.foundation import with_roots
from meshagent.state.index import Proof
from meshagent.state.keys import Keys
from meshagent.state.records import BundleRecord, HistoryRecord, UnreadableRecord, decode, encode
from meshagent.state.rotation import RotationRecord, reversed_rotation
from meshagent.state.signing import Signing, Trust
from meshagent.store.base import Delete, Expect, Operation, Put, Snapshot, Store

_READ = "use a meshagent of the version that wrote it"


@dataclass(frozen=True, slots=True)
class Roots:
    """What the store holds of roots: the bundle, and the rotation that is under way."""

    bundle: BundleRecord
    rotation: RotationRecord | None


@dataclass(frozen=True, slots=True)
class Vault:
    """Where roots are changed, by whom, and how that is signed."""

    store: Store
    keys: Keys
    signing: Signing
    author: Callable[[str], Author]


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a rotation: how the bundle changes with it, the record before and after, and why."""

    edit: Callable[[BundleRecord], BundleRecord]
    before: RotationRecord | None
    after: RotationRecord
    why: str


async def read_roots(store: Store, keys: Keys, trust: Trust) -> Roots:
    """Raises NotFound where there is no bundle or one that cannot be read, SignatureRefused."""
    return _roots(await store.read(keys.manifest, keys.bundle, keys.rotation), keys, trust)


async def begin(vault: Vault, record: RotationRecord, new: TrustBundle) -> RotationRecord:
    """Put the new roots into the bundle, and the record beside it. Raises Conflict, SignatureRefused.

    A root that was retired before may come back when an operator says so.
    """

    def edit(bundle: BundleRecord) -> BundleRecord:
        kept = [digest for digest in bundle.retired if digest not in record.new]
        return with_roots(bundle.model_copy(update={"retired": kept}), new)

    await _take(vault, _Step(edit, None, record, "new roots"))
    return record


async def activate(vault: Vault, record: RotationRecord, now: datetime) -> RotationRecord:
    """Say that the new roots sign: hosts go over to them."""
    after = record.model_copy(update={"stage": "activate", "activated_at": record.activated_at or now})

    def edit(bundle: BundleRecord) -> BundleRecord:
        return bundle.model_copy(update={"leaving": after.old})

    await _take(vault, _Step(edit, record, after, "roots change"))
    return after


async def retire(vault: Vault, record: RotationRecord) -> RotationRecord:
    """Take the old roots out of the bundle: nothing that leads to them is believed from here on."""
    after = record.model_copy(update={"stage": "retire"})
    await _take(vault, _Step(lambda bundle: without_roots(bundle, after), record, after, "old roots retired"))
    return after


async def turn_back(vault: Vault, record: RotationRecord, now: datetime) -> RotationRecord:
    """The reverse road. New roots that nothing was signed with go at once; else they are retired as old ones are."""
    after = reversed_rotation(record, now)

    def edit(bundle: BundleRecord) -> BundleRecord:
        if after.stage == "retire":
            return without_roots(bundle, after)
        return bundle.model_copy(update={"leaving": after.old})

    await _take(vault, _Step(edit, record, after, "rotation turned back"))
    return after


async def keep(vault: Vault, before: RotationRecord, after: RotationRecord) -> RotationRecord:
    """Change the record alone."""
    snapshot = await vault.store.read(vault.keys.rotation)
    _expect_same(snapshot, vault.keys, before)
    await vault.store.commit([_expect(snapshot, vault.keys.rotation), Put(vault.keys.rotation, encode(after))])
    return after


async def end(vault: Vault, record: RotationRecord) -> None:
    """Delete the record: the rotation is over."""
    snapshot = await vault.store.read(vault.keys.rotation)
    _expect_same(snapshot, vault.keys, record)
    await vault.store.commit([_expect(snapshot, vault.keys.rotation), Delete(vault.keys.rotation)])


def without_roots(bundle: BundleRecord, record: RotationRecord) -> BundleRecord:
    """The bundle without the old roots of a rotation, which are never added again. Pure."""
    gone = set(record.old)
    roots = {domain: [pem for pem in pems if not digests_in(pem) & gone] for domain, pems in bundle.roots.items()}
    retired = sorted({*bundle.retired, *gone})
    return bundle.model_copy(update={"roots": roots, "retired": retired, "leaving": []})


async def _take(vault: Vault, step: _Step) -> None:
    """Change bundle and record together, where the record is as it was. Raises Conflict when it is not."""
    await retried(lambda: _once(vault, step))


async def _once(vault: Vault, step: _Step) -> None:
    store, keys, signing = vault.store, vault.keys, vault.signing
    if signing.signer or signing.trust:
        await _signed(vault, step)
        return
    snapshot = await store.read(keys.manifest, keys.bundle, keys.rotation)
    require_signer(signing, read_manifest(snapshot, keys, Trust()))
    _expect_same(snapshot, keys, step.before)
    bundle = step.edit(_roots(snapshot, keys, Trust()).bundle)
    await store.commit(
        [
            _expect(snapshot, keys.bundle),
            _expect(snapshot, keys.rotation),
            Put(keys.bundle, encode(bundle)),
            Put(keys.rotation, encode(step.after)),
        ]
    )


async def _signed(vault: Vault, step: _Step) -> None:
    """With signed policy the bundle is a change of policy: the manifest says in which revision it was made."""
    store, keys, signing = vault.store, vault.keys, vault.signing
    require_signer(signing)
    snapshot = await store.read(keys.config, keys.bundle, keys.rotation)
    manifest = read_manifest(snapshot, keys, signing.trust)
    _expect_same(snapshot, keys, step.before)
    await unstage(store, keys, snapshot, manifest, signing)
    revision = manifest.revision + 1
    edited = step.edit(_roots(snapshot, keys, signing.trust).bundle)
    bundle = signing.sign(keys.bundle, edited.model_copy(update={"signed_at": revision, "signature": ""}))
    author = vault.author(step.why)
    history = HistoryRecord(revision=revision, who=author.who, at=author.at, why=author.why, edits=[])
    more: list[Operation] = [_expect(snapshot, keys.rotation), Put(keys.rotation, encode(step.after))]
    put = Put(keys.bundle, encode(bundle))
    await write_change(store, keys, snapshot, manifest, [], history, signing, put, more)


def _roots(snapshot: Snapshot, keys: Keys, trust: Trust) -> Roots:
    manifest = read_manifest(snapshot, keys, trust)
    if keys.bundle not in snapshot.entries:
        raise NotFound("the mesh has no trust bundle", next_step="meshagent doctor")
    proof = Proof(keys, trust)
    proof.follow(manifest)
    try:
        bundle = decode(BundleRecord, snapshot.entries[keys.bundle].value)
    except UnreadableRecord as error:
        raise NotFound(f"the trust bundle {error}", next_step=_READ) from None
    try:
        proof.bundle(bundle)
    except UnreadableRecord as error:
        raise SignatureRefused(f"the trust bundle {error}", next_step="look who could write the store") from None
    return Roots(bundle, _rotation(snapshot, keys))


def _rotation(snapshot: Snapshot, keys: Keys) -> RotationRecord | None:
    entry = snapshot.entries.get(keys.rotation)
    try:
        return decode(RotationRecord, entry.value) if entry else None
    except UnreadableRecord as error:
        raise NotFound(f"the record of the rotation {error}", next_step=_READ) from None


def _expect(snapshot: Snapshot, key: str) -> Expect:
    entry = snapshot.entries.get(key)
    return Expect(key, entry.revision if entry else 0)


def _expect_same(snapshot: Snapshot, keys: Keys, before: RotationRecord | None) -> None:
    if _rotation(snapshot, keys) != before:
        raise RotationRefused(
            "somebody else moved the rotation on meanwhile", next_step="meshagent ca rotate --status, then try again"
        )
