"""The catalog protocol: which instances there are, whatever keeps them.

A host registers what it offers and says that it lives; callers list and watch. Both are level-triggered: a listing is
always all of a service, and what is registered twice is registered once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meshagent.model.service import Instance, ServiceDefinition


@dataclass(frozen=True, slots=True)
class Offer:
    """An instance as its host offers it: what callers need of it, and the definition behind it, for who looks on."""

    instance: Instance
    definition: ServiceDefinition


@dataclass(frozen=True, slots=True)
class Listing:
    """All instances of one service, sorted by host and id. `problems` says, by place, what of it cannot be used."""

    service: str
    instances: tuple[Instance, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


class Catalog(Protocol):
    """What every catalog offers. All raise StoreUnavailable and StoreDenied."""

    async def register(self, offers: Sequence[Offer], lease: str) -> None:
        """Register or change these. `lease` is the host's lease in the store; a catalog in the store binds them to it.

        Raises LeaseLost when that has ended.
        """

    async def deregister(self, instances: Sequence[Instance]) -> None:
        """Take these out; nothing happens for one that is not there."""

    async def renew(self, instances: Sequence[Instance]) -> None:
        """Say that these live, where the host's lease does not say it. Raises LeaseLost for one that was forgotten."""

    async def read(self, service: str = "") -> tuple[Listing, ...]:
        """What is registered, of one service or of all, sorted by service."""

    def watch(self, services: Collection[str]) -> AsyncGenerator[Listing, None]:
        """The listing of each of the services, and again each time that it changes, for ever.

        Ends when the catalog is closed. Raises StoreUnavailable only when it cannot go on by itself.
        """

    async def close(self) -> None:
        """Let go of connections and end the watches. Nothing is deregistered."""
