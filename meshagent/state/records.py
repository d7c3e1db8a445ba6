"""Values of the store <-> model. Every record has `"v": 1`; an unknown version or field makes it unreadable, never half read.

A policy record: {"v", "revision", "document" (null: deleted), "origins", "replaces" (the state before, or null)}. It counts
from the moment at which the manifest reaches its revision; until then `replaces` does. So a change of any size is atomic.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Method
from meshagent.model.kinds import KINDS, Document
from meshagent.model.names import IdForm, Model, ServiceName, TrustDomain
from meshagent.model.observed import CallKey
from meshagent.model.service import Instance
from meshagent.model.world import Origin

Version = Literal[1]
Record = TypeVar("Record", bound=Model)
# What only signed policy has is left out where it is not: an unsigned mesh's records are as they always were.
# So is what only a rotation of roots leaves behind, or a CA that names services otherwise than we do.
_OPTIONAL = ("signature", "index", "signed_at", "leaving", "retired", "forms")


class UnreadableRecord(ValueError):
    """A value that is not a record of a known version. Its message says what is wrong with it."""


class OriginRecord(Model):
    """As Origin."""

    file: str = ""
    line: int = 0
    who: str = ""
    at: datetime | None = None

    def origin(self) -> Origin:
        """The model's value."""
        return Origin(self.file, self.line, self.who, self.at)

    @classmethod
    def of(cls, origin: Origin) -> OriginRecord:
        """The record's value."""
        return cls(file=origin.file, line=origin.line, who=origin.who, at=origin.at)


class Signed(Model):
    """What an operator's key may sign (state/signing.py). `signature` is `<key id>:<base64>`, or empty."""

    signature: str = Field(default="", max_length=200)

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {name: value for name, value in data.items() if value or name not in _OPTIONAL}


class Revised(Signed):
    """A document as it stood from `revision` on. `document` is None when it did not exist."""

    revision: int = Field(ge=0)
    document: dict[str, Any] | None
    origins: dict[str, OriginRecord] = {}


class PolicyRecord(Revised):
    """A document's record."""

    v: Version = 1
    replaces: Revised | None = None

    def at(self, manifest: int) -> Revised | None:
        """What counts while the manifest stands at this revision; None: nothing yet."""
        return self if self.revision <= manifest else self.replaces


class Manifest(Signed):
    """The sentinel. `staging` names a revision whose records are being written but do not count yet.

    `index` (signed policy only) says of each bucket of the index, and of the trust bundle, in which revision it last
    changed: so what the store hides or shows in an older state is noticed.
    """

    v: Version = 1
    revision: int = Field(ge=1)
    staging: int | None = None
    index: dict[str, int] = {}


class Indexed(Signed):
    """One bucket of the index as it stood from `revision` on: in which revision each document was last written."""

    revision: int = Field(ge=0)
    names: dict[str, int]


class IndexRecord(Indexed):
    """One bucket of the index (signed policy only)."""

    v: Version = 1
    replaces: Indexed | None = None

    def at(self, manifest: int) -> Indexed | None:
        """What counts while the manifest stands at this revision; None: nothing yet."""
        return self if self.revision <= manifest else self.replaces


class BundleRecord(Signed):
    """The trust bundle: PEM roots by trust domain. `signed_at` is the policy revision in which it was signed.

    `leaving` and `retired` are hex SHA-256 of roots (DER): those in the bundle that nothing signs with any more, and
    those that no agent may put back. `forms` says how SPIFFE IDs look in trust domains where they are not ours.
    """

    v: Version = 1
    roots: dict[TrustDomain, list[str]]
    leaving: list[str] = []
    retired: list[str] = []
    forms: dict[TrustDomain, IdForm] = {}
    signed_at: int = Field(default=0, ge=0)

    def bundle(self) -> TrustBundle:
        """The model's value."""
        return TrustBundle(
            tuple((domain, tuple(pems)) for domain, pems in sorted(self.roots.items())),
            tuple(sorted(self.leaving)),
            tuple(sorted(self.forms.items())),
        )

    @classmethod
    def of(cls, bundle: TrustBundle) -> BundleRecord:
        """The record's value."""
        roots = {domain: list(pems) for domain, pems in bundle.roots}
        return cls(roots=roots, leaving=list(bundle.leaving), forms=dict(bundle.forms))


class InstanceRecord(Instance):
    """One instance in the catalog."""

    v: Version = 1


class ObservedRecord(Model):
    """Calls that a host's proxies saw, as `model/observed.py` has them."""

    source: ServiceName | Literal[""]
    destination: ServiceName
    method: Method | Literal[""] = ""
    path: str = Field(default="", max_length=600, pattern=r"^(/[\x21-\x7e]*)?$")
    calls: int = Field(ge=0)
    last: datetime

    @property
    def key(self) -> CallKey:
        """What is counted together."""
        return CallKey(self.source, self.destination, self.method, self.path)

    @classmethod
    def of(cls, key: CallKey, calls: int, last: datetime) -> ObservedRecord:
        """The record's value. Raises ValidationError for what no proxy of ours logs."""
        return cls(
            source=key.source, destination=key.destination, method=key.method, path=key.path, calls=calls, last=last
        )


class ReportRecord(Model):
    """What a host says of itself.

    `revision` is the policy revision, `bundle` the digest of the trust bundle, that its proxy has applied; `roots` says
    of each service the root (hex SHA-256) that the certificate which its proxy has applied leads to. `metrics` is where
    other hosts find its metrics page (address:port), or empty. `observed` are calls by services of it, and to them;
    `sampled` is when last not every request of these was logged.
    """

    v: Version = 1
    host: ServiceName
    revision: int
    services: list[str]
    upstreams: list[str] = []
    gateways: list[str] = []
    agent_version: str
    envoy_version: str = ""
    rejected: dict[str, str] = {}
    problems: list[str] = []
    svids: dict[str, datetime] = {}
    roots: dict[str, str] = {}
    bundle: str = ""
    metrics: str = Field(default="", max_length=300)
    observed: list[ObservedRecord] = []
    sampled: datetime | None = None
    at: datetime


class HistoryRecord(Model):
    """What one revision changed, by whom, when and why."""

    class Edit(Model):
        """One document, before and after (None: absent)."""

        kind: str
        name: str
        before: dict[str, Any] | None
        after: dict[str, Any] | None

    v: Version = 1
    revision: int
    who: str
    at: datetime
    why: str = ""
    edits: list[Edit]


def encode(record: Model) -> bytes:
    """Canonical JSON: sorted keys, no spaces."""
    data = record.model_dump(mode="json")
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decode(record: type[Record], value: bytes) -> Record:
    """The record in a value; raises UnreadableRecord."""
    try:
        data = json.loads(value.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except ValueError as error:
        raise UnreadableRecord(f"is not JSON: {error}") from None
    except RecursionError:
        raise UnreadableRecord("is not JSON that can be read: it is nested too deeply") from None
    if not isinstance(data, dict):
        raise UnreadableRecord("is not a JSON object")
    if type(data.get("v")) is not int or data["v"] != 1:  # true == 1
        raise UnreadableRecord(f"has version {data.get('v')!r}; this agent reads version 1")
    try:
        return record.model_validate_json(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UnreadableRecord(f"{place}: {first['msg']}") from None


def document_of(kind: str, name: str, revised: Revised) -> Document | None:
    """The document, which must be of the kind and name that its key says; raises UnreadableRecord."""
    if revised.document is None:
        return None
    try:
        document = KINDS[kind].model_validate_json(json.dumps(revised.document), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise UnreadableRecord(f"document {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    if document.name != name:
        raise UnreadableRecord(f"is kept under {name} but says that it is {document.name}")
    return document


def dump(document: Document) -> dict[str, Any]:
    """A document as plain data, as records and `--output json` show it."""
    return document.model_dump(mode="json", exclude_defaults=True) | {"kind": document.kind, "name": document.name}


def now_utc(clock: float) -> datetime:
    """A wall-clock reading (seconds) as an aware time."""
    return datetime.fromtimestamp(clock, UTC)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return data


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")
