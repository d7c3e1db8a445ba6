"""`meshagent top`: who calls whom, now: rates, errors and latencies by edge."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from meshagent.api.fleet import FleetTraffic
from meshagent.cli.counters import Counters, byte_rate, concerns, counters, milliseconds, per_second, percent
from meshagent.cli.options import DURATION, SERVICE, awaited, mesh_options
from meshagent.cli.output import Table, cell, show, warn
from meshagent.cli.session import Session
from meshagent.model.edges import EdgeRate, rates

if TYPE_CHECKING:
    from rich.console import Group

_EVERY_SECONDS = 1.0
_TITLES = ("SOURCE", "DESTINATION", "REQ/S", "ERRORS", "P50", "P99", "ACTIVE", "CONN/S", "BYTES")


@click.command()
@click.argument("service", required=False, type=SERVICE)
@click.option("--routes", is_flag=True, help="Also each rule of a route and each subset by itself.")
@click.option("--here", is_flag=True, help="Only what this host's proxy sees.")
@click.option("--all", "every", is_flag=True, help="Also edges on which nothing happens.")
@click.option("--once", is_flag=True, help="One table over one window, then end; so is it without a terminal.")
@click.option(
    "--window", type=DURATION, default="5s", metavar="DURATION", help="How far back rates look, such as 30s (5s)."
)
@mesh_options("store", "api", "config", "output")
@click.pass_obj
@awaited
async def top(
    session: Session, service: str | None, routes: bool, here: bool, every: bool, once: bool, window: timedelta
) -> None:
    """Who calls whom now, and how well: requests, errors, latencies, bytes; of the whole mesh, or what concerns SERVICE.

    Other hosts are asked by their metrics pages, where those can be reached; who could not be asked is told. `q` or Ctrl-C
    ends it.

    \b
    Example:  meshagent top payments --routes
    """
    chosen = Chosen(service, routes, every)
    live = not once and session.form() == "table" and sys.stdout.isatty()
    async with counters(session, here=here) as source:
        if live:
            await _follow(source, chosen, window.total_seconds())
            return
        after, found = await source.between(window.total_seconds())
    rows = chosen.of(found)
    value = {"edges": [asdict(each) for each in rows], "hosts": list(after.hosts), "missing": dict(after.missing)}
    show(value, session.form(), table(rows, routes=routes), *([] if rows else ["nobody calls anybody"]))
    for host, why in after.missing.items():
        warn(f"not in these numbers: {host}: {why}")


class Chosen:
    """Which edges are shown, and in which order: the busiest first."""

    def __init__(self, service: str | None, routes: bool, every: bool) -> None:
        self._service, self.routes, self._every = service, routes, every

    def of(self, found: Iterable[EdgeRate]) -> list[EdgeRate]:
        """The rows to show."""
        kept = (each for each in found if concerns(each, self._service) and self._asked(each))
        return sorted(kept, key=lambda each: (-each.rps, -each.connections_per_s, each.source, each.destination))

    def _asked(self, rate: EdgeRate) -> bool:
        part = bool(rate.route or rate.subset) and not rate.route.startswith("via ")
        moved = rate.rps or rate.active or rate.connections_per_s or rate.bytes_per_s
        return (self.routes or not part) and (self._every or bool(moved))


def table(rows: Iterable[EdgeRate], *, routes: bool = False) -> Table:
    """The edges as a person reads them."""
    extra = ("ROUTE", "SUBSET") if routes else ()
    return Table((*_TITLES[:2], *extra, *_TITLES[2:]), [list(_cells(each, routes)) for each in rows])


def _cells(rate: EdgeRate, routes: bool) -> Iterator[str]:
    yield from (rate.source, rate.destination)
    if routes:
        yield from (rate.route, rate.subset)
    yield from (per_second(rate.rps), percent(rate.error_ratio))
    yield from (milliseconds(rate.p50_ms), milliseconds(rate.p99_ms), str(rate.active))
    yield from (per_second(rate.connections_per_s), byte_rate(rate.bytes_per_s))


async def _follow(source: Counters, chosen: Chosen, window: float) -> None:
    """Show the last `window` seconds again and again, until q is pressed."""
    from rich.live import Live

    readings: deque[FleetTraffic] = deque([await source.read()])
    with pressed("q") as ended, Live(screen=True, auto_refresh=False, transient=True) as display:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_SECONDS):
                    await ended.wait()
            if ended.is_set():
                return
            readings.append(await source.read())
            while len(readings) > 2 and readings[-1].at - readings[1].at >= window:
                readings.popleft()
            display.update(screen(readings[0], readings[-1], chosen), refresh=True)


def screen(first: FleetTraffic, last: FleetTraffic, chosen: Chosen) -> Group:
    """One picture: the table, and under it who is in it."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    data = table(chosen.of(rates(first.edges, last.edges, last.at - first.at)), routes=chosen.routes)
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for title in data.titles:
        shown.add_column(title, justify="left" if title in ("SOURCE", "DESTINATION", "ROUTE", "SUBSET") else "right")
    for row in data.rows:
        shown.add_row(*(Text(cell(each)) for each in row))
    several = f"{len(last.hosts)} host{'' if len(last.hosts) == 1 else 's'}"
    told = f"{several}, the last {last.at - first.at:.0f} s; q ends it"
    lines: list[Any] = [Text(cell(f"not in these numbers: {host}: {why}")) for host, why in last.missing.items()]
    return Group(Text(told, style="dim"), shown, *lines)


@contextmanager
def pressed(key: str) -> Iterator[asyncio.Event]:
    """An event that is set when the key is pressed; keys are not shown meanwhile. Without a terminal it never is."""
    event, loop = asyncio.Event(), asyncio.get_running_loop()
    if not sys.stdin.isatty():
        yield event
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def look() -> None:
        if key in os.read(descriptor, 64).decode(errors="replace"):
            event.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, look)
    try:
        yield event
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
