"""What the authority knows of the mesh: its trust domain and roots, the grants, the other authorities.

Built from what the store said last, and kept on disk: while the store is away, the authority goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from pydantic import Field, ValidationError

from meshagent.ca.x509 import UNREADABLE
from meshagent.errors import NotFound
from meshagent.model.mesh import Mesh
from meshagent.model.names import Model
from meshagent.private import read_private, write_private
from meshagent.state.enrolment import GrantRecord, SignerRecord
from meshagent.state.index import Proof
from meshagent.state.keys import Keys
from meshagent.state.records import (
    BundleRecord,
    Manifest,
    PolicyRecord,
    Record,
    UnreadableRecord,
    Version,
    decode,
    document_of,
)
from meshagent.state.signing import Trust
from meshagent.store.base import Changes

FILE = "ledger.json"
Found = TypeVar("Found")
_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ledger:
    """All of it at one moment. `leaving` are the digests of roots that nothing is to be signed with any more.

    `problems` says by key what of the store could not be used.
    """

    trust_domain: str = ""
    roots: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    grants: Mapping[str, GrantRecord] = field(default_factory=dict)
    signers: Mapping[str, SignerRecord] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether there is a mesh, as far as is known."""
        return bool(self.trust_domain and self.roots)

    def addresses(self) -> tuple[str, ...]:
        """Where authorities are that can sign."""
        return tuple(sorted({each.address for each in self.signers.values() if each.intermediate}))


@dataclass(frozen=True, slots=True)
class _Proven:
    proof: Proof
    revision: int


class Reading:
    """Folds changes of the store into ledgers. A store that shows no mesh has lost it: then nothing changes."""

    def __init__(self, keys: Keys, trust: Trust, last: Ledger) -> None:
        self._keys = keys
        self._trust = trust
        self._values: dict[str, bytes] = {}
        self.ledger = last

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What has to be watched."""
        keys = self._keys
        return keys.manifest, keys.mesh, keys.bundle, keys.signers, keys.grants

    def take(self, changes: Changes) -> Ledger:
        """What holds after the changes."""
        if changes.full:
            self._values.clear()
        for key in changes.deleted:
            self._values.pop(key, None)
        self._values.update({entry.key: entry.value for entry in changes.entries})
        if self._keys.manifest in self._values:
            self.ledger = self._folded()
        return self.ledger

    def granted(self, grant: GrantRecord) -> None:
        """Take in a grant that was just written, or read, before the watch tells of it."""
        self.ledger = replace(self.ledger, grants={**self.ledger.grants, grant.host: grant})

    def _folded(self) -> Ledger:
        problems: dict[str, str] = {}
        domain = self._told(problems, self._keys.mesh, self._trust_domain) or self.ledger.trust_domain
        bundle = self._told(problems, self._keys.bundle, self._bundle)
        grants = self._records(self._keys.grants, GrantRecord, problems)
        ledger = replace(
            self.ledger,
            trust_domain=domain,
            grants={host: each for host, each in grants.items() if each.host == host},
            signers=self._records(self._keys.signers, SignerRecord, problems),
            problems=problems,
        )
        roots = tuple(filter(_is_readable, bundle.roots.get(domain, ()))) if bundle else ()
        if bundle is None or not roots:
            return ledger
        if len(roots) < len(bundle.roots[domain]):
            problems[self._keys.bundle] = "holds a root that cannot be read"
        return replace(
            ledger,
            roots=roots,
            leaving=tuple(bundle.leaving),
            retired=tuple(bundle.retired),
        )

    def _told(self, problems: dict[str, str], key: str, read: Callable[[bytes], Found]) -> Found | None:
        value = self._values.get(key)
        if value is None:
            problems[key] = "is missing"
            return None
        try:
            return read(value)
        except UnreadableRecord as error:
            problems[key] = str(error)
            return None

    def _trust_domain(self, value: bytes) -> str:
        counts = decode(PolicyRecord, value).at(self._proof().revision)
        if counts is None:
            return ""
        self._trust.check(self._keys.mesh, counts)
        mesh = document_of("mesh", "mesh", counts)
        return mesh.trust_domain if isinstance(mesh, Mesh) else ""

    def _bundle(self, value: bytes) -> BundleRecord:
        record = decode(BundleRecord, value)
        self._proof().proof.bundle(record)
        return record

    def _proof(self) -> _Proven:
        manifest = decode(Manifest, self._values[self._keys.manifest])
        proof = Proof(self._keys, self._trust)
        proof.manifest(manifest)
        proof.follow(manifest)
        return _Proven(proof, manifest.revision)

    def _records(self, prefix: str, model: type[Record], problems: dict[str, str]) -> dict[str, Record]:
        """By name. One that cannot be read counts as absent: a host without a readable grant is certified for nothing."""
        found: dict[str, Record] = {}
        for key, value in self._values.items():
            if key.startswith(prefix):
                try:
                    found[key.removeprefix(prefix)] = decode(model, value)
                except UnreadableRecord as error:
                    problems[key] = str(error)
        return found


def _is_readable(pem: str) -> bool:
    """Whether it is certificates: one root that somebody spoilt must not take the others' TLS away."""
    try:
        return bool(x509.load_pem_x509_certificates(pem.encode()))
    except UNREADABLE:
        return False


class _Kept(Model):
    v: Version = 1
    trust_domain: str = ""
    roots: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    grants: tuple[GrantRecord, ...] = ()
    signers: dict[str, SignerRecord] = Field(default={})


def keep_ledger(directory: Path, ledger: Ledger) -> None:
    """Keep it (0600) for a start without the store."""
    kept = _Kept(
        trust_domain=ledger.trust_domain,
        roots=ledger.roots,
        leaving=ledger.leaving,
        retired=ledger.retired,
        grants=tuple(ledger.grants.values()),
        signers=dict(ledger.signers),
    )
    write_private(directory / FILE, kept.model_dump_json().encode())


def load_ledger(directory: Path) -> Ledger:
    """What was kept; an empty ledger when there is none, or none that can be read."""
    try:
        kept = _Kept.model_validate_json(read_private(directory / FILE, _LIMIT))
    except (NotFound, ValidationError):
        return Ledger()
    return Ledger(
        trust_domain=kept.trust_domain,
        roots=kept.roots,
        leaving=kept.leaving,
        retired=kept.retired,
        grants={each.host: each for each in kept.grants},
        signers=kept.signers,
    )
