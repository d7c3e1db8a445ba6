"""World: everything desired that one host needs to know, at one revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from meshagent.model.external import External
from meshagent.model.gateway import Gateway
from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Intention
from meshagent.model.mesh import Mesh
from meshagent.model.rollout import Progress, Rollout
from meshagent.model.route import Route
from meshagent.model.service import Instance, Service, ServiceDefinition
from meshagent.model.veto import NO_VETOES, Vetoes

Thing = TypeVar("Thing", covariant=True)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a piece of policy came from: a file and line, or who wrote it and when."""

    file: str = ""
    line: int = 0
    who: str = ""
    at: datetime | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else ""
        person = f"{self.who} at {self.at:%Y-%m-%dT%H:%M:%SZ}" if self.who and self.at else self.who
        return ", applied by ".join(part for part in (place, person) if part) or "unknown"


@dataclass(frozen=True, slots=True)
class Stated(Generic[Thing]):
    """A document with its origins: the whole's under "" and those of its parts, where they are known.

    The parts are an intention's sources by name, and a route's rules by their number.

    `broken` says why the record could not be read; `thing` is then the closed stand-in that is enforced instead.
    """

    thing: Thing
    origins: Mapping[str, Origin] = field(default_factory=dict)
    broken: str = ""

    def origin(self, part: str = "") -> Origin:
        """The origin of a part, or of the whole."""
        return self.origins.get(part) or self.origins.get("") or Origin()


@dataclass(frozen=True, slots=True)
class Local:
    """A service instance that runs on this host and the port on which this host takes mTLS for it.

    A draining one still serves what arrives, but is no longer offered to callers.
    """

    definition: ServiceDefinition
    mtls_port: int
    healthy: bool = True
    draining: bool = False
    plain_port: int = 0  # permissive mTLS: where this host takes plain text for it; 0: not at all
    capture_port: int = 0  # where Envoy takes what the kernel leads to it of this service; 0: nothing


@dataclass(frozen=True, slots=True)
class World:
    """Everything desired, at one revision of the policy (`revision`, from the manifest)."""

    revision: int
    mesh: Mesh
    intentions: Mapping[str, Stated[Intention]] = field(default_factory=dict)  # by destination, "*" too
    services: Mapping[str, Stated[Service]] = field(default_factory=dict)
    instances: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)  # by service, sorted by host and id
    bundle: TrustBundle = TrustBundle()
    routes: Mapping[str, Stated[Route]] = field(default_factory=dict)  # by the service that is called
    awaits: bool = False  # something that a route or failover leads to: the revision is not in force as a whole
    vetoes: Vetoes = NO_VETOES
    externals: Mapping[str, Stated[External]] = field(default_factory=dict)  # of the upstreams
    gateways: Mapping[str, Stated[Gateway]] = field(default_factory=dict)  # that are served here
    rollouts: Mapping[str, Stated[Rollout]] = field(default_factory=dict)  # by service
    progress: Mapping[str, Progress] = field(default_factory=dict)  # of rollouts, by service

    def permissive(self, service: str) -> bool:
        """Whether plain text may be spoken to this service and with it."""
        stated = self.services.get(service)
        return stated is not None and stated.thing.mtls == "permissive"
