"""The index of signed policy: which documents there are, and in which revision each was last written. Pure.

64 buckets, by the hash of a document's name. The signed manifest says in which revision each bucket last changed, the
signed bucket in which revision each of its documents did. So a host that reads its own documents alone still notices
one that the store hides, or shows in an older state, at the price of one more small key for each; and one change writes
its documents, their buckets and the manifest, not the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshagent.state.keys import Interest, Keys, bucket_of
from meshagent.state.records import (
    BundleRecord,
    Indexed,
    IndexRecord,
    Manifest,
    Revised,
    UnreadableRecord,
    decode,
    encode,
)
from meshagent.state.signing import Signing, Trust
from meshagent.store.base import Put

BUNDLE = "bundle"
Values = Mapping[str, bytes]


class Proof:
    """Judges records by their signatures and the newest manifest. Without trusted keys nothing has to be proven."""

    def __init__(self, keys: Keys, trust: Trust) -> None:
        self._keys = keys
        self._trust = trust
        self._index: Mapping[str, int] = {}
        self._revision = 0

    def manifest(self, manifest: Manifest) -> None:
        """Raise UnreadableRecord unless a trusted key signed it."""
        self._trust.check(self._keys.manifest, manifest)

    def follow(self, manifest: Manifest) -> set[str]:
        """Judge by this manifest from now on; gives the buckets (and BUNDLE) that it says have changed."""
        before, self._index, self._revision = self._index, manifest.index, manifest.revision
        return {each for each, at in self._index.items() if before.get(each) != at} if self._trust else set()

    def document(self, key: str, revised: Revised | None, values: Values) -> None:
        """Raise UnreadableRecord unless this is signed and is the document's state now. None: that there is none."""
        if not self._trust:
            return
        if revised is not None:
            self._trust.check(key, revised)
        held = revised.revision if revised else 0
        newest = self._index.get(bucket_of(self._keys.name(key)), 0)
        if held == newest:
            return  # the newest of its bucket; or nothing, where nothing ever was
        bucket = self.bucket(self._keys.index_of(key), newest, values)
        wanted = bucket.names.get(self._keys.name(key), 0) if bucket else 0
        if held != wanted:
            raise UnreadableRecord(
                f"is of revision {held}, but the signed index names revision {wanted}"
                if held
                else f"is hidden: the signed index names it, in revision {wanted}"
            )

    def bundle(self, record: BundleRecord) -> None:
        """Raise UnreadableRecord unless it is signed and is the trust bundle that the manifest names."""
        if not self._trust:
            return
        self._trust.check(self._keys.bundle, record)
        if record.signed_at != self._index.get(BUNDLE, 0):
            raise UnreadableRecord(
                f"is of revision {record.signed_at}, but the signed manifest names revision {self._index.get(BUNDLE, 0)}"
            )

    def bucket(self, key: str, newest: int, values: Values) -> Indexed | None:
        """One bucket of the index, which must be of the revision that the manifest names; None for 0: there is none."""
        if newest == 0:
            return None
        if key not in values:
            raise UnreadableRecord(f"cannot be proven: {key} is missing")
        try:
            found = decode(IndexRecord, values[key]).at(self._revision)
            if found is None or found.revision != newest:
                raise UnreadableRecord(f"is not the one of revision {newest} that the manifest names")
            self._trust.check(key, found)
        except UnreadableRecord as error:
            raise UnreadableRecord(f"cannot be proven: {key} {error}") from None
        return Indexed(revision=found.revision, names=found.names, signature=found.signature)

    def touched(self, interest: Interest, keys: Iterable[str], buckets: Iterable[str]) -> set[str]:
        """What has to be judged again when these keys changed, and what the manifest says of these buckets."""
        if not self._trust:
            return set()
        moved = {self._keys.index(each) for each in buckets} | {each for each in keys if self._keys.parse_index(each)}
        found = {each for each in interest.documents(self._keys) if self._keys.index_of(each) in moved}
        return found | ({self._keys.bundle} if BUNDLE in buckets else set())

    def wanted(self, interest: Interest) -> set[str]:
        """All documents that have to be judged after a gap, whether the store shows them or not."""
        return set(interest.documents(self._keys)) if self._trust else set()

    def hidden(self, values: Values) -> Mapping[str, str]:
        """Of a store that was read whole: the documents that the index names and the store does not show, and why."""
        problems: dict[str, str] = {}
        for bucket, newest in self._index.items() if self._trust else ():
            if bucket == BUNDLE:
                continue
            key = self._keys.index(bucket)
            try:
                found = self.bucket(key, newest, values)
            except UnreadableRecord as error:
                problems[key] = str(error)
                continue
            missing = (self._keys.config + name for name in (found.names if found else ()))
            problems |= {each: "is hidden: the signed index names it" for each in missing if each not in values}
        return problems


def index_puts(keys: Keys, changed: Iterable[str], now: Manifest | None, values: Values, signing: Signing) -> list[Put]:
    """The writes that put changed documents into the index at the next revision; none where policy is not signed.

    `values` has the buckets as the store has them at `now` (None: of a new mesh). Raises UnreadableRecord for one that
    cannot be believed: what is added to it would be signed with it.
    """
    if signing.signer is None:
        return []
    proof, revision = Proof(keys, signing.trust), now.revision + 1 if now else 1
    if now:
        proof.follow(now)
    new: dict[str, dict[str, int]] = {}
    for key in changed:
        new.setdefault(keys.index_of(key), {})[keys.name(key)] = revision
    puts = []
    for key, names in sorted(new.items()):
        held = proof.bucket(key, now.index.get(keys.parse_index(key), 0) if now else 0, values)
        record = IndexRecord(revision=revision, names={**(held.names if held else {}), **names}, replaces=held)
        puts.append(Put(key, encode(signing.sign(key, record))))
    return puts


def next_index(keys: Keys, now: Mapping[str, int], puts: Iterable[Put], revision: int) -> dict[str, int]:
    """What the manifest says of the index after these writes."""
    moved = {BUNDLE if put.key == keys.bundle else keys.parse_index(put.key) for put in puts}
    return {**now, **{each: revision for each in moved if each}}
