"""`meshagent metrics`: where Prometheus finds the hosts of the mesh."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import click

from meshagent.cli.lazy import LazyGroup
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import emit, say, warn
from meshagent.cli.session import Session
from meshagent.errors import MeshError, UsageProblem

if TYPE_CHECKING:
    from meshagent.cli.mesh import OpenMesh
    from meshagent.state.records import ReportRecord

_AGAIN_SECONDS = 5.0  # after an error of the store
_MODE = 0o644  # Prometheus runs as a user of its own, and there is no secret in it


@click.group(cls=LazyGroup)
def metrics() -> None:
    """The numbers that hosts show to Prometheus.

    \b
    Example:  meshagent metrics targets --out /etc/prometheus/meshagent.json
    """


@metrics.command()
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write FILE, when it is to change.")
@click.option("--follow", is_flag=True, help="Go on: write the file anew whenever hosts come, go or move.")
@mesh_options("store", "config")
@click.pass_obj
@awaited
async def targets(session: Session, out: Path | None, follow: bool) -> None:
    """The metrics pages of all hosts that live, in the form of Prometheus' `file_sd_configs`.

    A host whose `metrics` is a loopback address is left out: nobody else reaches it. While the store is away,
    `--follow` leaves the file as it is.

    \b
    Example:  meshagent metrics targets --out /etc/prometheus/meshagent.json --follow
    """
    if follow and out is None:
        raise UsageProblem("--follow writes a file", next_step="name it with --out")
    while True:
        try:
            await _told(session, out, follow=follow)
            return
        except MeshError as error:
            if not follow:
                raise
            warn(error.message)
        await asyncio.sleep(_AGAIN_SECONDS)


def scrape_targets(reports: Sequence[ReportRecord]) -> list[dict[str, Any]]:
    """A group for each host that has a page, with its name as the label `host`."""
    return [{"targets": [report.metrics], "labels": {"host": report.host}} for report in reports if report.metrics]


async def _told(session: Session, out: Path | None, *, follow: bool) -> None:
    async with session.mesh() as mesh:
        missing = await _tell(mesh, out)
        if missing:
            warn(f"no page that others reach: {', '.join(missing)}; set `metrics` in agent.yaml there")
        if follow and out is not None:
            await _follow(mesh, out)


async def _follow(mesh: OpenMesh, out: Path) -> Never:
    say(f"following the hosts of {mesh.where}; Ctrl-C to end")
    while True:
        after = (await mesh.store.read(mesh.keys.reports)).revision
        await _tell(mesh, out)
        async for _ in mesh.store.watch((mesh.keys.reports,), after=after):
            await _tell(mesh, out)


async def _tell(mesh: OpenMesh, out: Path | None) -> list[str]:
    """Print or write the targets; returns the hosts that are none."""
    from meshagent.state.catalog import read_reports

    reports = await read_reports(mesh.store, mesh.keys)
    text = json.dumps(scrape_targets(reports), indent=1)
    if out is None:
        emit(text)
    else:
        await asyncio.to_thread(_write, out, text + "\n")
    return [report.host for report in reports if not report.metrics]


def _write(file: Path, text: str) -> None:
    """In one step, for Prometheus reads it whenever it changes. Raises UsageProblem where that cannot be."""
    try:
        if file.exists() and file.read_text() == text:
            return
        beside = file.with_name(f".{file.name}.new")
        beside.write_text(text)
        beside.chmod(_MODE)
        beside.replace(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{file} cannot be written: {error}", next_step="name a file that you may write") from None
