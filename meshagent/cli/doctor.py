"""`meshagent doctor`: what is wrong, and the next step."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

import click

from meshagent.cli.diagnosis import Facts, Finding, diagnose
from meshagent.cli.explain import request_of
from meshagent.cli.lookups import names_finding
from meshagent.cli.mesh import OpenMesh, now_utc
from meshagent.cli.options import SERVICE, awaited, mesh_options, misuse
from meshagent.cli.output import Table, show
from meshagent.cli.session import Session
from meshagent.cli.walked import walked
from meshagent.errors import MeshError, StoreDenied
from meshagent.host.resolver import looked_up
from meshagent.model.mesh import Mesh
from meshagent.state.catalog import read_reports
from meshagent.state.keys import Interest


@click.command()
@click.argument("source", type=SERVICE, required=False)
@click.argument("destination", type=SERVICE, required=False)
@click.argument("method", required=False)
@click.argument("path", required=False)
@mesh_options("store", "api", "config", "output")
@click.pass_obj
@awaited
async def doctor(
    session: Session, source: str | None, destination: str | None, method: str | None, path: str | None
) -> int:
    """What is wrong with the mesh and this host, each with the next step. Exit code 1 when something is bad.

    Asks the store (does it answer, which right is missing, what cannot be read), this host's agent and Envoy, and what
    the other hosts report.

    With SOURCE and DESTINATION: walks the way of that call (name, certificate, listener, intention, route, instances,
    network, TLS, app, and what failed of late) and says where it breaks. Connections are made, but no request is sent. It
    sees most on the host where SOURCE runs, and the app on the host of DESTINATION.

    \b
    Example:  meshagent doctor --store consul://127.0.0.1:8500
              meshagent doctor web payments GET /reports
    """
    if source is not None:
        if destination is None:
            raise misuse("name the service that is called too: meshagent doctor SOURCE DESTINATION")
        return await walked(session, source, destination, request_of(method, path, ()))
    agent, error = await _agent(session)
    names = names_finding(agent, looked_up)
    found = await _mesh(session, agent or {})
    facts = replace(found, agent=agent, agent_error=error, capture=await _capture(session, agent), dns=names)
    findings = diagnose(facts)
    rows = [(each.state, each.about, each.what, each.next_step) for each in findings]
    show([asdict(each) for each in findings], session.form(), Table(("STATE", "ABOUT", "WHAT", "NEXT"), rows))
    return 1 if any(each.state == "bad" for each in findings) else 0


async def _agent(session: Session) -> tuple[dict[str, Any] | None, MeshError | None]:
    try:
        return await session.agent().status(), None
    except MeshError as error:
        return None, error


async def _capture(session: Session, agent: dict[str, Any] | None) -> Finding | None:
    """Whether the rules of transparent capture are those that this host needs; None where nothing is captured."""
    from meshagent.cli.captures import mismatch, wanted_here
    from meshagent.host import nft

    if agent is None or not agent.get("captured"):
        return None
    try:
        found = nft.standing()
        problem, step = mismatch(await wanted_here(session), found)
    except MeshError as error:
        return Finding("capture", "warning", f"whether its rules are in force is not known: {error}", error.next_step)
    if not problem:
        return Finding("capture", "ok", "its rules are in force, and are those that the services here need")
    return Finding("capture", "bad" if found.undo_in is None else "warning", problem, step)


async def _mesh(session: Session, agent: dict[str, Any]) -> Facts:
    """What the store tells. One that is not there is a finding, not an error."""
    at = now_utc()
    try:
        async with session.mesh() as mesh:
            health, refused = await asyncio.gather(mesh.store.check(), _refused(mesh, agent))
            found = Facts(at, store=health, refused=refused)
            if refused:
                return found
            seen = await mesh.read()
            settings = next((each.thing for each in seen.documents.values() if isinstance(each.thing, Mesh)), Mesh())
            return replace(
                found,
                mesh=settings.trust_domain,
                revision=seen.revision,
                unreadable={f"{kind} {name}": problem for (kind, name), problem in seen.problems.items()},
                reports=await read_reports(mesh.store, mesh.keys),
            )
    except MeshError as error:
        return Facts(at, store_error=error)


async def _refused(mesh: OpenMesh, agent: dict[str, Any]) -> dict[str, str]:
    """Which of the reads that an agent of this host needs the store refuses, each tried alone."""
    interest = Interest(frozenset(agent.get("services", ())))
    refused = {}
    for prefix in interest.prefixes(mesh.keys):
        try:
            await mesh.store.read(prefix)
        except StoreDenied as error:
            refused[f"read {prefix}"] = error.message
    return refused
