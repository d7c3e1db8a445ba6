"""What a client should hold: every resource by type and name, with the version that its bytes have.

No I/O. One writer calls `update`; streams are told which keys moved and read the rest from here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from envoy.service.discovery.v3 import discovery_pb2 as discovery

Key = tuple[str, str]  # type URL, name
Resource = bytes  # a serialised message; deterministic, since the version is a hash of it
Watcher = Callable[[Collection[Key]], None]

_VERSION_BYTES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource. `frame` is a DeltaDiscoveryResponse that holds only this resource, serialised.

    Serialised protobuf messages that are joined are merged, so a response is the join of its frames and a tail.
    """

    version: str
    frame: bytes


class Cache:
    """The resources that every client of this server gets. `generation` counts the changes, from 1."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Entry]] = {}
        self._watchers: list[Watcher] = []
        self._generation = 0

    @property
    def generation(self) -> int:
        """The number of the last change; 0 before the first `update`."""
        return self._generation

    @property
    def ready(self) -> bool:
        """Whether there has been a first `update`.

        Nothing may be answered before it: a client that reconnects takes the first answer for the whole truth and
        would delete what it still serves.
        """
        return self._generation > 0

    def update(self, changed: Mapping[Key, Resource], removed: Collection[Key] = ()) -> int:
        """Puts and removes resources, and returns the generation that has them.

        The first call must bring the first complete snapshot, and counts even when it is empty. Later, a call that
        changes no byte leaves the generation as it is. A key that is both changed and removed is changed.
        """
        moved = [key for key, value in changed.items() if self._put(key, value)]
        moved += [key for key in removed if key not in changed and self._drop(key)]
        if moved or not self.ready:
            self._generation += 1
            for watcher in tuple(self._watchers):
                watcher(moved)
        return self._generation

    def entry(self, type_url: str, name: str) -> Entry | None:
        """The resource, or None when there is none of that type and name."""
        return self._entries.get(type_url, {}).get(name)

    def names(self, type_url: str) -> Collection[str]:
        """The names of all resources of the type, live: do not change the cache while going through them."""
        return self._entries.get(type_url, {}).keys()

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Has `watcher` called with the moved keys after each change, and returns what ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def _put(self, key: Key, value: Resource) -> bool:
        type_url, name = key
        version = blake2b(value, digest_size=_VERSION_BYTES).hexdigest()
        entries = self._entries.setdefault(type_url, {})
        if (held := entries.get(name)) and held.version == version:
            return False
        entries[name] = Entry(version, _frame(type_url, name, version, value))
        return True

    def _drop(self, key: Key) -> bool:
        type_url, name = key
        return self._entries.get(type_url, {}).pop(name, None) is not None


def _frame(type_url: str, name: str, version: str, value: Resource) -> bytes:
    response = discovery.DeltaDiscoveryResponse()
    resource = response.resources.add(name=name, version=version)
    resource.resource.type_url = type_url
    resource.resource.value = value
    return response.SerializeToString(deterministic=True)
