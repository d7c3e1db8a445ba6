"""Changing the roots of a mesh, one stage after the other. The decisions; state/roots.py carries them out.

    distribute   the new roots are in the trust bundle; every live host must have applied it before anything signs with them
    activate     the new roots sign; every live host's certificates must lead to them, and one life of an old one must pass
    retire       the old roots are out of the bundle; what is left is to destroy the old key

Going back before anything is retired is the same road with old and new exchanged. What is known of a rotation is in one
record, so that whoever runs `meshagent ca rotate` next goes on where the last one was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, Field

from meshagent.ca.rotation import root_digests
from meshagent.model.identity import TrustBundle
from meshagent.model.names import Model, ServiceName, TrustDomain
from meshagent.state.records import ReportRecord, Version

Stage = Literal["distribute", "activate", "retire"]
_MOST_SKEW = timedelta(seconds=60)


class RotationRecord(Model):
    """A change of roots that is under way. `old` and `new` are hex SHA-256 of the roots that go and that come.

    `kind`: a root of our own that is replaced by another one, or another CA. `ttl_seconds` is how long a certificate
    may live; `without` are the hosts that an operator said not to wait for.
    """

    v: Version = 1
    kind: Literal["root", "provider"]
    trust_domain: TrustDomain
    stage: Stage
    old: list[str]
    new: list[str]
    ttl_seconds: float = Field(gt=0)
    began_at: AwareDatetime
    activated_at: AwareDatetime | None = None
    without: list[ServiceName] = []
    by: str = ""

    @property
    def retirable_at(self) -> datetime | None:
        """When the last certificate that was made before the activation has ended on every clock; None before that."""
        if self.activated_at is None:
            return None
        life = timedelta(seconds=self.ttl_seconds)
        return self.activated_at + life + min(_MOST_SKEW, life / 10)


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet: `hosts` says who is not there yet and why, `until` which moment has to pass, if one has."""

    hosts: Mapping[str, str] = field(default_factory=dict)
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Go:
    """The next stage may begin."""

    stage: Literal["activate", "retire", "end"]


def judge(record: RotationRecord, bundle: TrustBundle, reports: Iterable[ReportRecord], now: datetime) -> Wait | Go:
    """What a rotation may do next. `reports` are those of the hosts that live, `bundle` what the store holds.

    A root that is not in the bundle holds up everything: nothing may sign with it, nothing may be retired for it.
    """
    if record.stage == "retire":
        return Go("end")
    held = root_digests(bundle)  # the other CA may have a trust domain of its own
    if missing := set(record.new) - held:
        return Wait({"(trust bundle)": f"does not hold the new root {min(missing)[:16]}"})
    waiting = [report for report in reports if report.host not in record.without]
    if record.stage == "distribute":
        behind = {each.host: "has not applied the new trust bundle" for each in waiting if not _has(each, bundle)}
        return Wait(behind) if behind else Go("activate")
    behind = {each.host: problem for each in waiting if (problem := _leads_elsewhere(each, record.new))}
    until = record.retirable_at if record.retirable_at and now < record.retirable_at else None
    return Wait(behind, until) if behind or until else Go("retire")


def reversed_rotation(record: RotationRecord, now: datetime) -> RotationRecord:
    """The way back from a rotation that is not retired yet: the old roots are those that come.

    Before the activation nothing was signed with the new ones, so they may go at once.
    """
    turned = {"old": record.new, "new": record.old, "without": []}
    if record.stage == "distribute":
        return record.model_copy(update=turned | {"stage": "retire"})
    return record.model_copy(update=turned | {"stage": "activate", "activated_at": now})


def _has(report: ReportRecord, bundle: TrustBundle) -> bool:
    return report.bundle == bundle.digest()


def _leads_elsewhere(report: ReportRecord, new: list[str]) -> str:
    """Which certificates do not lead to a new root, in words; "" when all do: its services', and the host's own."""
    names = {*report.services, *report.svids, *report.roots}
    found = sorted(name for name in names if report.roots.get(name) not in new)
    return f"the certificates of {', '.join(found)} lead to another root" if found else ""
