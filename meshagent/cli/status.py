"""`meshagent status`: the mesh as its store tells it, and this host as its agent tells it. One is enough to answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click

from meshagent.cli.diagnosis import limit_words
from meshagent.cli.mesh import now_utc
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import Table, fail, show, warn
from meshagent.cli.rules import moment
from meshagent.cli.session import Session, shown
from meshagent.cli.standings import line_of, standings_of
from meshagent.errors import AgentUnreachable, MeshError
from meshagent.model.mesh import Mesh
from meshagent.state.catalog import read_reports
from meshagent.state.records import ReportRecord

Data = dict[str, Any]


@click.command()
@mesh_options("store", "api", "config", "output")
@click.pass_obj
@awaited
async def status(session: Session) -> int:
    """The mesh and this host's agent at a glance.

    Exit code 4 when neither the store nor the agent answers.

    \b
    Example:  meshagent status --output json
    """
    fleet, agent = await asyncio.gather(_fleet(session), _agent(session))
    value = {
        "store": fleet.store,
        "mesh": fleet.mesh,
        "hosts": fleet.hosts,
        "rollouts": fleet.rollouts,
        "agent": agent.data,
    }
    show(value, session.form(), *_parts(fleet, agent))
    for problem in fleet.problems:
        warn(problem)
    if agent.error is not None and fleet.error is None:
        warn(f"this host's agent: {agent.error}")
    if fleet.error is not None and agent.error is None:
        warn(f"the store: {fleet.error}")
    if fleet.error is None or agent.error is None:
        return 0
    fail(fleet.error.message, fleet.error.next_step)
    fail(agent.error.message, agent.error.next_step)
    return AgentUnreachable.exit_code


@dataclass(frozen=True, slots=True)
class _Fleet:
    store: Data
    mesh: Data | None = None
    hosts: tuple[Data, ...] = ()
    rollouts: tuple[Data, ...] = ()
    problems: tuple[str, ...] = ()
    error: MeshError | None = None


@dataclass(frozen=True, slots=True)
class _Agent:
    data: Data | None = None
    error: MeshError | None = None


async def _agent(session: Session) -> _Agent:
    try:
        return _Agent(await session.agent().status())
    except MeshError as error:
        return _Agent(error=error)


async def _fleet(session: Session) -> _Fleet:
    """What the store tells. A store that is not there is an answer too."""
    url = ""
    try:
        url = shown(session.store_url())
        async with session.mesh() as mesh:
            health = await mesh.store.check()
            seen = await mesh.read()
            reports = await read_reports(mesh.store, mesh.keys)
    except MeshError as error:
        return _Fleet({"url": url, "ok": False, "version": "", "problems": [error.message]}, error=error)
    settings = next((each.thing for each in seen.documents.values() if isinstance(each.thing, Mesh)), Mesh())
    broken = sorted(seen.problems.items())
    unreadable = tuple(f"the {kind} record {name} cannot be read: {text}" for (kind, name), text in broken)
    about = {
        "trust_domain": settings.trust_domain,
        "default_action": settings.default_action,
        "revision": seen.revision,
        "services": len({each.service for each in seen.instances}),
        "instances": len(seen.instances),
        "intentions": sum(len(stated.thing.sources) for stated in seen.world().intentions.values()),
    }
    store = {"url": url, "ok": health.ok, "version": health.version, "problems": list(health.problems)}
    rows = tuple(host_row(report, seen.revision, now_utc()) for report in reports)
    rolled = tuple(standings_of(seen.documents, seen.rolled, now_utc()))
    return _Fleet(store, about, rows, rolled, (*health.problems, *unreadable))


def host_row(report: ReportRecord, revision: int, now: datetime) -> Data:
    """What a host says of itself, beside the policy's revision and the time that it is now."""
    ends = min(report.svids.values(), default=None)
    problems = [*report.problems, *(f"rejected {name}: {text}" for name, text in sorted(report.rejected.items()))]
    problems += [f"the certificate of {name} has ended" for name, at in sorted(report.svids.items()) if at <= now]
    return {
        "host": report.host,
        "agent_version": report.agent_version,
        "envoy_version": report.envoy_version,
        "revision": report.revision,
        "behind": max(0, revision - report.revision),
        "services": report.services,
        "svid_ends": moment(ends),
        "problems": problems,
        "reported_at": moment(report.at),
    }


def _parts(fleet: _Fleet, agent: _Agent) -> list[str | Table]:
    parts: list[str | Table] = []
    if fleet.mesh is not None:
        mesh = fleet.mesh
        parts.append(f"mesh   {mesh['trust_domain']}, default {mesh['default_action']}, revision {mesh['revision']}")
        counts = f"{mesh['services']} services, {mesh['instances']} instances, {mesh['intentions']} intentions"
        parts.append(f"store  {fleet.store['url']} ({fleet.store['version']}): {counts}")
        rows = [_cells(host) for host in fleet.hosts]
        parts.append(Table(("HOST", "AGENT", "ENVOY", "POLICY", "SERVICES", "CERTIFICATES UNTIL", "PROBLEMS"), rows))
        if not rows:
            parts.append("no host reports")
        parts += map(line_of, fleet.rollouts)
    if agent.data is not None:
        parts += _agent_lines(agent.data)
    return parts


def _cells(host: Data) -> list[object]:
    behind = f"{host['behind']} behind" if host["behind"] else "current"
    services, problems = host["services"], "; ".join(host["problems"]) or "none"
    return [host["host"], host["agent_version"], host["envoy_version"], behind, services, host["svid_ends"], problems]


def _agent_lines(data: Data) -> list[str]:
    envoy = data.get("envoy", {})
    state = "ready" if envoy.get("ready") else "not ready"
    away = f"away since {data.get('stale_since')}, so the last good policy stays"
    store = "followed" if data.get("store_ok") else away
    lines = [
        f"agent  {data.get('host')} ({data.get('address')}), envoy {data.get('envoy_version')} {state}",
        f"       policy revision {data.get('applied_revision')} in force, store {store}",
    ]
    found = {**data.get("problems", {}), **{f"rejected {key}": text for key, text in data.get("rejected", {}).items()}}
    lines += [f"       problem: {key}: {text}" for key, text in sorted(found.items())]
    return lines + [f"       limit: {words}" for row in data.get("limits", ()) if (words := limit_words(row))]
