"""The catalog on a store with leases: instances come with their host's lease and go with it. And the hosts' reports."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence

from meshagent.catalog.base import Listing, Offer
from meshagent.errors import LeaseLost
from meshagent.model.service import Instance
from meshagent.state.keys import Keys
from meshagent.state.records import InstanceRecord, ReportRecord, UnreadableRecord, decode, encode
from meshagent.store.base import Changes, Delete, Operation, Put, Store


class StoreCatalog:
    """A `Catalog` of records under `instances/`."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys

    async def register(self, offers: Sequence[Offer], lease: str) -> None:
        """As Catalog.register."""
        await commit_all(self._store, (put_instance(self._keys, offer.instance, lease) for offer in offers))

    async def deregister(self, instances: Sequence[Instance]) -> None:
        """As Catalog.deregister."""
        gone = (delete_instance(self._keys, each.service, each.host, each.id) for each in instances)
        await commit_all(self._store, gone)

    async def renew(self, instances: Sequence[Instance]) -> None:
        """Look whether all are still there: the host's lease says that they live, but not that nobody took them out."""
        wanted = {self._keys.instance(each.service, each.host, each.id) for each in instances}
        if wanted and (missing := wanted - (await self._store.read(*wanted)).entries.keys()):
            raise LeaseLost(f"{min(missing)} is gone from the store.", next_step="Make a new lease and register again.")

    async def read(self, service: str = "") -> tuple[Listing, ...]:
        """As Catalog.read."""
        keys = self._keys
        snapshot = await self._store.read(keys.instances_of(service) if service else keys.instances)
        shelf = Shelf(keys)
        shelf.add(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))
        return tuple(shelf.listing(name) for name in sorted({service} if service else shelf.services))

    async def watch(self, services: Collection[str]) -> AsyncGenerator[Listing, None]:
        """As Catalog.watch."""
        if not services:
            return
        prefixes = [self._keys.instances_of(name) for name in sorted(services)]
        snapshot = await self._store.read(*prefixes)
        shelf = Shelf(self._keys)
        shelf.add(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))
        for name in sorted(services):
            yield shelf.listing(name)
        async for changes in self._store.watch(prefixes, after=snapshot.revision):
            for name in sorted(shelf.add(changes) & set(services)):
                yield shelf.listing(name)

    async def close(self) -> None:
        """Nothing: the store is its opener's."""


class Shelf:
    """Adds store changes up to listings. Pure."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._found: dict[str, dict[str, Instance | str]] = {}  # by service and key: an instance, or what is wrong

    @property
    def services(self) -> frozenset[str]:
        """The services that have a record."""
        return frozenset(name for name, found in self._found.items() if found)

    def add(self, changes: Changes) -> set[str]:
        """Take in changes. Returns the services whose listing may differ now."""
        touched: set[str] = set()
        if changes.full:
            touched, self._found = set(self._found), {}
        for key in changes.deleted:
            if (name := self._keys.parse_instance(key)) and self._found.get(name[0], {}).pop(key, None) is not None:
                touched.add(name[0])
        for entry in changes.entries:
            if name := self._keys.parse_instance(entry.key):
                self._found.setdefault(name[0], {})[entry.key] = _read(name, entry.value)
                touched.add(name[0])
        return touched

    def listing(self, service: str) -> Listing:
        """All of a service."""
        found = sorted(self._found.get(service, {}).items())
        return Listing(
            service,
            tuple(each for _, each in found if isinstance(each, Instance)),
            {key: each for key, each in found if isinstance(each, str)},
        )


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


async def read_instances(store: Store, keys: Keys, service: str = "") -> tuple[Instance, ...]:
    """The instances that the store holds, of one service or of all, sorted. Unreadable ones are left out."""
    return instances_of(await StoreCatalog(store, keys).read(service))


def instances_of(listings: Iterable[Listing]) -> tuple[Instance, ...]:
    """The instances of several listings, one after the other."""
    return tuple(instance for listing in listings for instance in listing.instances)


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


def _read(name: tuple[str, str, str], value: bytes) -> Instance | str:
    """The instance that a record holds under its name, or why it is not called."""
    try:
        record = decode(InstanceRecord, value)
    except UnreadableRecord as error:
        return f"{error}: this instance is not called"
    if (record.service, record.host, record.id) != name:
        return "does not say what its key says: this instance is not called"
    return Instance.model_validate(record.model_dump(exclude={"v"}))
