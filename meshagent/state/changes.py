"""Changing policy: one atomic change of any number of documents, with history, on any store.

A change that fits one transaction is one. A larger one is staged: its records name a revision that the manifest has not
reached, so nobody sees them; the last transaction moves the manifest. What an interrupted change left behind is put back
by the next one before it begins (`Manifest.staging` says that there is something).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from meshagent.errors import Conflict, NotFound
from meshagent.model.kinds import Document
from meshagent.model.world import Stated
from meshagent.state.keys import Keys
from meshagent.state.records import (
    HistoryRecord,
    Manifest,
    OriginRecord,
    PolicyRecord,
    Revised,
    UnreadableRecord,
    decode,
    document_of,
    dump,
    encode,
)
from meshagent.store.base import Expect, Operation, Put, Snapshot, Store

_ATTEMPTS = 20
Name = tuple[str, str]  # kind, name
Documents = Mapping[Name, Stated[Document]]
Edit = Callable[[Documents], Mapping[Name, Stated[Document] | None]]


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes, when (aware time) and why: for history and explain."""

    who: str
    at: datetime
    why: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a change did. `revision` is the policy's revision after it; `changed` is empty when nothing had to be."""

    revision: int
    changed: tuple[Name, ...] = field(default=())


async def read_documents(store: Store, keys: Keys) -> tuple[int, Documents, Mapping[str, str]]:
    """(revision, all documents that count, problems by key) as the store has them now. NotFound without a mesh."""
    snapshot = await store.read(keys.config)
    manifest = _manifest(snapshot, keys)
    documents, problems = _documents(snapshot, keys, manifest.revision)
    return manifest.revision, documents, problems


async def change(store: Store, keys: Keys, edit: Edit, author: Author) -> Applied:
    """Apply what `edit` makes of the documents (None: delete). Read, edit and commit are repeated when others were quicker."""
    for attempt in range(_ATTEMPTS):
        try:
            return await _once(store, keys, edit, author)
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise
            await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))  # noqa: S311 - jitter, not a secret
    raise AssertionError("unreachable")


async def _once(store: Store, keys: Keys, edit: Edit, author: Author) -> Applied:
    snapshot = await store.read(keys.config)
    manifest = _manifest(snapshot, keys)
    if manifest.staging is not None:
        await _unstage(store, keys, snapshot, manifest)
        raise Conflict("an interrupted change was cleaned up")
    documents, _ = _documents(snapshot, keys, manifest.revision)
    edits = {name: new for name, new in edit(documents).items() if not _same(documents.get(name), new)}
    if not edits:
        return Applied(manifest.revision)
    revision = manifest.revision + 1
    puts: list[Operation] = [
        _put(snapshot, keys, name, new, revision, manifest.revision) for name, new in sorted(edits.items())
    ]
    last: list[Operation] = [
        Expect(keys.manifest, snapshot.entries[keys.manifest].revision),
        Put(keys.manifest, encode(Manifest(revision=revision))),
        Put(keys.history(revision), encode(_history(revision, documents, edits, author))),
    ]
    if len(puts) + len(last) <= store.max_operations:
        await store.commit([*puts, *last])
    else:
        await _staged(store, keys, snapshot, manifest, puts, last)
    return Applied(revision, tuple(sorted(edits)))


async def _staged(
    store: Store, keys: Keys, snapshot: Snapshot, now: Manifest, puts: list[Operation], last: list[Operation]
) -> None:
    staging = Manifest(revision=now.revision, staging=now.revision + 1)
    at = await store.commit(
        [Expect(keys.manifest, snapshot.entries[keys.manifest].revision), Put(keys.manifest, encode(staging))]
    )
    size = store.max_operations - 1
    for start in range(0, len(puts), size):
        await store.commit([Expect(keys.manifest, at), *puts[start : start + size]])
    await store.commit([Expect(keys.manifest, at), *last[1:]])


async def _unstage(store: Store, keys: Keys, snapshot: Snapshot, manifest: Manifest) -> None:
    """Put back what an interrupted change replaced, then take its mark away."""
    at = snapshot.entries[keys.manifest].revision
    back: list[Operation] = []
    for key, entry in snapshot.entries.items():
        if keys.parse_document(key) and (record := _record(entry.value)) and record.revision > manifest.revision:
            before = record.replaces or Revised(revision=manifest.revision, document=None)
            back.append(Put(key, encode(PolicyRecord.model_validate(before.model_dump()))))
    size = store.max_operations - 2
    for start in range(0, len(back), size):
        await store.commit([Expect(keys.manifest, at), *back[start : start + size]])
    await store.commit([Expect(keys.manifest, at), Put(keys.manifest, encode(Manifest(revision=manifest.revision)))])


def _manifest(snapshot: Snapshot, keys: Keys) -> Manifest:
    entry = snapshot.entries.get(keys.manifest)
    if entry is None:
        raise NotFound(
            "there is no mesh in this store", next_step="start `meshagent agent` once to set it up, or check --store"
        )
    try:
        return decode(Manifest, entry.value)
    except UnreadableRecord as error:
        raise NotFound(
            f"the mesh's manifest {error}", next_step="use a meshagent of the version that wrote it"
        ) from None


def _documents(snapshot: Snapshot, keys: Keys, revision: int) -> tuple[Documents, Mapping[str, str]]:
    documents: dict[Name, Stated[Document]] = {}
    problems: dict[str, str] = {}
    for key, entry in snapshot.entries.items():
        if not (name := keys.parse_document(key)):
            continue
        try:
            revised = decode(PolicyRecord, entry.value).at(revision)
            document = document_of(*name, revised) if revised else None
        except UnreadableRecord as error:
            problems[key] = str(error)
            continue
        if document is not None and revised is not None:
            documents[name] = Stated(document, {part: origin.origin() for part, origin in revised.origins.items()})
    return documents, problems


def _record(value: bytes) -> PolicyRecord | None:
    try:
        return decode(PolicyRecord, value)
    except UnreadableRecord:
        return None


def _put(snapshot: Snapshot, keys: Keys, name: Name, new: Stated[Document] | None, revision: int, manifest: int) -> Put:
    key = keys.document(*name)
    record = _record(snapshot.entries[key].value) if key in snapshot.entries else None
    before = record.at(manifest) if record else None
    replaces = Revised(revision=before.revision, document=before.document, origins=before.origins) if before else None
    document = dump(new.thing) if new else None
    origins = {part: OriginRecord.of(origin) for part, origin in new.origins.items()} if new else {}
    return Put(key, encode(PolicyRecord(revision=revision, document=document, origins=origins, replaces=replaces)))


def _same(old: Stated[Document] | None, new: Stated[Document] | None) -> bool:
    if old is None or new is None:
        return old is new
    return old.thing == new.thing


def _history(
    revision: int, before: Documents, edits: Mapping[Name, Stated[Document] | None], author: Author
) -> HistoryRecord:
    def data(stated: Stated[Document] | None) -> dict[str, object] | None:
        return dump(stated.thing) if stated else None

    rows = [
        HistoryRecord.Edit(kind=kind, name=name, before=data(before.get((kind, name))), after=data(new))
        for (kind, name), new in sorted(edits.items())
    ]
    return HistoryRecord(revision=revision, who=author.who, at=author.at, why=author.why, edits=rows)
