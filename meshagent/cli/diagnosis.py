"""What is wrong with a mesh and a host, and the next step for each. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from meshagent.errors import MeshError
from meshagent.state.records import ReportRecord
from meshagent.store.base import StoreHealth

_SKEW = timedelta(minutes=2)
_ROOT_WARNING = timedelta(days=30)
_MEND = "mend what is named; until then the last good one holds"
_STEPS = {
    "svid": "see svid_not_renewed in the agent's log; the certificate in use serves until it ends",
    "served": "meshagent proxy status; an Envoy that stays behind is restarted with its agent: meshagent agent",
    "ca": "mend what is named before the certificates in use end",
}


State = Literal["ok", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `about` says what; `next_step` is empty when it is well."""

    about: str
    state: State
    what: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What could be learnt. `unreadable` and `refused` say what the store holds or refuses, by name; `at` is now."""

    at: datetime
    store: StoreHealth | None = None
    store_error: MeshError | None = None
    mesh: str = ""
    revision: int = 0
    unreadable: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    reports: Sequence[ReportRecord] = ()
    agent: Mapping[str, Any] | None = None
    agent_error: MeshError | None = None
    capture: Finding | None = None  # of transparent capture; None: nothing is captured
    dns: Finding | None = None  # of the mesh's names; None: the agent answers none


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """Every finding, in the order in which things depend on each other."""
    looked_at = [each for each in (facts.capture, facts.dns) if each]
    return (*_store(facts), *_rights(facts), *_policy(facts), *_agent(facts), *looked_at, *_fleet(facts))


def _store(facts: Facts) -> Iterator[Finding]:
    if facts.store_error:
        yield Finding("store", "bad", facts.store_error.message, facts.store_error.next_step)
        return
    if facts.store is None:
        return
    for problem in facts.store.problems:
        yield Finding("store", "warning" if facts.store.ok else "bad", problem, "see the words of the problem itself")
    if facts.store.ok and not facts.store.problems:
        yield Finding("store", "ok", f"answers ({facts.store.version})")


def _rights(facts: Facts) -> Iterator[Finding]:
    for what, problem in sorted(facts.refused.items()):
        yield Finding("rights", "bad", f"{what}: {problem}", "give what `meshagent store policy` prints")


def _policy(facts: Facts) -> Iterator[Finding]:
    if facts.mesh:
        yield Finding("mesh", "ok", f"{facts.mesh}, revision {facts.revision}")
    for name, problem in sorted(facts.unreadable.items()):
        step = "apply the document again: meshagent policy apply -f FILE"
        yield Finding("policy", "bad", f"the record of {name} cannot be read: {problem}", step)


def _agent(facts: Facts) -> Iterator[Finding]:
    if facts.agent_error:
        yield Finding("agent", "bad", facts.agent_error.message, facts.agent_error.next_step)
    agent = facts.agent
    if agent is None:
        return
    envoy = agent.get("envoy", {})
    if envoy.get("ready"):
        yield Finding("envoy", "ok", f"{agent.get('envoy_version')} is ready and follows the agent")
    else:
        yield Finding("envoy", "bad", "is not connected to the agent", "look at envoy.log in the agent's data_dir")
    if not agent.get("store_ok"):
        since = agent.get("stale_since")
        yield Finding("agent", "bad", f"has not heard from its store since {since}", "check the store from that host")
    if facts.revision and agent.get("applied_revision", 0) < facts.revision:
        behind = f"applies revision {agent.get('applied_revision')}, the store has {facts.revision}"
        yield Finding("agent", "warning", behind, "try again in a second; then: meshagent proxy status")
    for key, problem in sorted(agent.get("problems", {}).items()):
        yield Finding("agent", "bad", f"{key}: {problem}", _STEPS.get(key.partition("/")[0], _MEND))
    for name, problem in sorted(agent.get("rejected", {}).items()):
        yield Finding("envoy", "bad", f"rejects {name}: {problem}", "meshagent proxy status")
    yield from _svids(
        "this host", {name: svid["expires_at"] for name, svid in agent.get("svids", {}).items()}, facts.at
    )
    yield from _limits(agent)
    yield from _overdue(agent)
    yield from _roots(agent, facts.at)


def limit_words(row: Mapping[str, Any]) -> str:
    """What there is to say of a limit of an upstream; empty while it is far."""
    about = f"{row['source']} -> {row['upstream']}: {row['limit']}"
    if row["near"]:
        return f"{about} has {row['left']} of {row['allowed']} left; beyond it calls are refused with 503"
    if row["reached"]:
        return f"{about} of {row['allowed']} was reached {row['reached']} times since Envoy started"
    return ""


def _limits(agent: Mapping[str, Any]) -> Iterator[Finding]:
    for row in agent.get("limits", ()):
        if words := limit_words(row):
            step = f"find what is slow, or allow more: meshagent policy get service {row['upstream'].partition('#')[0]}"
            yield Finding("limits", "warning", words, step)


def _overdue(agent: Mapping[str, Any]) -> Iterator[Finding]:
    for service, svid in sorted(agent.get("svids", {}).items()):
        if svid.get("overdue"):
            what = (
                f"the certificate of {service} is not renewed after 66 % of its life; it ends at {svid['expires_at']}"
            )
            yield Finding("identity", "bad", what, "see svid_not_renewed in the agent's log")


def _roots(agent: Mapping[str, Any], at: datetime) -> Iterator[Finding]:
    for root in agent.get("roots", ()):
        left = datetime.fromisoformat(root["expires_at"]) - at
        if left <= _ROOT_WARNING and not root.get("leaving"):
            what = f"the root {root['digest'][:16]} ends at {root['expires_at']}"
            yield Finding("identity", "bad" if left <= timedelta(0) else "warning", what, "meshagent ca rotate")


def _svids(where: str, ends: Mapping[str, str | datetime], at: datetime) -> Iterator[Finding]:
    for service, end in sorted(ends.items()):
        until = datetime.fromisoformat(end) if isinstance(end, str) else end
        if until <= at:
            step = "see svid_not_renewed in the agent's log"
            yield Finding("identity", "bad", f"{where}: the certificate of {service} ended at {end}", step)


def _fleet(facts: Facts) -> Iterator[Finding]:
    for report in facts.reports:
        name = f"host {report.host}"
        for problem in report.problems:
            yield Finding(name, "bad", problem, f"on {report.host}: meshagent doctor")
        for resource, problem in sorted(report.rejected.items()):
            yield Finding(name, "bad", f"its Envoy rejects {resource}: {problem}", "meshagent proxy status there")
        if report.at > facts.at + _SKEW:
            ahead = int((report.at - facts.at).total_seconds())
            step = "set both clocks (NTP): expires_at and certificates are judged by them"
            yield Finding(name, "warning", f"its clock is {ahead} s ahead of this one", step)
        yield from _svids(name, report.svids, facts.at)
    versions = sorted({report.agent_version for report in facts.reports})
    if len(versions) > 1:
        step = "finish the upgrade before using what only the newer one knows"
        yield Finding("fleet", "warning", f"agents of several versions: {', '.join(versions)}", step)
    bundles = {report.bundle for report in facts.reports if report.bundle}
    if len(bundles) > 1:
        step = "wait some seconds; then look at the hosts that are behind: meshagent ca rotate --status"
        yield Finding("fleet", "warning", f"hosts believe different roots: {len(bundles)} trust bundles", step)
    if facts.reports and not any(report.problems or report.rejected for report in facts.reports):
        yield Finding("fleet", "ok", f"{len(facts.reports)} hosts report, none with a problem")
