"""The catalog on a store with leases: instances come with their host's lease and go with it."""

from __future__ import annotations

from collections.abc import Iterable

from meshagent.model.service import Instance
from meshagent.state.keys import Keys
from meshagent.state.records import InstanceRecord, ReportRecord, UnreadableRecord, decode, encode
from meshagent.store.base import Delete, Operation, Put, Store


def put_instance(keys: Keys, instance: Instance, lease: str | None) -> Put:
    """The write that registers an instance."""
    record = InstanceRecord.model_validate(instance.model_dump())
    return Put(keys.instance(instance.service, instance.host, instance.id), encode(record), lease)


def delete_instance(keys: Keys, service: str, host: str, instance_id: str) -> Delete:
    """The write that deregisters an instance."""
    return Delete(keys.instance(service, host, instance_id))


def put_report(keys: Keys, report: ReportRecord, lease: str) -> Put:
    """The write of a host's report."""
    return Put(keys.report(report.host), encode(report), lease)


async def commit_all(store: Store, operations: Iterable[Operation]) -> None:
    """Commit independent writes, in as few transactions as the store allows."""
    every = list(operations)
    for start in range(0, len(every), store.max_operations):
        await store.commit(every[start : start + store.max_operations])


async def read_instances(store: Store, keys: Keys, service: str | None = None) -> tuple[Instance, ...]:
    """The registered instances, of one service or of all, sorted by service, host and id. Unreadable ones are left out."""
    snapshot = await store.read(keys.instances_of(service) if service else keys.instances)
    found: list[Instance] = []
    for key, entry in sorted(snapshot.entries.items()):
        name = keys.parse_instance(key)
        try:
            record = decode(InstanceRecord, entry.value)
        except UnreadableRecord:
            continue
        if name == (record.service, record.host, record.id):
            found.append(Instance.model_validate(record.model_dump(exclude={"v"})))
    return tuple(found)


async def read_reports(store: Store, keys: Keys) -> tuple[ReportRecord, ...]:
    """The reports of the hosts that live, sorted by host. Unreadable ones are left out."""
    snapshot = await store.read(keys.reports)
    found: list[ReportRecord] = []
    for _, entry in sorted(snapshot.entries.items()):
        try:
            found.append(decode(ReportRecord, entry.value))
        except UnreadableRecord:
            continue
    return tuple(found)
