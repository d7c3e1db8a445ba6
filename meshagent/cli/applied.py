"""Committing a change, and waiting until it is in force on every proxy that it concerns."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from meshagent.cli.mesh import OpenMesh
from meshagent.cli.output import Table, fail, say, show
from meshagent.cli.session import Session
from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.state.changes import Author, Edit, Name, change
from meshagent.state.waiting import Waited, wait_applied

NO = 5  # exit code: the answer is no


class Shown(NamedTuple):
    """What a command shows of a change: as data, and as the parts of a table."""

    value: dict[str, Any]
    parts: tuple[str | Table, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a change did; `waited` is None when nobody waited."""

    revision: int
    changed: tuple[Name, ...]
    started: float  # monotonic seconds, before the commit: "applied in" is what a person waited for
    waited: Waited | None = None
    milliseconds: int = 0

    @property
    def exit_code(self) -> int:
        """1 when a proxy has not applied it in time."""
        return 1 if self.waited is not None and self.waited.missing else 0

    def data(self) -> dict[str, Any]:
        """As plain data."""
        waited = None
        if self.waited is not None:
            waited = {
                "applied": list(self.waited.applied),
                "missing": list(self.waited.missing),
                "rejected": self.waited.rejected,
                "milliseconds": self.milliseconds,
            }
        changed = [{"kind": kind, "name": name} for kind, name in self.changed]
        return {"revision": self.revision, "changed": changed, "waited": waited}


async def commit(mesh: OpenMesh, edit: Edit, by: Author) -> Outcome:
    """Make a change. Raises what `change` raises."""
    started = time.monotonic()
    applied = await change(mesh.store, mesh.keys, edit, by, mesh.signing)
    return Outcome(applied.revision, applied.changed, started)


async def finish(session: Session, mesh: OpenMesh, outcome: Outcome, names: Collection[Name], shown: Shown) -> int:
    """Show what was done, and wait as the session says until it is in force; the exit code.

    `names` are the documents that the command is about: also when nothing had to be changed, who waits wants to know
    that they are in force. A table is shown before the wait, other forms hold its end.
    """
    if session.form() == "table":
        show(shown.value, "table", *shown.parts)
    outcome = await _waited(session, mesh, outcome, names) if session.waits else outcome
    if session.form() != "table":
        show({**shown.value, **outcome.data()}, session.form())
    return _tell(outcome, session)


async def _waited(session: Session, mesh: OpenMesh, outcome: Outcome, names: Collection[Name]) -> Outcome:
    try:
        waited = await wait_applied(mesh.store, mesh.keys, outcome.revision, names, session.seconds)
    except (StoreUnavailable, StoreDenied) as error:
        stored = f"the change is stored (revision {outcome.revision}), but whether it is in force is not known"
        raise type(error)(f"{stored}: {error}", next_step="meshagent status") from None
    return replace(outcome, waited=waited, milliseconds=round((time.monotonic() - outcome.started) * 1000))


def _tell(outcome: Outcome, session: Session) -> int:
    """Say how far the change has come; the exit code."""
    waited = outcome.waited
    if waited is None:
        return 0
    total = len(waited.applied) + len(waited.missing)
    if not total:
        say("no proxy is concerned yet: it is in force as soon as one is")
    elif not waited.missing:
        proxies = "proxy" if total == 1 else "proxies"
        say(f"applied on {total} of {total} {proxies} in {outcome.milliseconds} ms")
    else:
        _tell_missing(outcome, waited, total, session.seconds)
    return outcome.exit_code


def _tell_missing(outcome: Outcome, waited: Waited, total: int, seconds: float) -> None:
    for host in waited.missing:
        if found := waited.rejected.get(host):
            for name, message in sorted(found.items()):
                say(f"rejected by {host}: {name}: {message}")
        else:
            say(f"not yet applied on {host}")
    fail(
        f"applied on {len(waited.applied)} of {total} proxies after {seconds:g} s; "
        f"the change itself is stored (revision {outcome.revision}), and the others apply it as soon as they can",
        "meshagent status shows why; --timeout waits longer",
    )
