"""Reads of etcd at one revision: as transactions of ranges, in pages where a range is large."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.store.base import Scope, Snapshot
from meshagent.store.etcd_kv import MAX_OPERATIONS, Content, entries_of, ranges_of, reading_of
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.etcd import Etcd
from meshagent.wire.etcd_calls import RANGE, READ, Behind
from meshagent.wire.etcd_watch import Range

# Keys of one range in one answer. A value is at most 1.4 MiB and seldom more than 1 KiB.
PAGE = 5000
_ATTEMPTS = 5


class Reading:
    """Consistent reads through one client."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd

    async def read(self, scope: Scope) -> Snapshot:
        """All of the scope. Raises StoreDenied that names what may not be read."""
        content = await self.newest(scope)
        return Snapshot(entries_of(content, scope), content.revision)

    async def newest(self, scope: Scope, *, since: int = 0) -> Content:
        """All of the scope, or what of it was written at `since` or later. Raises StoreDenied, StoreUnavailable."""
        for _ in range(_ATTEMPTS):
            try:
                return await self._content(scope, since=since)
            except Behind:
                continue  # compacted between two of its parts
        raise StoreUnavailable("etcd is compacted faster than it can be read.", next_step="Compact it less often.")

    async def news(self, scope: Scope, *, since: int, revision: int) -> Content:
        """What of the scope was written at `since` or later, as of `revision`, which this member has told of.

        The member alone is asked, which saves it the question to its leader. Raises as `newest`.
        """
        try:
            return await self._content(scope, since=since, revision=revision, local=True)
        except Behind:
            return await self.newest(scope, since=since)

    async def keys(self, scope: Scope, revision: int) -> Content | None:
        """The keys that were there at the revision, without values; None when etcd does not know it (any more)."""
        if revision <= 0:
            ranges = ranges_of(scope)
            return Content(0, ((),) * len(ranges), (0,) * len(ranges))
        try:
            return await self._content(scope, revision=revision, keys_only=True)
        except Behind:
            return None

    async def check(self, asks: Sequence[pb.TxnRequest]) -> tuple[int, list[pb.KeyValue]] | None:
        """The revision at which all that the transactions expect held, and what they read; None when it did not.

        The member alone is asked: whether its revision is new enough is the caller's to judge.
        """
        answers = await asyncio.gather(*(self._etcd.call(READ, ask) for ask in asks))
        revisions = {answer.header.revision for answer in answers}
        if len(revisions) != 1 or not all(answer.succeeded for answer in answers):
            return None
        return revisions.pop(), [
            kv for answer in answers for each in answer.responses for kv in each.response_range.kvs
        ]

    async def _content(
        self, scope: Scope, *, revision: int = 0, since: int = 0, keys_only: bool = False, local: bool = False
    ) -> Content:
        """The ranges of a scope at one revision. Raises Behind when it is compacted or still to come."""
        ranges = ranges_of(scope)
        parts = [ranges[start : start + MAX_OPERATIONS] for start in range(0, len(ranges), MAX_OPERATIONS)] or [ranges]
        limit = 0 if since else PAGE

        async def ask(part: Sequence[Range]) -> tuple[int, list[tuple[tuple[pb.KeyValue, ...], int]]]:
            wanted = reading_of(part, revision=revision, since=since, keys_only=keys_only, limit=limit, local=local)
            answer = await self._allowed(wanted, part)
            at = revision or answer.header.revision
            pages = [said.response_range for said in answer.responses]
            rest = [
                await self._rest(each, page, at, keys_only=keys_only) for each, page in zip(part, pages, strict=True)
            ]
            return at, [((*page.kvs, *more), page.count) for page, more in zip(pages, rest, strict=True)]

        found: list[tuple[tuple[pb.KeyValue, ...], int]] = []
        if not revision:
            # The first part says which revision it is that the others have to be of.
            revision, found = await ask(parts.pop(0))
        for _, more in await asyncio.gather(*(ask(part) for part in parts)):
            found += more
        return Content(revision, tuple(kvs for kvs, _ in found), tuple(count for _, count in found))

    async def _rest(self, each: Range, page: pb.RangeResponse, revision: int, *, keys_only: bool) -> list[pb.KeyValue]:
        """What comes after the first page of a range."""
        kvs: list[pb.KeyValue] = []
        while page.more:
            following = Range(page.kvs[-1].key + b"\0", each.end)
            page = await self._etcd.call(
                RANGE,
                pb.RangeRequest(
                    key=following.key, range_end=following.end, revision=revision, keys_only=keys_only, limit=PAGE
                ),
            )
            kvs += page.kvs
        return kvs

    async def _allowed(self, ask: pb.TxnRequest, ranges: Sequence[Range]) -> pb.TxnResponse:
        """The answer. Raises StoreDenied with the names of what may not be read: etcd does not tell them."""
        try:
            return await self._etcd.call(READ, ask)
        except StoreDenied as error:
            if "permission denied" not in error.message:
                raise
        refused = [each for each in ranges if not await self._readable(each)]
        raise denied(refused or ranges)

    async def _readable(self, each: Range) -> bool:
        try:
            await self._etcd.call(RANGE, pb.RangeRequest(key=each.key, range_end=each.end, limit=1, keys_only=True))
        except StoreDenied:
            return False
        return True


def denied(ranges: Sequence[Range]) -> StoreDenied:
    """The error for want of the right to read these."""
    names = [each.key.decode(errors="replace") if each.key != b"\0" else "" for each in ranges]
    first = ranges[0]
    below = "--prefix " if first.end else ""
    shown = ", ".join(name or "every key" for name in names)
    return StoreDenied(
        f"The user may not read {shown}.",
        next_step=f'Grant its role the right: etcdctl role grant-permission {below}ROLE read "{names[0]}"',
    )
