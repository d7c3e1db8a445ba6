"""Watches of etcd that go on by themselves: over dead and frozen members, ended tokens and lost leaders.

A watch resumes after the last revision that its reader has told, never after a header's: for a watcher that is catching
up, a header holds the newest revision of the store and not that of the events (a client that took it lost 3,000 of
4,001 events in silence, measured). Errors of a watcher are ordinary answers on a stream that stays open.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
import grpc.aio
from grpc import StatusCode

from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.etcd import Etcd, WatchCall
from meshagent.wire.etcd_calls import RANGE, Behind, Failure, failure_of

# A stream that tells nothing for this long, though it is asked each second, is given up, in seconds. It may take longer
# where there is no other member, and on a slow line, where it would never last.
SILENCE = 3.0
LONGEST_SILENCE = 12.0
_FADING = 0.95
_LONGEST_PAUSE = 2.0  # seconds; each try of each watch is 5 ms of the CPU while etcd is away


@dataclass(frozen=True, slots=True)
class Range:
    """The keys from `key` up to `end`; with an empty `end` the one key, with `\\0` all from `key` on."""

    key: bytes
    end: bytes = b""


def pause_of(attempt: int, chance: float) -> float:
    """Seconds to wait after the failure number `attempt` (from 0); `chance` is 0 to 1 and spreads clients out."""
    return 0.02 + min(_LONGEST_PAUSE, 0.05 * float(1 << min(attempt, 10))) * chance


def patience_after(patience: float, gap: float, members: int) -> float:
    """How long a stream may be silent, in seconds, after an answer that came `gap` seconds after the one before it.

    `patience`: how long it might before. `members`: how many can be asked.
    """
    if members == 1:
        return LONGEST_SILENCE
    return min(LONGEST_SILENCE, max(SILENCE, 3 * gap, patience * _FADING))


def canceled(answer: pb.WatchResponse, member: str) -> Failure | Behind:
    """Why etcd ended a watcher.

    A token that has ended is said with `invalid auth token` by 3.4, and with nothing but `permission denied` by 3.5.
    """
    if answer.compact_revision:
        return Behind(f"compacted up to {answer.compact_revision}")
    said = answer.cancel_reason
    if "permission denied" in said:
        denied = failure_of(StatusCode.PERMISSION_DENIED, said, member)
        return Failure(denied.error, token=True)
    return failure_of(StatusCode.UNAVAILABLE, said or "the watch was ended", member)


class Watch:
    """Events of several ranges, from the revision `position` on.

    The reader moves `position` to where everything is told; from there the watch goes on after an outage.
    """

    def __init__(self, etcd: Etcd, ranges: Sequence[Range], *, after: int) -> None:
        self.position = after
        self._etcd = etcd
        self._ranges = tuple(ranges)
        self._cluster = 0
        self._attempt = 0
        self._patience = patience_after(0.0, 0.0, len(etcd.address.members))
        self._refused = False

    async def run(self) -> AsyncGenerator[pb.WatchResponse | None]:
        """Answers with events, for ever; None when the place is lost: read everything and set `position`.

        An answer holds all events of its range and revisions. Those at `position` and, after an outage, those since it
        may come again. Ends when the client is closed. Raises StoreDenied.
        """
        while not self._etcd.closed:
            member, lost = self._etcd.member, False
            try:
                async with _Stream(self._etcd, self._ranges, self.position) as stream:
                    while True:
                        answer = await self._next(stream)
                        await self._check(stream, answer)
                        if answer.events:
                            yield answer
            except Behind:
                lost = True
            except StoreUnavailable as error:
                await self._recover(member, error)
            except _Refused as refusal:
                if self._refused:
                    raise refusal.error from None
                self._refused = True
                self._etcd.sign_out()
            if lost and not self._etcd.closed:
                self._cluster = 0
                yield None

    async def _next(self, stream: _Stream) -> pb.WatchResponse:
        """The stream's next answer; how long the one after it may take follows from how long this one took."""
        now = asyncio.get_running_loop().time
        began, silent = now(), True
        try:
            answer = await stream.next(self._patience)
            silent = False
        finally:
            if silent and now() - began >= self._patience:
                self._patience = min(LONGEST_SILENCE, 2 * self._patience)
        self._patience = patience_after(self._patience, now() - began, len(self._etcd.address.members))
        return answer

    async def _check(self, stream: _Stream, answer: pb.WatchResponse) -> None:
        """Raise Behind when the store is not the one, or is older than the one, in which the position was reached."""
        if stream.complete:
            self._attempt, self._refused = 0, False
            self._etcd.tell(lost="")
        if not answer.created:
            return
        self._cluster = self._cluster or answer.header.cluster_id
        if self._cluster != answer.header.cluster_id:
            raise Behind("another cluster")
        if answer.header.revision < self.position:
            # The member may lag: the cluster is asked.
            newest = await self._etcd.call(RANGE, pb.RangeRequest(key=self._ranges[0].key, count_only=True))
            if newest.header.revision < self.position:
                raise Behind(f"the newest revision is {newest.header.revision}")

    async def _recover(self, member: str, error: StoreUnavailable) -> None:
        """Turn to the next member, with a new token, after a pause."""
        etcd = self._etcd
        if etcd.closed:
            return
        etcd.tell(lost=str(error))
        etcd.leave(member)
        etcd.sign_out()
        await asyncio.wait({etcd.closing}, timeout=pause_of(self._attempt, random.random()))  # noqa: S311 - jitter
        self._attempt += 1


class _Refused(Exception):
    """etcd refuses the watch; perhaps for its token alone."""

    def __init__(self, error: StoreDenied) -> None:
        super().__init__(str(error))
        self.error = error


class _Stream:
    """One life of a watch."""

    def __init__(self, etcd: Etcd, ranges: Sequence[Range], position: int) -> None:
        self._etcd = etcd
        self._ranges = ranges
        # One revision is asked for again. A compaction at the next one takes its deletions away, and etcd (seen on
        # 3.4.23) refuses only what is older than it: a watch from there would miss them in silence.
        self._start = max(1, position)
        self._created = 0
        self._member = etcd.member
        self._opened = etcd.watching()
        self._asking: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[pb.WatchResponse] | None = None

    @property
    def complete(self) -> bool:
        """Whether etcd watches every range."""
        return self._created == len(self._ranges)

    async def __aenter__(self) -> Self:
        self._call = await self._opened.__aenter__()
        self._asking = asyncio.create_task(self._ask(self._call), name="etcd-watch-ask")
        self._asking.add_done_callback(_seen)
        return self

    async def __aexit__(self, *raised: object) -> None:
        for task in (self._asking, self._reading):
            if task:
                task.cancel()
        await self._opened.__aexit__(None, None, None)

    async def next(self, patience: float) -> pb.WatchResponse:
        """The next answer. Raises StoreUnavailable (also when none comes for `patience` seconds), Behind, _Refused."""
        call = self._call
        self._reading = asyncio.create_task(_read(call), name="etcd-watch-read")
        self._reading.add_done_callback(_seen)
        waiting: tuple[asyncio.Future[Any], ...] = (self._reading, self._etcd.closing)
        await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not self._reading.done():
            self._reading.cancel()
            raise _lost(self._member, "it is silent")
        try:
            answer = self._reading.result()
        except grpc.aio.AioRpcError as error:
            raise self._meaning(self._etcd.failure(error, self._member)) from None
        except asyncio.CancelledError:
            raise _lost(self._member, "its connection was closed") from None
        if answer.canceled or answer.compact_revision:
            raise self._meaning(canceled(answer, self._member))
        self._created += answer.created
        return answer

    def _meaning(self, failure: Failure | Behind) -> Exception:
        """What to raise for it."""
        if isinstance(failure, Behind):
            return failure
        return _Refused(failure.error) if isinstance(failure.error, StoreDenied) else failure.error

    async def _ask(self, call: WatchCall) -> None:
        """Ask for the ranges, then again and again for a sign of life."""
        for each in self._ranges:
            wanted = pb.WatchCreateRequest(key=each.key, range_end=each.end, start_revision=self._start)
            await call.write(pb.WatchRequest(create_request=wanted))
        while True:
            await asyncio.sleep(SILENCE / 3)
            await call.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))


async def _read(call: WatchCall) -> pb.WatchResponse:
    answer = await call.read()
    if isinstance(answer, pb.WatchResponse):
        return answer
    raise StoreUnavailable("etcd ended the watch.", next_step="See etcd's log.")


def _seen(task: asyncio.Task[Any]) -> None:
    """What a task of a stream met is known from the stream itself."""
    if not task.cancelled():
        task.exception()


def _lost(member: str, reason: str) -> StoreUnavailable:
    return StoreUnavailable(f"etcd at {member} is lost: {reason}.", next_step="Check that etcd runs.")
