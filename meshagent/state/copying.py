"""Copying a mesh from one store to another: policy, its history and the trust bundle, as they are.

Instances, reports and leases stay behind: hosts write them anew. Values are copied with their signatures. Who reads the
target sees the state that it had, or nothing, until the last transaction moves its manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from meshagent.errors import Conflict, MeshExists, StoreDenied
from meshagent.state.changes import read_manifest
from meshagent.state.keys import Keys
from meshagent.state.records import (
    Indexed,
    IndexRecord,
    Manifest,
    PolicyRecord,
    Revised,
    UnreadableRecord,
    decode,
    encode,
)
from meshagent.state.signing import Signing, Trust
from meshagent.store.base import Expect, Operation, Put, Snapshot, Store

_BATCH_BYTES = 256 * 1024  # Consul takes 512 KiB a request, and a third more goes for base64
_OTHER = "name a store that holds no mesh; to give up the one in it, delete the keys below {root} there first"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a copy writes. `before` is the revision that the target has, 0 for none; `last` moves the manifest."""

    revision: int
    before: int
    documents: int
    history: int
    first: tuple[Put, ...]
    last: tuple[Put, ...]

    @property
    def writes(self) -> int:
        """How many keys are written."""
        return len(self.first) + len(self.last)


async def copy_mesh(source: Store, target: Store, keys: Keys, signing: Signing, *, dry_run: bool) -> Plan:
    """Copy the mesh; with `dry_run` only say what would be written.

    Raises NotFound without a mesh in the source, MeshExists where the target holds another one, or a newer state of
    this one, StoreDenied for a value that the target cannot hold, Conflict when somebody changes either meanwhile.
    """
    prefixes = (keys.config, keys.bundle)
    there, here = await source.read(*prefixes), await target.read(*prefixes)
    plan = plan_copy(there, here, keys, signing.trust)
    for put in (*plan.first, *plan.last):
        if len(put.value) > target.max_value:
            raise StoreDenied(
                f"{put.key} has {len(put.value)} bytes; the target takes {target.max_value}.",
                next_step="split that document, or choose another store",
            )
    if not dry_run and plan.writes:
        await _write(target, keys, here, plan, signing)
    return plan


async def plan_into_nothing(source: Store, keys: Keys, trust: Trust) -> Plan:
    """What a copy into an empty store would write. Raises NotFound, Conflict and SignatureRefused."""
    return plan_copy(await source.read(keys.config, keys.bundle), Snapshot({}, 0), keys, trust)


def plan_copy(there: Snapshot, here: Snapshot, keys: Keys, trust: Trust) -> Plan:
    """What has to be written to the target (`here`) to make it hold what the source (`there`) holds."""
    manifest = read_manifest(there, keys, trust)
    if manifest.staging is not None:
        raise Conflict(
            "a change of policy is under way in the source, or was broken off",
            next_step="try again; any change made there clears up one that was broken off",
        )
    before = read_manifest(here, keys, Trust()).revision if keys.manifest in here.entries else 0
    _require_same(there, here, keys, manifest.revision, before)
    values = {key: entry.value for key, entry in there.entries.items()}
    at_once = (keys.bundle, keys.manifest)
    first = [_staged(keys, key, value, here, before) for key, value in sorted(values.items()) if key not in at_once]
    last = [Put(key, values[key]) for key in at_once if key in values]
    return Plan(
        revision=manifest.revision,
        before=before,
        documents=sum(1 for key in values if keys.parse_document(key)),
        history=sum(1 for key in values if key.startswith(keys.histories)),
        first=tuple(put for put in first if put and not _holds(here, put)),
        last=tuple(last) if any(not _holds(here, put) for put in last) else (),
    )


def _require_same(there: Snapshot, here: Snapshot, keys: Keys, revision: int, before: int) -> None:
    """Refuse a target that is no earlier state of the source: each of its changes must be one of the source's."""
    step = _OTHER.format(root=keys.root)
    shared = sorted(key for key in here.entries if key.startswith(keys.histories) and key in there.entries)
    if any(here.entries[key].value != there.entries[key].value for key in shared):
        raise MeshExists("the target holds another mesh: its history is not the source's", next_step=step)
    if before > revision:
        raise MeshExists(
            f"the target holds a newer state of this mesh: revision {before}, the source has {revision}",
            next_step="copy the other way round, or " + step,
        )
    if strange := sorted(here.entries.keys() - there.entries.keys()):
        raise MeshExists(f"the target holds another mesh: the source has no {strange[0]}", next_step=step)


def _staged(keys: Keys, key: str, value: bytes, here: Snapshot, before: int) -> Put | None:
    """The write of one key, with what the target has now as the state before; None: it holds the same already.

    A signature does not cover the state before, which has its own. What cannot be read is copied as it is.
    """
    held = here.entries.get(key)
    try:
        if keys.parse_document(key):
            old, new = decode(PolicyRecord, held.value).at(before) if held else None, decode(PolicyRecord, value)
            return None if _same(key, old, new) else Put(key, encode(new.model_copy(update={"replaces": _plain(old)})))
        if keys.parse_index(key):
            bucket, index = decode(IndexRecord, held.value).at(before) if held else None, decode(IndexRecord, value)
            names = Indexed.model_validate(_state(bucket)) if bucket else None
            return None if _same(key, bucket, index) else Put(key, encode(index.model_copy(update={"replaces": names})))
    except UnreadableRecord:
        return Put(key, value)
    return Put(key, value)


def _plain(revised: Revised | None) -> Revised | None:
    return Revised.model_validate(_state(revised)) if revised else None


def _state(record: Revised | Indexed) -> dict[str, Any]:
    """What counts of a record, without the state before."""
    return record.model_dump(exclude={"v", "replaces"})


def _same(key: str, old: Revised | Indexed | None, new: Revised | Indexed) -> bool:
    """Whether the target has this state. One that differs within a revision is not of the same mesh."""
    if old is None or old.revision != new.revision:
        return False
    if _state(old) != _state(new):
        raise MeshExists(
            f"the target holds {key} of revision {new.revision} otherwise than the source",
            next_step="find out who changed one of them past meshagent; then put one right, or name an empty store",
        )
    return True


def _holds(snapshot: Snapshot, put: Put) -> bool:
    entry = snapshot.entries.get(put.key)
    return entry is not None and entry.value == put.value


async def _write(target: Store, keys: Keys, here: Snapshot, plan: Plan, signing: Signing) -> None:
    entry = here.entries.get(keys.manifest)
    at = entry.revision if entry else 0
    size = target.max_operations - 1
    if len(plan.first) + len(plan.last) <= size and _size((*plan.first, *plan.last)) <= _BATCH_BYTES:
        await target.commit([Expect(keys.manifest, at), *plan.first, *plan.last])
        return
    if entry and (mark := _mark(decode(Manifest, entry.value), keys, plan, signing)):
        at = await target.commit([Expect(keys.manifest, at), mark])
    for batch in _batches(plan.first, size):
        await target.commit([Expect(keys.manifest, at), *batch])
    await target.commit([Expect(keys.manifest, at), *plan.last])


def _mark(now: Manifest, keys: Keys, plan: Plan, signing: Signing) -> Put | None:
    """What says that a change is under way, so that the next one clears up if this copy breaks off.

    A signed manifest cannot be marked without the key. There the index keeps what does not count yet from counting.
    """
    marked = Manifest(revision=now.revision, staging=plan.revision, index=now.index)
    if now.signature:
        return Put(keys.manifest, encode(signing.sign(keys.manifest, marked))) if signing.signer else None
    return Put(keys.manifest, encode(marked))


def _batches(puts: Iterable[Put], count: int) -> Iterator[list[Operation]]:
    """The writes in order, in lists of at most `count` and about 256 KiB."""
    batch: list[Operation] = []
    size = 0
    for put in puts:
        if batch and (len(batch) == count or size + len(put.value) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(put)
        size += len(put.value)
    if batch:
        yield batch


def _size(puts: Iterable[Put]) -> int:
    return sum(len(put.value) for put in puts)
