"""`meshagent policy history` and `rollback`: what was changed, and the way back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import click

from meshagent.cli.applied import NO, Shown, commit, finish
from meshagent.cli.cross_checks import findings
from meshagent.cli.mesh import Seen, author, now_utc
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import Table, say, show, to_yaml, warn
from meshagent.cli.policy import raise_errors
from meshagent.cli.policy_diff import difference
from meshagent.cli.rules import Data, moment
from meshagent.cli.session import Session
from meshagent.documents.decode import Located
from meshagent.errors import Conflict, NotFound, SignatureRefused
from meshagent.model.kinds import Document
from meshagent.model.world import Stated
from meshagent.state.changes import Documents, Name
from meshagent.state.histories import read_histories, undone
from meshagent.state.records import HistoryRecord

Edits = Mapping[Name, Stated[Document] | None]


@click.command()
@click.argument("revision", required=False, type=click.IntRange(min=1))
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, the newest first.")
@click.option("--of", "subject", metavar="KIND/NAME", default="", help="Only changes of this document.")
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def history(session: Session, revision: int | None, limit: int, subject: str) -> None:
    """Who changed what, when and why; with REVISION, what exactly it changed.

    \b
    Example:  meshagent policy history 12
    """
    async with session.mesh() as mesh:
        found, problems = await read_histories(mesh.store, mesh.keys)
    for key, problem in sorted(problems.items()):
        warn(f"{key} cannot be read: {problem}")
    if revision is not None:
        _show_one(session, found, revision)
        return
    newest = [each for each in reversed(found) if not subject or subject in map(_place, each.edits)][:limit]
    rows = [head_row(each) | {"changed": list(map(_place, each.edits))} for each in newest]
    cells = [[row["revision"], row["at"], row["who"], _few(row["changed"]), row["why"]] for row in rows]
    show(rows, session.form(), Table(("REVISION", "AT", "WHO", "CHANGED", "WHY"), cells))


@click.command()
@click.argument("revision", type=click.IntRange(min=1))
@click.option("--check", is_flag=True, help="Only show what would change: exit code 5 when something would.")
@click.option("--adopt", is_flag=True, help="Sign what the history says: it is not signed itself, so look at it first.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the history.")
@mesh_options("store", "config", "output", "wait", "timeout")
@click.pass_obj
@awaited
async def rollback(session: Session, revision: int, check: bool, adopt: bool, reason: str) -> int:
    """Make the policy what it was right after REVISION, as a new revision. All of it, or nothing.

    \b
    Example:  meshagent policy rollback 11 --reason INC-7
    """
    async with session.mesh() as mesh:
        seen = await mesh.read()
        if revision > seen.revision:
            raise NotFound(f"the mesh is at revision {seen.revision}", next_step="meshagent policy history")
        histories, _ = await read_histories(mesh.store, mesh.keys)
        by = author(now_utc(), reason or f"rollback to revision {revision}")
        wanted = undone(seen.documents, histories, revision, seen.revision, by)
        rows = [difference(name, seen.documents.get(name), new) for name, new in sorted(wanted.items())]
        if check:
            show(rows, session.form(), *(row["diff"] for row in rows))
            return NO if rows else 0
        if mesh.signing.signer and wanted and not adopt:
            raise SignatureRefused(
                "the policy of this mesh is signed, but its history is not: whoever can write the store can write it",
                next_step=f"look at meshagent policy rollback {revision} --check, then give --adopt",
            )
        outcome = await commit(mesh, _Undo(wanted, seen).edit, by)
        lines = [f"{_result(seen.documents, name, new):<9} {' '.join(name)}" for name, new in sorted(wanted.items())]
        if not lines:
            say(f"the policy is what it was at revision {revision}")
        value = {"documents": [{"kind": kind, "name": name} for kind, name in sorted(wanted)]}
        return await finish(
            session, mesh, outcome, list(wanted), Shown(value, (*lines, f"revision {outcome.revision}"))
        )


class _Undo:
    """The edit, checked as `policy apply` checks documents."""

    def __init__(self, wanted: Edits, seen: Seen) -> None:
        self._wanted = wanted
        self._seen = seen

    def edit(self, documents: Documents) -> Edits:
        """What is wanted. Raises Conflict when the documents are not those that it was made for, InvalidDocument."""
        if _things(documents) != _things(self._seen.documents):
            raise Conflict("somebody else changed the policy meanwhile", next_step="try again")
        written = [
            Located(new.thing, f"{'/'.join(name)} of {new.origin().file}", 0, {})
            for name, new in self._wanted.items()
            if new is not None
        ]
        deleted = [name for name, new in self._wanted.items() if new is None]
        found = findings(written, deleted, self._seen)
        raise_errors(found.errors, "nothing was rolled back")
        return self._wanted


def _things(documents: Documents) -> dict[Name, Document]:
    return {name: stated.thing for name, stated in documents.items()}


def _show_one(session: Session, found: Sequence[HistoryRecord], revision: int) -> None:
    record = next((each for each in found if each.revision == revision), None)
    if record is None:
        raise NotFound(f"there is no history of revision {revision}", next_step="meshagent policy history")
    head = f"revision {revision}, {record.who} at {moment(record.at)}{f': {record.why}' if record.why else ''}"
    edits = [edit_row(edit) for edit in record.edits]
    show(head_row(record) | {"edits": edits}, session.form(), head, *(row["diff"] for row in edits))


def head_row(record: HistoryRecord) -> Data:
    """A revision: who made it, when and why."""
    return {"revision": record.revision, "at": moment(record.at), "who": record.who, "why": record.why}


def edit_row(edit: HistoryRecord.Edit) -> Data:
    """An edit and its diff, as it is kept: what an older version wrote need not be a document of this one."""
    before, after = (to_yaml(data).splitlines() if data else [] for data in (edit.before, edit.after))
    lines = difflib.unified_diff(before, after, f"a/{_place(edit)}", f"b/{_place(edit)}", lineterm="")
    return {**edit.model_dump(), "diff": "\n".join(lines)}


def _place(edit: HistoryRecord.Edit) -> str:
    return f"{edit.kind}/{edit.name}"


def _few(places: Sequence[str]) -> str:
    return ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")


def _result(before: Documents, name: Name, new: Stated[Document] | None) -> str:
    return "deleted" if new is None else "changed" if name in before else "created"
