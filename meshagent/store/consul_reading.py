"""Reads Consul's key-value store at one moment, and never takes what a token may not see for what is not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.store.base import Entry, Scope, Snapshot
from meshagent.store.consul_following import folder_of, folder_query, only
from meshagent.store.consul_kv import (
    PROBE,
    Form,
    Revisions,
    checked_of,
    checks_of,
    denied,
    entries_of,
    failed_of,
    found_of,
    gone_of,
    probes_of,
    readings_of,
    require_readable,
    revisions_of,
    rounds_of,
)
from meshagent.wire.consul import Answer, Consul, key_path

_ATTEMPTS = 50
_OK = 200
_ABSENT = 404
_ROLLED_BACK = 409
_TOO_LARGE = 413
# A check that meets other writes is made again so often; then everything is read.
_CHECKS = 4


@dataclass(frozen=True, slots=True)
class Checked:
    """The content that a check met: all revisions, and the entries that were read on the way."""

    revisions: Revisions
    entries: Mapping[str, Entry]


class Reading:
    """Consistent reads through one client."""

    def __init__(self, consul: Consul) -> None:
        self._consul = consul

    async def read(self, scope: Scope) -> Snapshot:
        """All of the scope, and a revision up to which nothing is missing. Raises StoreDenied for what may not be read.

        A key that is found may be read. What is not there, and what lies in a tree, may have been hidden.
        """
        if (name := only(scope)) is None:
            snapshot = await self.collect(scope, frozenset())
        else:
            params = {"recurse": ""} if name in scope.trees else {}
            snapshot = content_of(await self._consul.get(key_path(name), params), scope)
        await self.require(Scope(scope.keys - snapshot.entries.keys(), scope.trees))
        return snapshot

    async def collect(self, scope: Scope, there: AbstractSet[str], floor: int | None = None) -> Snapshot:
        """As `read`, by transactions, but blind for rights; `there` guesses which of the scope's keys exist.

        `floor` is a revision that was reached before, such as an answer's index; without one it is asked for. What one
        transaction cannot hold was all there at once if nothing was written meanwhile, or if two passes in a row saw
        the same. The revision is exact unless a key that nobody saw went in the moment of reading.
        """
        sure = floor is None
        floor = await self.newest(scope) if floor is None else floor
        held: dict[str, Entry] | None = None
        for _ in range(_ATTEMPTS):
            rounds = rounds_of(readings_of(scope, there))
            if sure and len(rounds) <= 1:  # whole by itself, and newer than the floor
                (found, gone), newest = await self._pass(rounds, scope), floor
            else:
                (found, gone), newest = await self._pass_and_newest(rounds, scope)
            if gone:
                there = there - gone
                continue
            revision = max(floor, *(entry.revision for entry in found.values()), 0)
            same = held is not None and revisions_of(held) == revisions_of(found)
            if (len(rounds) <= 1 or newest <= floor or same) and (sure or newest <= revision):
                return Snapshot(found, revision)
            held, there, floor, sure = found, found.keys(), newest, True
        raise StoreUnavailable("Consul's keys change faster than they can be read together.", next_step="Try again.")

    async def check(
        self, scope: Scope, held: Revisions, asked: AbstractSet[str], folders: Mapping[str, int]
    ) -> Checked | None:
        """Compare a content that was expected with Consul's, without reading it again; the keys `asked` for are read.

        `folders` are known to have last moved at an index: where that still holds, so does all that is in them. None
        when something is gone that was expected, or when it does not settle. Several calls show one moment when nothing
        in them differs from what was known before the first. Raises StoreDenied; StoreUnavailable also where Consul shows
        less than it has told already, as a leader does that lost its office.
        """
        entries: dict[str, Entry] = {}
        for _ in range(_CHECKS):
            sure = frozenset(key for key in scope.keys if folder_of(key) in folders)
            forms = checks_of(scope, held, asked, sure)
            rounds = rounds_of(forms)
            answers, stirred = await self._asked(rounds, folders)
            failed = [failed_of(*each) for each in zip(rounds, answers, strict=True)]
            if any(gone for gone, _ in failed):
                return None
            checked = checked_of(forms) | (sure & held.keys())
            results = (result["KV"] for answer in answers for result in answer.get("Results") or ())
            found = {key: entry for key, entry in entries_of(results, scope).items() if key not in checked}
            if any(entry.revision < held.get(key, 0) for key, entry in found.items()):
                raise StoreUnavailable("Consul answers with an older state.", next_step="Nothing: it is asked again.")
            now = {key: held[key] for key in checked} | revisions_of(found)
            moved = frozenset[str]().union(*(each for _, each in failed))
            if not moved and not held.keys() <= now.keys():
                return None
            entries |= found
            if not moved and not stirred and (len(rounds) + len(folders) <= 1 or now == held):
                return Checked(now, entries)
            held, asked = {**held, **revisions_of(found)}, asked | moved
            folders = {folder: index for folder, index in folders.items() if folder not in stirred}
        return None

    async def _asked(
        self, rounds: Sequence[Sequence[Form]], folders: Mapping[str, int]
    ) -> tuple[Sequence[Mapping[str, Any]], AbstractSet[str]]:
        """What transactions answer, and which of the folders are not at their index any more."""
        if len(rounds) == 1 and not folders:
            # A task for the only one would let others go first.
            return [await self.transaction(rounds[0])], frozenset()
        answers, listings = await asyncio.gather(
            asyncio.gather(*map(self.transaction, rounds)),
            asyncio.gather(*(self._consul.get(*folder_query(folder)) for folder in folders)),
        )
        pairs = zip(folders.items(), listings, strict=True)
        return answers, {folder for (folder, index), listed in pairs if listed.index != index}

    async def newest(self, scope: Scope) -> int:
        """The revision of the last write to any key at all: the index of a list of what is nowhere."""
        near = next(iter(sorted(scope.trees) + sorted(scope.keys)), "")
        return (await self._consul.get(key_path(near + PROBE), {"keys": ""})).index

    async def require(self, scope: Scope) -> None:
        """Raise StoreDenied for a key or tree of the scope that may not be read."""
        for probes in rounds_of(probes_of(scope)):
            require_readable(probes, await self.transaction(probes))

    async def transaction(self, forms: Sequence[Form], *, writes: bool = False) -> Mapping[str, Any]:
        """What came of a transaction: `Results`, or `Errors` when it was rolled back. Raises StoreDenied, StoreUnavailable."""
        answer = await self._consul.put("/v1/txn", body=forms, harmless=not writes)
        if answer.status == _TOO_LARGE:
            raise StoreDenied(
                f"The commit is too large for Consul: {answer.body.decode(errors='replace')}",
                next_step="Split the change.",
            )
        if answer.status not in (_OK, _ROLLED_BACK):
            raise StoreUnavailable(
                f"Consul answers {answer.status} to a transaction.",
                next_step="See Consul's log, and what stands before it.",
            )
        said = answer.json()
        return said if isinstance(said, dict) else {}

    async def _pass_and_newest(
        self, rounds: Sequence[Sequence[Form]], scope: Scope
    ) -> tuple[tuple[dict[str, Entry], frozenset[str]], int]:
        """A pass, and the newest revision: at the same time for one transaction, which is whole, else afterwards."""
        if len(rounds) <= 1:
            return await asyncio.gather(self._pass(rounds, scope), self.newest(scope))
        return await self._pass(rounds, scope), await self.newest(scope)

    async def _pass(self, rounds: Sequence[Sequence[Form]], scope: Scope) -> tuple[dict[str, Entry], frozenset[str]]:
        """What the rounds found, and the keys that they were sure of and that are gone."""
        found: dict[str, Entry] = {}
        gone: frozenset[str] = frozenset()
        answers = await asyncio.gather(*(self.transaction(forms) for forms in rounds))
        for forms, answer in zip(rounds, answers, strict=True):
            if answer.get("Errors"):
                gone |= gone_of(forms, answer)
            else:
                found |= found_of(forms, answer, scope)
        return found, gone


def content_of(answer: Answer, scope: Scope) -> Snapshot:
    """What a call for the scope's only key or tree found. Raises StoreDenied when Consul says that it left something out."""
    if answer.filtered:
        raise denied(next(iter(scope.trees or scope.keys)), "read")
    if answer.status == _ABSENT:
        return Snapshot({}, answer.index)
    if answer.status != _OK:
        said = json.dumps(answer.body.decode(errors="replace"))
        raise StoreUnavailable(f"Consul answers {answer.status} to a read: {said}", next_step="See Consul's log.")
    return Snapshot(entries_of(answer.json(), scope), answer.index)
