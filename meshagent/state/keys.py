"""The whole key layout. No other file knows where anything is kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from meshagent.model.names import ANY

KINDS_OF_MANY = ("intention", "service", "route", "external", "gateway", "rollout")
"""The kinds of which there is a document for each name."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of keys under a root, which ends in `/`. `signed`: policy counts only when it is signed, so hosts read its index."""

    root: str = "meshagent/v1/"
    signed: bool = False

    @property
    def manifest(self) -> str:
        """The sentinel: without it nothing in the store is believed."""
        return f"{self.root}config/manifest"

    @property
    def mesh(self) -> str:
        """The mesh defaults."""
        return f"{self.root}config/mesh"

    @property
    def bundle(self) -> str:
        """The trust bundle."""
        return f"{self.root}trust/bundle"

    @property
    def rotation(self) -> str:
        """The change of roots that is under way."""
        return f"{self.root}authority/rotation"

    @property
    def authority(self) -> str:
        """Prefix of what authorities and operators alone may see."""
        return f"{self.root}authority/"

    @property
    def signers(self) -> str:
        """Prefix of the authorities."""
        return f"{self.root}authority/signers/"

    @property
    def tokens(self) -> str:
        """Prefix of the join tokens."""
        return f"{self.root}authority/tokens/"

    @property
    def grants(self) -> str:
        """Prefix of what hosts were granted."""
        return f"{self.root}authority/grants/"

    def signer(self, name: str) -> str:
        """One authority."""
        return f"{self.signers}{name}"

    def token(self, digest: str) -> str:
        """One join token, by the hex SHA-256 of it."""
        return f"{self.tokens}{digest}"

    def grant(self, host: str) -> str:
        """What one host was granted."""
        return f"{self.grants}{host}"

    @property
    def config(self) -> str:
        """Prefix of all policy."""
        return f"{self.root}config/"

    @property
    def externals(self) -> str:
        """Prefix of all names outside the mesh."""
        return f"{self.root}config/external/"

    @property
    def rollout_documents(self) -> str:
        """Prefix of all rollouts, as operators want them."""
        return f"{self.root}config/rollout/"

    @property
    def rollouts(self) -> str:
        """Prefix of what hosts say of rollouts."""
        return f"{self.root}rollouts/"

    @property
    def answers(self) -> str:
        """Prefix of what gateways answer CAs that ask them."""
        return f"{self.root}acme/"

    def answers_of(self, gateway: str) -> str:
        """Prefix of what one gateway answers."""
        return f"{self.answers}{gateway}/"

    def answer(self, gateway: str, host: str) -> str:
        """What one host wants a gateway to answer."""
        return f"{self.answers_of(gateway)}{host}"

    def rollout(self, service: str) -> str:
        """Prefix of what hosts say of one service's rollout."""
        return f"{self.rollouts}{service}/"

    def progress(self, service: str) -> str:
        """How far a service's rollout has come."""
        return f"{self.rollout(service)}progress"

    def measured(self, service: str, host: str) -> str:
        """What one host has measured of a service's rollout."""
        return f"{self.rollout(service)}measured/{host}"

    @property
    def instances(self) -> str:
        """Prefix of the catalog."""
        return f"{self.root}instances/"

    @property
    def reports(self) -> str:
        """Prefix of the hosts' reports."""
        return f"{self.root}status/"

    def document(self, kind: str, name: str) -> str:
        """The record of a document."""
        return self.mesh if kind == "mesh" else f"{self.root}config/{kind}/{name}"

    @property
    def histories(self) -> str:
        """Prefix of all history."""
        return f"{self.root}config/history/"

    def history(self, revision: int) -> str:
        """What one revision changed. The digits keep the order."""
        return f"{self.histories}{revision:012d}"

    def name(self, key: str) -> str:
        """A document's name in the index: `intention/payments`, `mesh`."""
        return key.removeprefix(self.config)

    def index(self, bucket: str) -> str:
        """One bucket of the index of signed policy."""
        return f"{self.root}config/index/{bucket}"

    def index_of(self, key: str) -> str:
        """The key of the index bucket that a document belongs to."""
        return self.index(bucket_of(self.name(key)))

    def instances_of(self, service: str) -> str:
        """Prefix of one service's instances."""
        return f"{self.instances}{service}/"

    def instance(self, service: str, host: str, instance_id: str) -> str:
        """One instance."""
        return f"{self.instances}{service}/{host}/{instance_id}"

    def report(self, host: str) -> str:
        """One host's report."""
        return f"{self.reports}{host}"

    def parse_document(self, key: str) -> tuple[str, str] | None:
        """(kind, name) of a document's key, else None."""
        if key == self.mesh:
            return ("mesh", "mesh")
        kind, slash, name = key.removeprefix(self.config).partition("/")
        known = key.startswith(self.config) and slash and kind in KINDS_OF_MANY and "/" not in name
        return (kind, name) if known else None

    def parse_index(self, key: str) -> str:
        """The bucket of an index key, else nothing."""
        before = self.index("")
        return key.removeprefix(before) if key.startswith(before) else ""

    def parse_instance(self, key: str) -> tuple[str, str, str] | None:
        """(service, host, id) of an instance's key, else None."""
        parts = key.removeprefix(self.instances).split("/")
        return (parts[0], parts[1], parts[2]) if key.startswith(self.instances) and len(parts) == 3 else None

    def parse_rollout(self, key: str) -> tuple[str, str] | None:
        """(service, host) of what hosts say of rollouts, with no host where it is how far one has come; else None."""
        parts = key.removeprefix(self.rollouts).split("/") if key.startswith(self.rollouts) else []
        if len(parts) == 2 and parts[1] == "progress":
            return (parts[0], "")
        return (parts[0], parts[2]) if len(parts) == 3 and parts[1] == "measured" else None


def bucket_of(name: str) -> str:
    """Which of the 64 index buckets names a document: `00` to `3f`."""
    return f"{hashlib.sha256(name.encode()).digest()[0] >> 2:02x}"


@dataclass(frozen=True, slots=True)
class Interest:
    """What one host needs to know: the services that run on it, those that they call, and those that these lead to.

    `beyond`: by their routes and failovers. `outside`: those of the upstreams that are names outside the mesh.
    `gateways`: those that this host serves. What they lead to is among the upstreams.
    """

    services: frozenset[str] = frozenset()
    upstreams: frozenset[str] = frozenset()
    beyond: frozenset[str] = frozenset()
    outside: frozenset[str] = frozenset()
    gateways: frozenset[str] = frozenset()

    @property
    def judged(self) -> frozenset[str]:
        """The destinations whose intentions are enforced on this host: outside the mesh nobody else could."""
        return self.services | self.outside

    @property
    def reached(self) -> frozenset[str]:
        """The services whose instances this host may call."""
        return self.upstreams | self.beyond

    @property
    def rolled(self) -> frozenset[str]:
        """The services whose rollouts concern this host: it calls them, or runs what is measured."""
        return self.services | self.reached

    def prefixes(self, keys: Keys) -> tuple[str, ...]:
        """What of policy to watch, and nothing else."""
        return (
            keys.manifest,
            keys.bundle,
            *(key for key in self.documents(keys) if not key.startswith((keys.externals, keys.rollout_documents))),
            # One watch for all: there are few, and they seldom change.
            *((keys.externals,) if self.upstreams else ()),
            *((keys.rollout_documents,) if self.rolled else ()),
            *(sorted({keys.index_of(key) for key in self.documents(keys)}) if keys.signed else ()),
        )

    def documents(self, keys: Keys) -> tuple[str, ...]:
        """The keys of the documents."""
        return (
            keys.mesh,
            *(keys.document("intention", name) for name in sorted({*self.judged, ANY})),
            *(keys.document("service", name) for name in sorted(self.rolled)),
            *(keys.document("route", name) for name in sorted(self.upstreams)),
            *(keys.document("external", name) for name in sorted(self.upstreams)),
            *(keys.document("gateway", name) for name in sorted(self.gateways)),
            *(keys.document("rollout", name) for name in sorted(self.rolled)),
        )

    def wants(self, keys: Keys, key: str) -> bool:
        """Whether a key is of interest (a watched key is also the prefix of longer ones, which are not)."""
        if key in (keys.manifest, keys.bundle):
            return True
        if keys.parse_index(key):
            return keys.signed and any(keys.index_of(each) == key for each in self.documents(keys))
        kind, name = keys.parse_document(key) or ("", "")
        if kind == "intention":
            return name == ANY or name in self.judged
        if kind in ("route", "external"):
            return name in self.upstreams
        if kind == "gateway":
            return name in self.gateways
        return kind == "mesh" or (kind in ("service", "rollout") and name in self.rolled)
