"""`meshagent rollout status`: where rollouts stand, once or until one is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from meshagent.cli.applied import NO
from meshagent.cli.lazy import did_you_mean
from meshagent.cli.mesh import OpenMesh, now_utc
from meshagent.cli.options import SERVICE, awaited, mesh_options, misuse
from meshagent.cli.output import Table, emit, printable, say, show
from meshagent.cli.session import Session
from meshagent.cli.standings import Data, line_of, measured_rows, next_of, standings_of
from meshagent.errors import NotFound
from meshagent.state.changes import read_documents
from meshagent.state.progress import read_progress

_EVERY = 1.0  # seconds between two looks


@click.command()
@click.argument("service", required=False, type=SERVICE)
@click.option(
    "--watch", is_flag=True, help="Go on until it is over: exit code 0 where it went all the way, 5 where not."
)
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def status(session: Session, service: str | None, watch: bool) -> int:
    """Where the rollout of SERVICE stands, what was counted in this step, and what it waits for; or all rollouts.

    \b
    Example:  meshagent rollout status payments --watch
    """
    if watch and service is None:
        raise misuse("--watch needs a SERVICE")
    async with session.mesh() as mesh:
        found = await read_standings(mesh)
        if service is not None:
            found = [_one(found, service)]
            while watch and not found[0]["over"]:
                found = [await _moved(mesh, found[0], told=session.form() == "table")]
    show(found[0] if service else found, session.form(), *_parts(found, one=service is not None))
    if service and (following := next_of(found[0])):
        say(f"{following} writes it into the routes for good, and ends the rollout")
    return 0 if not watch or found[0]["percent"] else NO


async def read_standings(mesh: OpenMesh) -> list[Data]:
    """Every rollout, by service. Raises NotFound without a mesh, StoreUnavailable, StoreDenied."""
    _, documents, _ = await read_documents(mesh.store, mesh.keys, mesh.signing.trust)
    rolled = await read_progress(mesh.store, mesh.keys, [name for kind, name in documents if kind == "rollout"])
    return standings_of(documents, rolled, now_utc())


async def _moved(mesh: OpenMesh, last: Data, *, told: bool) -> Data:
    """The rollout once it stands elsewhere; each change is told."""
    if told:
        emit(printable(line_of(last)))
    while True:
        await asyncio.sleep(_EVERY)
        now = _one(await read_standings(mesh), last["service"])
        if any(now[field] != last[field] for field in ("state", "phase", "step", "over", "since")):
            return now


def _one(found: Sequence[Data], service: str) -> Data:
    for each in found:
        if each["service"] == service:
            return each
    known = [each["service"] for each in found]
    raise NotFound(
        f"there is no rollout of {service}.{did_you_mean(service, known)}", next_step="meshagent rollout start"
    )


def _parts(found: Sequence[Data], *, one: bool) -> list[str | Table]:
    if not one:
        return [line_of(each) for each in found] or ["there is no rollout"]
    (data,) = found
    return [line_of(data), Table(("SUBSET", "REQUESTS", "FAILED", "ERRORS", "P99"), measured_rows(data))]
