"""Changing policy: one atomic change of any number of documents, with history, on any store.

A change that fits one transaction is one. A larger one is staged: its records name a revision that the manifest has not
reached, so nobody sees them; the last transaction moves the manifest. What an interrupted change left behind is put back
by the next one before it begins (`Manifest.staging` says that there is something).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from meshagent.errors import Conflict, NotFound, SignatureRefused
from meshagent.model.kinds import Document
from meshagent.model.world import Stated
from meshagent.state.index import Proof, index_puts, next_index
from meshagent.state.keys import Keys
from meshagent.state.records import (
    HistoryRecord,
    IndexRecord,
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
from meshagent.state.signing import UNSIGNED, Signing, Trust
from meshagent.store.base import Delete, Expect, Operation, Put, Snapshot, Store

_ATTEMPTS = 20
_ADOPT = (
    "look who could write the store; `meshagent policy sign --adopt` signs what it holds now, once you know it is right"
)
Name = tuple[str, str]  # kind, name
Documents = Mapping[Name, Stated[Document]]
Result = TypeVar("Result")
Kept = TypeVar("Kept", bound=PolicyRecord | IndexRecord)
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


async def read_documents(
    store: Store, keys: Keys, trust: Trust | None = None
) -> tuple[int, Documents, Mapping[str, str]]:
    """(revision, all documents that count, problems by key) as the store has them now.

    With `trust`, nothing counts but what its keys signed. Raises NotFound without a mesh, SignatureRefused where the
    manifest is not to be believed.
    """
    snapshot = await store.read(keys.config)
    manifest = read_manifest(snapshot, keys, trust or Trust())
    found = _Documents(snapshot, keys, manifest, trust or Trust())
    return manifest.revision, found.read(), found.problems()


async def change(store: Store, keys: Keys, edit: Edit, author: Author, signing: Signing = UNSIGNED) -> Applied:
    """Apply what `edit` makes of the documents (None: delete). Read, edit and commit are repeated when others were quicker.

    Raises SignatureRefused where policy is signed and there is no key to sign with, or what is there cannot be believed.
    """
    return await retried(lambda: _once(store, keys, edit, author, signing))


async def retried(write: Callable[[], Awaitable[Result]]) -> Result:
    """What a write gives, which is repeated when others were quicker. Raises Conflict when they always are."""
    for attempt in range(_ATTEMPTS):
        try:
            return await write()
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise
            await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))  # noqa: S311 - jitter, not a secret
    raise AssertionError("unreachable")


async def _once(store: Store, keys: Keys, edit: Edit, author: Author, signing: Signing) -> Applied:
    snapshot = await store.read(keys.config)
    manifest = read_manifest(snapshot, keys, signing.trust)
    require_signer(signing, manifest)
    await unstage(store, keys, snapshot, manifest, signing)
    documents = _Documents(snapshot, keys, manifest, signing.trust)
    edits = {name: new for name, new in edit(documents).items() if not _same(documents.get(name), new)}
    if not edits:
        return Applied(manifest.revision)
    values = {key: entry.value for key, entry in snapshot.entries.items()}
    writer = _Writer(keys, values, manifest, signing)
    puts = [writer.put(name, new) for name, new in sorted(edits.items())]
    try:
        puts += index_puts(keys, [put.key for put in puts], manifest, values, signing)
    except UnreadableRecord as error:
        raise SignatureRefused(f"the index of this mesh's policy: {error}", next_step=_ADOPT) from None
    revision = manifest.revision + 1
    history = _history(revision, documents, edits, author)
    await write_change(store, keys, snapshot, manifest, puts, history, signing)
    return Applied(revision, tuple(sorted(edits)))


async def write_change(
    store: Store,
    keys: Keys,
    snapshot: Snapshot,
    now: Manifest,
    puts: list[Put],
    history: HistoryRecord,
    signing: Signing,
    bundle: Put | None = None,
    more: Sequence[Operation] = (),
) -> None:
    """Write the puts (of the next revision) so that they count all at once, with the manifest that makes them count.

    `bundle` goes with the manifest: it has no state before; so does `more`. Raises Conflict when somebody was quicker.
    """
    revision = now.revision + 1
    index = next_index(keys, now.index, [*puts, *([bundle] if bundle else [])], revision)
    manifest = signing.sign(keys.manifest, Manifest(revision=revision, index=index))
    last: list[Operation] = [
        Put(keys.manifest, encode(manifest)),
        Put(keys.history(revision), encode(history)),
        *([bundle] if bundle else []),
        *more,
    ]
    at = snapshot.entries[keys.manifest].revision
    if len(puts) + len(last) + 1 <= store.max_operations:
        await store.commit([Expect(keys.manifest, at), *puts, *last])
        return
    staging = Manifest(revision=now.revision, staging=revision, index=now.index)
    if now.signature:  # what was not signed does not become so before the whole is
        staging = signing.sign(keys.manifest, staging)
    at = await store.commit([Expect(keys.manifest, at), Put(keys.manifest, encode(staging))])
    await _in_parts(store, Expect(keys.manifest, at), puts)
    await store.commit([Expect(keys.manifest, at), *last])


async def unstage(store: Store, keys: Keys, snapshot: Snapshot, manifest: Manifest, signing: Signing) -> None:
    """Put back what an interrupted change replaced, then take its mark away; Conflict says to read again.

    Where policy is signed the interrupted change's revision is used up: its records are signed, and must never count.
    """
    if manifest.staging is None:
        return
    back: list[Operation] = []
    for key, entry in snapshot.entries.items():
        kind: type[PolicyRecord | IndexRecord] = IndexRecord if keys.parse_index(key) else PolicyRecord
        record = _record(kind, entry.value) if keys.parse_index(key) or keys.parse_document(key) else None
        if record is None or record.revision <= manifest.revision:
            continue
        if record.replaces:
            back.append(Put(key, encode(kind.model_validate(record.replaces.model_dump()))))
        elif signing.signer:
            back.append(Delete(key))
        else:
            back.append(Put(key, encode(PolicyRecord(revision=manifest.revision, document=None))))
    expect = Expect(keys.manifest, snapshot.entries[keys.manifest].revision)
    await _in_parts(store, expect, back)
    after = Manifest(revision=manifest.staging if signing.signer else manifest.revision, index=manifest.index)
    await store.commit([expect, Put(keys.manifest, encode(signing.sign(keys.manifest, after)))])
    raise Conflict("an interrupted change was cleaned up")


async def _in_parts(store: Store, expect: Expect, operations: Sequence[Operation]) -> None:
    size = store.max_operations - 1
    for start in range(0, len(operations), size):
        await store.commit([expect, *operations[start : start + size]])


def read_manifest(snapshot: Snapshot, keys: Keys, trust: Trust) -> Manifest:
    """The manifest. Raises NotFound where there is none that can be read, SignatureRefused."""
    entry = snapshot.entries.get(keys.manifest)
    if entry is None:
        raise NotFound(
            "there is no mesh in this store", next_step="start `meshagent agent` once to set it up, or check --store"
        )
    try:
        manifest = decode(Manifest, entry.value)
    except UnreadableRecord as error:
        raise NotFound(
            f"the mesh's manifest {error}", next_step="use a meshagent of the version that wrote it"
        ) from None
    try:
        Proof(keys, trust).manifest(manifest)
    except UnreadableRecord as error:
        raise SignatureRefused(f"the mesh's manifest {error}", next_step=_ADOPT) from None
    return manifest


def require_signer(signing: Signing, manifest: Manifest | None = None) -> None:
    """Raise SignatureRefused where policy is signed, or has to be to be believed here, and there is no key."""
    if signing.signer is None and (signing.trust or (manifest and manifest.signature)):
        raise SignatureRefused(
            "the policy of this mesh is signed, and there is no key to sign this change with",
            next_step="set policy_signing_key (or MESHAGENT_POLICY_SIGNING_KEY) to the file of the key",
        )


class _Documents(Mapping[Name, Stated[Document]]):
    """The documents of a snapshot that count, each of them decoded when it is asked for: an edit needs few of many."""

    def __init__(self, snapshot: Snapshot, keys: Keys, manifest: Manifest, trust: Trust) -> None:
        self._values = {key: entry.value for key, entry in snapshot.entries.items()}
        self._keys = keys
        self._revision = manifest.revision
        self._proof = Proof(keys, trust)
        self._proof.follow(manifest)
        self._places = {name: key for key in self._values if (name := keys.parse_document(key))}
        self._decoded: dict[Name, Stated[Document] | None] = {}
        self._unusable: dict[str, str] = {}

    def __getitem__(self, name: Name) -> Stated[Document]:
        if name not in self._decoded:
            self._decoded[name] = self._decode(name)
        if (stated := self._decoded[name]) is None:
            raise KeyError(name)
        return stated

    def __iter__(self) -> Iterator[Name]:
        return (name for name in self._places if self.get(name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def read(self) -> Documents:
        """All of them, decoded."""
        return dict(self.items())

    def problems(self) -> Mapping[str, str]:
        """What does not count, and why, by key. Decodes all."""
        self.read()
        return {**self._proof.hidden(self._values), **self._unusable}

    def _decode(self, name: Name) -> Stated[Document] | None:
        if (key := self._places.get(name)) is None:
            return None
        try:
            revised = decode(PolicyRecord, self._values[key]).at(self._revision)
            self._proof.document(key, revised, self._values)
            document = document_of(*name, revised) if revised else None
        except UnreadableRecord as error:
            self._unusable[key] = str(error)
            return None
        if document is None or revised is None:
            return None
        return Stated(document, {part: origin.origin() for part, origin in revised.origins.items()})


class _Writer:
    """Makes the records of a change."""

    def __init__(self, keys: Keys, values: Mapping[str, bytes], now: Manifest, signing: Signing) -> None:
        self._keys = keys
        self._values = values
        self._now = now
        self._signing = signing
        self._proof = Proof(keys, signing.trust)
        self._proof.follow(now)

    def put(self, name: Name, new: Stated[Document] | None) -> Put:
        """The write of one document, with the state that it replaces."""
        key = self._keys.document(*name)
        origins = {part: OriginRecord.of(origin) for part, origin in new.origins.items()} if new else {}
        record = PolicyRecord(
            revision=self._now.revision + 1,
            document=dump(new.thing) if new else None,
            origins=origins,
            replaces=self._before(key),
        )
        return Put(key, encode(self._signing.sign(key, record)))

    def _before(self, key: str) -> Revised | None:
        """What counts now; nothing that cannot be believed."""
        record = _record(PolicyRecord, self._values[key]) if key in self._values else None
        before = record.at(self._now.revision) if record else None
        try:
            self._proof.document(key, before, self._values)
        except UnreadableRecord:
            return None
        return Revised.model_validate(before.model_dump(exclude={"v", "replaces"})) if before else None


def _record(kind: type[Kept], value: bytes) -> Kept | None:
    try:
        return decode(kind, value)
    except UnreadableRecord:
        return None


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
