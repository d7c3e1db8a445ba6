"""The mesh as its store holds it now, for commands that ask and change it."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from meshagent.catalog.base import Catalog
from meshagent.model.external import External
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.kinds import Document
from meshagent.model.mesh import Mesh
from meshagent.model.names import Protocol
from meshagent.model.rollout import Rollout
from meshagent.model.route import Route
from meshagent.model.service import Instance, Service
from meshagent.model.view import Guard
from meshagent.model.world import Stated, World
from meshagent.policy.precedence import guard
from meshagent.policy.resolve import judged_protocol
from meshagent.state.catalog import instances_of
from meshagent.state.changes import Author, Documents, read_documents
from meshagent.state.keys import Keys
from meshagent.state.progress import Told, read_progress
from meshagent.state.signing import UNSIGNED, Signing
from meshagent.store.base import Store


@dataclass(frozen=True, slots=True)
class OpenMesh:
    """A store that is open, its catalog, `where` they are, as it may be printed, and how the policy is signed."""

    store: Store
    catalog: Catalog
    keys: Keys
    where: str
    signing: Signing = UNSIGNED

    async def read(self) -> Seen:
        """Everything that commands decide from. Raises NotFound without a mesh, StoreUnavailable, StoreDenied."""
        revision, documents, problems = await read_documents(self.store, self.keys, self.signing.trust)
        rolled = await read_progress(self.store, self.keys, [name for kind, name in documents if kind == "rollout"])
        return Seen(revision, documents, self._by_name(problems), await self.instances(), rolled)

    async def instances(self) -> tuple[Instance, ...]:
        """What the catalog holds. Raises StoreUnavailable, StoreDenied."""
        return instances_of(await self.catalog.read())

    def _by_name(self, problems: Mapping[str, str]) -> dict[tuple[str, str], str]:
        named = ((self.keys.parse_document(key), problem) for key, problem in problems.items())
        return {name: problem for name, problem in named if name}


@dataclass(frozen=True, slots=True)
class Seen:
    """The policy at one revision, and the catalog. `problems` says which documents cannot be read.

    `rolled`: what hosts told of the rollouts, by service.
    """

    revision: int
    documents: Documents
    problems: Mapping[tuple[str, str], str]
    instances: tuple[Instance, ...]
    rolled: Mapping[str, Told] = field(default_factory=dict)

    def world(self) -> World:
        """As agents make it; a broken intention record is the closed stand-in of an agent without an older version."""
        intentions: dict[str, Stated[Intention]] = {}
        services: dict[str, Stated[Service]] = {}
        routes: dict[str, Stated[Route]] = {}
        externals: dict[str, Stated[External]] = {}
        rollouts: dict[str, Stated[Rollout]] = {}
        mesh = Mesh()
        for (_, name), stated in self.documents.items():
            match stated.thing:
                case Intention() as intention:
                    intentions[name] = Stated(intention, stated.origins)
                case Service() as service:
                    services[name] = Stated(service, stated.origins)
                case Route() as route:
                    routes[name] = Stated(route, stated.origins)
                case External() as external:
                    externals[name] = Stated(external, stated.origins)
                case Rollout() as rollout:
                    rollouts[name] = Stated(rollout, stated.origins)
                case Mesh() as found:
                    mesh = found
        for (kind, name), problem in self.problems.items():
            if kind == "intention":
                intentions[name] = Stated(_closed(name), {}, problem)
        return World(
            self.revision,
            mesh,
            intentions,
            services,
            self.by_service(),
            routes=routes,
            externals=externals,
            rollouts=rollouts,
            progress={name: told.progress for name, told in self.rolled.items() if told.progress},
        )

    def guard(self, destination: str, now: datetime) -> Guard:
        """The rules in force for a destination."""
        world = self.world()
        return guard(destination, judged_protocol(world, destination), world.mesh, world.intentions, now)

    def by_service(self) -> dict[str, tuple[Instance, ...]]:
        """The instances of each service."""
        found: dict[str, list[Instance]] = {}
        for instance in self.instances:
            found.setdefault(instance.service, []).append(instance)
        return {service: tuple(instances) for service, instances in found.items()}

    @property
    def services(self) -> frozenset[str]:
        """The services that are known: registered, or with a document; the names outside the mesh, and gateways."""
        registered = {instance.service for instance in self.instances}
        return frozenset(
            registered | {name for kind, name in self.documents if kind in ("service", "external", "gateway")}
        )

    def protocols(self, service: str) -> frozenset[Protocol]:
        """What a service speaks: as its document says, else as its instances do; empty when nobody knows."""
        stated = self.documents.get(("external", service)) or self.documents.get(("service", service))
        return spoken(stated.thing if stated else None, self.instances, service)


def spoken(document: Document | None, instances: tuple[Instance, ...], service: str) -> frozenset[Protocol]:
    """The protocols of a service under this document of it."""
    if isinstance(document, Service | External) and document.protocol:
        return frozenset({document.protocol})
    return frozenset(instance.protocol for instance in instances if instance.service == service)


def author(now: datetime, why: str = "") -> Author:
    """Who sits at this machine: user@host."""
    return Author(f"{_user()}@{platform.node()}", now, why)


def now_utc() -> datetime:
    """The time, to the second: nobody reads more of it."""
    return datetime.now(UTC).replace(microsecond=0)


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def _closed(name: str) -> Intention:
    return Intention(name=name, sources=(IntentionSource(name="*", action="deny", reason="the record cannot be read"),))
