"""What hosts write of rollouts: how far one has come, and what became of requests on each host since the last word on it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import Field

from meshagent.model.names import Model, ServiceName
from meshagent.model.rollout import Counts, Progress
from meshagent.state.keys import Keys
from meshagent.state.records import UnreadableRecord, Version, decode, encode
from meshagent.store.base import Changes, Expect, Operation, Put, Store

_MAX_SUBSETS = 64


class ProgressRecord(Progress):
    """How far a rollout has come."""

    v: Version = 1


class MeasuredRecord(Model):
    """What one host counted since the turn began, by subset; and of which subsets it has an instance in service."""

    v: Version = 1
    run: str = Field(max_length=256)
    turn: int = Field(ge=0)  # 0: before the first word
    serving: list[ServiceName] = Field(default=[], max_length=_MAX_SUBSETS)
    counts: dict[ServiceName, Counts] = Field(default={}, max_length=_MAX_SUBSETS)


@dataclass(frozen=True, slots=True)
class Told:
    """What the store says of one service's rollout. `revision`: in which its progress was last written (0: never)."""

    progress: Progress | None = None
    revision: int = 0
    measured: Mapping[str, MeasuredRecord] = field(default_factory=dict)  # by host

    def of(self, run: str, turn: int) -> tuple[MeasuredRecord, ...]:
        """What hosts counted in one turn of one rollout."""
        return tuple(each for each in self.measured.values() if (each.run, each.turn) == (run, turn))


def sums_of(records: Iterable[MeasuredRecord]) -> dict[str, Counts]:
    """All that was counted, by subset."""
    found: dict[str, Counts] = {}
    for record in records:
        for subset, counts in record.counts.items():
            found[subset] = found.get(subset, Counts()).plus(counts)
    return found


def serving_of(records: Iterable[MeasuredRecord]) -> frozenset[str]:
    """The subsets that have an instance in service."""
    return frozenset(subset for record in records for subset in record.serving)


class ProgressShelf:
    """Adds store changes up to what is told of each rollout. Pure. What cannot be read is as if it were not there."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._progress: dict[str, tuple[Progress | None, int]] = {}
        self._measured: dict[str, dict[str, MeasuredRecord]] = {}
        self.problems: dict[str, str] = {}

    def add(self, changes: Changes) -> None:
        """Take in changes."""
        if changes.full:
            self._progress, self._measured, self.problems = {}, {}, {}
        for key in changes.deleted:
            self._take(key, None, 0)
        for entry in changes.entries:
            self._take(entry.key, entry.value, entry.revision)

    def told(self, service: str) -> Told:
        """What is told of one."""
        progress, revision = self._progress.get(service, (None, 0))
        return Told(progress, revision, dict(self._measured.get(service, {})))

    def _take(self, key: str, value: bytes | None, revision: int) -> None:
        place = self._keys.parse_rollout(key)
        if place is None:
            return
        service, host = place
        self.problems.pop(key, None)
        try:
            if host:
                self._measured.setdefault(service, {}).pop(host, None)
                if value is not None:
                    self._measured[service][host] = decode(MeasuredRecord, value)
            else:
                self._progress[service] = (None, revision)
                if value is not None:
                    record = decode(ProgressRecord, value)
                    self._progress[service] = (Progress.model_validate(record.model_dump(exclude={"v"})), revision)
        except UnreadableRecord as error:
            self.problems[key] = f"{error}: it is as if it were not there"


def put_progress(keys: Keys, service: str, progress: Progress, revision: int) -> tuple[Operation, ...]:
    """The write of the next word on a rollout, which fails where somebody wrote one since `revision` of the store."""
    key = keys.progress(service)
    return Expect(key, revision), Put(key, encode(ProgressRecord.model_validate(progress.model_dump())))


def put_measured(keys: Keys, service: str, host: str, record: MeasuredRecord, lease: str) -> Put:
    """The write of what a host has measured."""
    return Put(keys.measured(service, host), encode(record), lease)


async def read_progress(store: Store, keys: Keys, services: Collection[str]) -> dict[str, Told]:
    """What the store says of the rollouts of these services now. Raises StoreUnavailable, StoreDenied."""
    if not services:
        return {}
    snapshot = await store.read(*(keys.rollout(name) for name in services))
    shelf = ProgressShelf(keys)
    shelf.add(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))
    return {name: shelf.told(name) for name in services}
