"""`meshagent intention list` and `show`: what is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from shlex import quote

import click

from meshagent.cli.lazy import did_you_mean
from meshagent.cli.mesh import Seen, now_utc
from meshagent.cli.options import SERVICE_OR_ANY, awaited, mesh_options, misuse
from meshagent.cli.output import Table, say, show, warn
from meshagent.cli.rules import Data, intention_row, origin_words, row_action, rule_rows
from meshagent.cli.session import Session
from meshagent.errors import NotFound
from meshagent.model.names import ANY
from meshagent.model.world import Origin
from meshagent.policy.resolve import judged_protocol


@click.command("list")
@click.option("--source", type=SERVICE_OR_ANY, metavar="SERVICE", help="Only those of this source.")
@click.option("--destination", type=SERVICE_OR_ANY, metavar="SERVICE", help="Only those of this destination.")
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def list_intentions(session: Session, source: str | None, destination: str | None) -> None:
    """All intentions as they are written, the most precise of a destination first.

    \b
    Example:  meshagent intention list --destination payments
    """
    async with session.mesh() as mesh:
        seen = await mesh.read()
    tell_problems(seen.problems)
    rows = [row for row in _rows(seen, now_utc()) if _wanted(row, source, destination)]
    if not rows:
        say(f"no intention{' is like that' if source or destination else ' yet'}")
    titles = ("SOURCE", "DESTINATION", "ACTION", "ENDS", "REASON", "FROM")
    show(rows, session.form(), Table(titles, [_cells(row) for row in rows]))


@click.command("show")
@click.argument("names", nargs=-1, required=True, metavar="[SOURCE] DESTINATION", type=SERVICE_OR_ANY)
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def show_intention(session: Session, names: tuple[str, ...]) -> None:
    """The rules of a destination in the order in which they are asked, or one intention as it is written.

    \b
    Example:  meshagent intention show payments
    """
    if len(names) > 2:
        raise misuse(f"takes a destination, or a source and a destination, not {len(names)} names")
    async with session.mesh() as mesh:
        seen = await mesh.read()
    tell_problems({name: problem for name, problem in seen.problems.items() if name[1] in (names[-1], ANY)})
    if len(names) == 1:
        _show_rules(session, seen, names[0])
    else:
        _show_one(session, seen, *names)


def tell_problems(problems: Mapping[tuple[str, str], str]) -> None:
    """Warn of documents that cannot be read."""
    for (kind, name), problem in sorted(problems.items()):
        warn(f"the {kind} record {name} cannot be read: {problem}. Agents keep the last good version that they have")


def _rows(seen: Seen, now: datetime) -> Iterator[Data]:
    intentions = seen.world().intentions
    for destination in sorted(intentions, key=lambda name: (name == ANY, name)):
        stated = intentions[destination]
        if stated.broken:
            continue
        for source in sorted(stated.thing.sources, key=lambda each: (each.name == ANY, each.name, each.shadow)):
            yield intention_row(destination, source, stated, now)


def _wanted(row: Data, source: str | None, destination: str | None) -> bool:
    return source in (None, row["source"]) and destination in (None, row["destination"])


def _cells(row: Data) -> list[object]:
    ends = f"{row['expires_at']} (over)" if row["expired"] else row["expires_at"]
    return [row["source"], row["destination"], row_action(row), ends, row["reason"], origin_words(row["origin"])]


def _show_rules(session: Session, seen: Seen, destination: str) -> None:
    world = seen.world()
    mesh = seen.documents.get(("mesh", "mesh"))
    rows = rule_rows(seen.guard(destination, now_utc()), mesh.origin() if mesh else Origin())
    protocol = judged_protocol(world, destination)
    value = {"destination": destination, "protocol": protocol, "rules": rows}
    cells = [_rule_cells(row) for row in rows]
    show(value, session.form(), Table(("ORDER", "SOURCE", "ACTION", "RULE", "REASON", "FROM"), cells))


def _rule_cells(row: Data) -> list[object]:
    return [row["order"], row["source"], row_action(row), row["rule"], row["reason"], origin_words(row["origin"])]


def _show_one(session: Session, seen: Seen, source: str, destination: str) -> None:
    stated = seen.world().intentions.get(destination)
    every = stated.thing.sources if stated and not stated.broken else ()
    found = [each for each in every if each.name == source]
    if stated is None or not found:
        known = [each.name for each in stated.thing.sources] if stated and not stated.broken else []
        raise NotFound(
            f"there is no intention {source} -> {destination}.{did_you_mean(source, known)}",
            next_step=f"meshagent intention check {quote(source)} {quote(destination)} says what decides",
        )
    rows = [intention_row(destination, each, stated, now_utc()) for each in found]
    titles = ("source", "destination", "action", "ends", "reason", "from")
    told = ((title, each) for row in rows for title, each in zip(titles, _cells(row), strict=True) if each)
    show(rows[0] if len(rows) == 1 else rows, session.form(), *(f"{title:<12} {each}" for title, each in told))
