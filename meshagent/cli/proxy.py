"""`meshagent proxy`: this host's Envoy, asked through its agent."""

from __future__ import annotations

from typing import Any

import click

from meshagent.cli.lazy import LazyGroup
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import Table, say, show
from meshagent.cli.session import Session


@click.group(cls=LazyGroup)
def proxy() -> None:
    """This host's Envoy.

    \b
    Example:  meshagent proxy status
    """


@proxy.command("status")
@mesh_options("api", "config", "output")
@click.pass_obj
@awaited
async def proxy_status(session: Session) -> int:
    """Whether Envoy is ready, and what of each kind of resource it has applied or rejected.

    Exit code 1 when it is not ready or rejects something.

    \b
    Example:  meshagent proxy status --output json
    """
    data = await session.agent().proxy_status()
    types: dict[str, dict[str, Any]] = data["types"]
    rows = [[name, *(each[count] for count in ("subscribed", "applied", "sent"))] for name, each in types.items()]
    found = {name: text for each in types.values() for name, text in each["rejected"].items()}
    rejected = [f"rejected {name}: {text}" for name, text in sorted(found.items())]
    show(data, session.form(), _words(data), Table(("TYPE", "SUBSCRIBED", "APPLIED", "SENT"), rows), *rejected)
    return 0 if data["ready"] and data["connected"] and not rejected else 1


@proxy.command("config")
@mesh_options("api", "config", "output")
@click.pass_obj
@awaited
async def proxy_config(session: Session) -> None:
    """Envoy's configuration as it runs, as JSON. Private keys are left out by Envoy.

    \b
    Example:  meshagent proxy config | jq '.configs[].dynamic_listeners'
    """
    form = session.form("json")
    show(await session.agent().proxy_config(), "json" if form == "table" else form)


@proxy.command("stats")
@click.option("--filter", "pattern", default="", metavar="REGEX", help="Only names that match.")
@mesh_options("api", "config", "output")
@click.pass_obj
@awaited
async def proxy_stats(session: Session, pattern: str) -> None:
    """Envoy's counters and gauges.

    \b
    Example:  meshagent proxy stats --filter rbac
    """
    stats = await session.agent().proxy_stats(pattern)
    if not stats:
        say("no statistic has such a name" if pattern else "Envoy has no statistics yet")
    show(stats, session.form(), Table(("NAME", "VALUE"), [[name, value] for name, value in sorted(stats.items())]))


@proxy.command("requests")
@click.option("--source", default="", metavar="SERVICE", help="Only calls by this service.")
@click.option("--destination", default="", metavar="SERVICE", help="Only calls of this service.")
@click.option("--reason", default="", metavar="CODE", help="Only those that failed for this reason.")
@click.option("--status", default="", metavar="STATUS", help="Only answers with this status, such as 503 or 5xx.")
@click.option("--since", default="", metavar="TIME", help="Only from then on: a time, or how long ago, such as 10m.")
@click.option("--failed", is_flag=True, help="Only what failed.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@mesh_options("api", "config", "output")
@click.pass_obj
@awaited
async def proxy_requests(session: Session, /, *, failed: bool, limit: int, **wanted: str) -> None:
    """The requests and connections that Envoy logged, newest first, with the reason and the ticket of each.

    `meshagent explain TICKET` tells more of one.

    \b
    Example:  meshagent proxy requests --failed --since 10m
    """
    asked = {name: value for name, value in wanted.items() if value} | ({"failed": "1"} if failed else {})
    rows = (await session.agent().requests(most=str(limit), **asked))["requests"]
    if not rows:
        say("the access log has no such call")
    show(rows, session.form(), Table(_TITLES, [_cells(row) for row in rows]))


_TITLES = ("TIME", "SIDE", "SOURCE", "DESTINATION", "REQUEST", "STATUS", "REASON", "FLAGS", "TICKET")


def _cells(row: dict[str, Any]) -> list[object]:
    request = f"{row['method']} {row['path']}".strip()
    call = (row["time"], row["side"], row["source"], row["destination"], request, row["status"] or "")
    return [*call, row["reason"] or ("(shadow)" if row.get("doubted") else ""), row["flag_words"], row["ticket"]]


def _words(data: dict[str, Any]) -> str:
    state = "ready" if data["ready"] else "not ready"
    link = "connected to its agent" if data["connected"] else "not connected to its agent"
    origin = ", taken over from an earlier agent" if data["adopted"] else ""
    return f"envoy {data['version']}, pid {data['pid']}, up {data['uptime_s']:.0f} s: {state}, {link}{origin}"
