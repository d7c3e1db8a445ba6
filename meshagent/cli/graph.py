"""`meshagent graph`: the mesh's calls as text, DOT, SVG or JSON."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import click

from meshagent.cli.counters import counters
from meshagent.cli.drawing.graph import graph as graph_of
from meshagent.cli.drawing.svg import as_svg
from meshagent.cli.drawing.text import as_dot, as_text
from meshagent.cli.options import DURATION, SERVICE, awaited, mesh_options
from meshagent.cli.output import emit, printable, show, warn
from meshagent.cli.session import Session
from meshagent.model.edges import OTHER, Edge

_DRAWN = {"text": as_text, "dot": as_dot, "svg": as_svg}
_OUTPUTS = (*_DRAWN, "json", "yaml")


@click.command()
@click.argument("service", required=False, type=SERVICE)
@click.option("-o", "--output", type=click.Choice(_OUTPUTS), help="How it is written; text unless told.")
@click.option("--here", is_flag=True, help="Only what this host's proxy sees.")
@click.option("--all", "every", is_flag=True, help="Also calls that are declared and were never made.")
@click.option(
    "--window", type=DURATION, default="5s", metavar="DURATION", help="Over how long rates are measured (5s)."
)
@mesh_options("store", "api", "config")
@click.pass_obj
@awaited
async def graph(
    session: Session, service: str | None, output: str | None, here: bool, every: bool, window: timedelta
) -> None:
    """The services of the mesh and the calls between them, with rates, errors and latencies; or those around SERVICE.

    A call is shown once it was made since the proxies began. SVG is drawn here; DOT is for Graphviz.

    \b
    Example:  meshagent graph --output svg > mesh.svg
    """
    form = output or session.output or "text"
    async with counters(session, here=here) as source:
        after, rates = await source.between(window.total_seconds())
        found = graph_of(rates, used(after.edges), await source.instances(), service=service, every=every)
    if form in ("json", "yaml"):
        about = {"hosts": list(after.hosts), "missing": dict(after.missing)}
        show(found.data() | about, "json" if form == "json" else "yaml")
    else:
        emit(printable(_DRAWN.get(form, as_text)(found)))
    for host, why in after.missing.items():
        warn(f"not in this graph: {host}: {why}")


def used(edges: Iterable[Edge]) -> frozenset[tuple[str, str]]:
    """The pairs between which anything was ever counted. Callers that a proxy does not tell apart tell of themselves."""
    return frozenset(
        (each.source, each.destination)
        for each in edges
        if each.failed or each.active or any(each.requests.values()) or each.connections
        if each.source != OTHER
    )
