"""`meshagent tap`: the requests of this host's services as they end."""

from __future__ import annotations

import json
from typing import Any

import click

from meshagent.cli.options import SERVICE, awaited, mesh_options, misuse
from meshagent.cli.output import emit, printable, say, warn
from meshagent.cli.session import Session
from meshagent.errors import AgentUnreachable

Data = dict[str, Any]
_SIDES = ("inbound", "outbound", "external", "gateway")


@click.command()
@click.argument("service", required=False, type=SERVICE)
@click.option("--source", metavar="NAME", help="Only calls by this service.")
@click.option("--destination", metavar="NAME", help="Only calls to this service or name outside.")
@click.option("--side", type=click.Choice(_SIDES), help="Only what a proxy sees on this side of its service.")
@click.option("--method", metavar="METHOD", help="Only requests with this method.")
@click.option("--path", metavar="PATTERN", help="Only requests whose path matches, such as '/v1/*'.")
@click.option("--status", metavar="STATUS", help="Only answers with this status, or of a class: 404, 5xx.")
@click.option("--reason", metavar="CODE", help="Only what failed for this reason, such as intention or timeout.")
@click.option("--failed", is_flag=True, help="Only what failed.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many.")
@mesh_options("api", "config", "output")
@click.pass_obj
@awaited
async def tap(session: Session, /, service: str | None, count: int | None, failed: bool, **wanted: str | None) -> int:
    """Show requests of this host's services as they end, or those of SERVICE; TCP connections too. Ctrl-C ends it.

    Each call is seen by the caller's proxy (outbound) and by the called one's (inbound), where both run here. Nothing of it
    is kept, and nothing stays switched on. Headers, bodies and query strings are not shown.

    \b
    Example:  meshagent tap payments --status 5xx --output json
    """
    form = session.form()
    if form == "yaml":
        raise misuse("a tap prints a table or json")
    query = {name: value for name, value in {**wanted, "service": service}.items() if value}
    async with session.agent().tap(**query, **({"failed": "1"} if failed else {})) as requests:
        if form == "table":
            say(f"watching {service or 'all services of this host'}; Ctrl-C ends it")
        left = count
        async for each in requests:
            if "missed" in each:
                warn(f"{each['missed']} requests went by unseen: there were more than can be shown")
                continue
            emit(json.dumps(each) if form == "json" else printable(line(each)))
            left = left - 1 if left else None
            if left == 0:
                return 0
    raise AgentUnreachable("the agent ended, or the service went away from it", next_step="meshagent status")


def line(seen: Data) -> str:
    """One request or connection on one line."""
    call = f"{seen['source'] or '?'} -> {seen['destination'] or '?'}"
    what = (
        f"{seen['method'] or '?'} {seen['path']} {seen['status']}" if seen["method"] or seen["status"] else "connection"
    )
    took = f"{seen['duration_ms']} ms" if seen["duration_ms"] >= 0 else ""
    parts = [seen["time"][11:23], seen["side"].ljust(8), call.ljust(24), what, took]
    if seen["route"] or seen["subset"]:
        parts.append(f"[{' '.join(filter(None, (seen['route'], seen['subset'])))}]")
    if seen["reason"]:
        parts += [seen["reason"], f"ticket {seen['ticket']}" if seen["ticket"] else ""]
    if seen.get("doubted"):
        parts.append("shadow would refuse it")
    return "  ".join(part for part in parts if part)
