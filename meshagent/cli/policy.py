"""`meshagent policy`: documents into the mesh and out of it, all of them or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from meshagent.cli import output
from meshagent.cli.applied import NO, Shown, commit, finish
from meshagent.cli.cross_checks import Findings, findings
from meshagent.cli.lazy import Lazy, LazyGroup, did_you_mean
from meshagent.cli.mesh import Seen, author, now_utc
from meshagent.cli.options import awaited, mesh_options, misuse
from meshagent.cli.output import Table, emit, printable, say, show, warn
from meshagent.cli.reading import Written, name_of, read_policy, stated
from meshagent.cli.rulebook import tell_problems
from meshagent.cli.session import Session
from meshagent.documents.encode import plain, to_yaml
from meshagent.errors import Conflict, InvalidDocument, NotFound, Problem, StoreDenied, StoreUnavailable, UsageProblem
from meshagent.model.intention import Intention
from meshagent.model.kinds import KINDS, Document
from meshagent.model.world import Stated
from meshagent.state.changes import Author, Documents, Name

Data = dict[str, Any]
Edited = Mapping[Name, Stated[Document] | None]

FILES = click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="Documents to read: a file, all .yaml, .yml and .json files of a directory, or stdin; repeatable.",
)
PRUNE = click.option("--prune", is_flag=True, help="Delete the documents that no file names (never the mesh's own).")


@click.group(
    cls=LazyGroup,
    lazy={
        "diff": Lazy("meshagent.cli.policy_diff:diff", "How files differ from the mesh, line by line."),
        "plan": Lazy("meshagent.cli.policy_diff:plan", "What files would change, in words: who gains and loses whom."),
        "lint": Lazy("meshagent.cli.policy_lint:lint", "What is allowed in files and yet most likely not meant."),
        "test": Lazy("meshagent.cli.policy_cases:test", "Whether documents do what the cases beside them expect."),
        "import": Lazy(
            "meshagent.cli.policy_import:import_", "Turn the policy of Istio, Consul or Kuma into documents."
        ),
        "export": Lazy("meshagent.cli.policy_diff:export", "Write all documents of the mesh as files."),
        "history": Lazy("meshagent.cli.policy_history:history", "What was changed, by whom, when and why."),
        "rollback": Lazy("meshagent.cli.policy_history:rollback", "Make the policy what it was at a revision."),
        "key": Lazy("meshagent.cli.signed:key", "Make the key that policy is signed with."),
        "sign": Lazy("meshagent.cli.signed:sign", "Sign all of the policy anew: to begin, and to change the key."),
    },
)
def policy() -> None:
    """Policy documents (mesh, intention, service): apply, validate, get, delete, sign.

    \b
    Example:  meshagent policy apply -f policies/
    """


@policy.command()
@FILES
@PRUNE
@click.option("--check", is_flag=True, help="Change nothing: exit code 5 when there is something to change.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the history.")
@mesh_options("store", "config", "output", "wait", "timeout")
@click.pass_obj
@awaited
async def apply(session: Session, files: tuple[str, ...], prune: bool, check: bool, reason: str) -> int:
    """Make documents count: all of them at once, or on any error none (exit code 3).

    A document replaces the one of its kind and name; what no file names stays, unless --prune is given.

    \b
    Example:  meshagent policy apply -f policies/ --prune --wait
    """
    written, problems = read_policy(files)
    if prune and problems:
        raise_errors(problems, "nothing was applied")  # nobody knows which documents they would have named
    try:
        return await _apply(session, written, problems, prune=prune, check=check, reason=reason)
    except (StoreUnavailable, StoreDenied, NotFound):
        raise_errors(problems, "nothing was applied")  # what is wrong with the files is wrong without a store too
        raise


async def _apply(
    session: Session,
    written: Sequence[Written],
    problems: Sequence[Problem],
    *,
    prune: bool,
    check: bool,
    reason: str,
) -> int:
    async with session.mesh() as mesh:
        seen = await mesh.read()
        application = Application(written, problems, seen, author(now_utc(), reason), prune=prune)
        if check:
            return _checked(session, application, seen)
        outcome = await commit(mesh, application.edit, application.by)
        application.warn()
        rows = application.rows()
        shown = Shown({"documents": _results(rows)}, (*_lines(rows), f"revision {outcome.revision}"))
        return await finish(session, mesh, outcome, [(row["kind"], row["name"]) for row in rows], shown)


def _checked(session: Session, application: Application, seen: Seen) -> int:
    """What would be done, and 5 when that is something."""
    application.edit(seen.documents)
    application.warn()
    rows = application.rows()
    moved = any(row["result"] != "unchanged" for row in rows)
    words = "nothing was changed (--check)" if moved else f"the mesh is as the files say (revision {seen.revision})"
    show({"documents": _results(rows), "changes": moved}, session.form(), *_lines(rows), words)
    return NO if moved else 0


def _lines(rows: Sequence[Data]) -> list[str]:
    return [f"{row['result']:<9} {row['kind']} {row['name']}{row['words']}" for row in rows]


def _results(rows: Sequence[Data]) -> list[Data]:
    return [{key: row[key] for key in ("kind", "name", "result")} for row in rows]


@policy.command()
@FILES
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def validate(session: Session, files: tuple[str, ...]) -> None:
    """Say what is wrong with documents, and change nothing. Exit code 3 when there is an error.

    Checked together with what the mesh holds, where its store answers.

    \b
    Example:  meshagent policy validate -f policies/
    """
    written, problems = read_policy(files)
    seen, excuse = await seen_if_any(session)
    found = findings(written, (), seen)
    raise_errors((*problems, *found.errors), "these documents cannot be applied")
    warn_all(found)
    if excuse:
        say(f"checked without the mesh: {excuse}")
    rows = [
        {"kind": each.document.kind, "name": each.document.name, "file": each.file, "line": each.line}
        for each in written
    ]
    show(rows, session.form(), *(f"valid     {row['kind']} {row['name']}" for row in rows))


@policy.command()
@click.argument("kind", required=False, type=click.Choice(list(KINDS)))
@click.argument("name", required=False)
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def get(session: Session, kind: str | None, name: str | None) -> None:
    """Print documents as YAML that can be applied again; --output table lists where they come from.

    \b
    Example:  meshagent policy get intention payments > payments.yaml
    """
    async with session.mesh() as mesh:
        seen = await mesh.read()
    wanted = {each: seen.documents[each] for each in sorted(seen.documents) if _is(each, kind, name)}
    tell_problems({each: problem for each, problem in seen.problems.items() if _is(each, kind, name)})
    if name is not None and not wanted:
        raise _missing(seen, kind, name)
    things = [found.thing for found in wanted.values()]
    if session.form("yaml") == "yaml":
        text = to_yaml(things)
        emit((text if printable(text) == text else _escaped(things)).removesuffix("\n"))
        return
    rows = [[each.kind, each.name, wanted[(each.kind, each.name)].origin()] for each in things]
    show([plain(each) for each in things], session.form(), Table(("KIND", "NAME", "FROM"), rows))


@policy.command()
@click.argument("kind", required=False, type=click.Choice(list(KINDS)))
@click.argument("name", required=False)
@click.option("-f", "--file", "files", multiple=True, metavar="FILE|DIR|-", help="Delete the documents that it names.")
@mesh_options("store", "config", "output", "wait", "timeout")
@click.pass_obj
@awaited
async def delete(session: Session, kind: str | None, name: str | None, files: tuple[str, ...]) -> int:
    """Take documents out of the mesh: one by KIND and NAME, or all that files name.

    \b
    Example:  meshagent policy delete intention payments
    """
    names = _names_to_delete(kind, name, files)
    async with session.mesh() as mesh:
        seen = await mesh.read()
        _require_readable(seen, names)
        if not files and names[0] not in seen.documents:
            raise _missing(seen, kind, name)

        def edit(documents: Documents) -> Edited:
            found = findings((), names, replace(seen, documents=documents))
            raise_errors(found.errors, "nothing was deleted")
            return dict.fromkeys(names)

        outcome = await commit(mesh, edit, author(now_utc()))
        gone = {each: "deleted" if each in outcome.changed else "absent" for each in names}
        value = {"documents": [{"kind": each, "name": other, "result": gone[each, other]} for each, other in names]}
        lines = [f"{result:<9} {each} {other}" for (each, other), result in gone.items()]
        shown = Shown(value, (*lines, f"revision {outcome.revision}"))
        return await finish(session, mesh, outcome, names, shown)


class Application:
    """What is to be applied. `edit` may be asked several times, when others change the documents meanwhile."""

    def __init__(
        self, written: Sequence[Written], problems: Sequence[Problem], seen: Seen, by: Author, *, prune: bool = False
    ) -> None:
        self.by = by
        self._prune = prune
        self._pruned: list[Name] = []
        self._written = written
        self._problems = problems
        self._seen = seen
        self._before: Documents = {}
        self._found = Findings()

    def edit(self, documents: Documents) -> Edited:
        """The documents with their origins. Raises InvalidDocument with everything that is wrong."""
        self._before = documents
        named = {name_of(each) for each in self._written} | {("mesh", "mesh")}
        self._pruned = sorted(set(documents) - named) if self._prune else []
        self._found = findings(self._written, self._pruned, replace(self._seen, documents=documents))
        raise_errors((*self._problems, *self._found.errors), "nothing was applied")
        return {**dict.fromkeys(self._pruned), **{name_of(each): stated(each, self.by) for each in self._written}}

    def warn(self) -> None:
        """Tell what is doubtful, and which unreadable records were replaced."""
        warn_all(self._found)
        for each in self._written:
            if problem := self._seen.problems.get(name_of(each)):
                warn(f"{each.file}:{each.line}: replaces a record that could not be read: {problem}")

    def rows(self) -> list[Data]:
        """What happened to each document, in the files' order; then what was pruned."""
        gone = [{"kind": kind, "name": name, "result": "deleted", "words": ""} for kind, name in self._pruned]
        return [*map(self._row, self._written), *gone]

    def _row(self, each: Written) -> Data:
        kind, name = name_of(each)
        held = self._before.get((kind, name))
        if held is None:
            return {"kind": kind, "name": name, "result": "created", "words": ""}
        result = "unchanged" if held.thing == each.document else "changed"
        return {"kind": kind, "name": name, "result": result, "words": _difference(held.thing, each.document)}


def _difference(old: Document, new: Document) -> str:
    """` (+reporting -batch ~web)`: the sources of an intention that came, went and changed."""
    if not isinstance(old, Intention) or not isinstance(new, Intention):
        return ""
    before, after = ({source.part: source for source in each.sources} for each in (old, new))
    marks = [
        f"{'+' if part not in before else '-' if part not in after else '~'}{part}"
        for part in dict.fromkeys((*after, *before))
        if before.get(part) != after.get(part)
    ]
    return f" ({' '.join(marks)})" if marks else ""


def _escaped(things: Sequence[Document]) -> str:
    """The documents as YAML that no terminal takes for commands."""
    return "---\n".join(output.to_yaml(plain(each)) for each in things)


def _missing(seen: Seen, kind: str | None, name: str | None) -> NotFound:
    known = [other for each, other in seen.documents if each == kind]
    return NotFound(
        f"there is no {kind} {name}.{did_you_mean(str(name), known)}", next_step="meshagent policy get -o table"
    )


def _require_readable(seen: Seen, names: Sequence[Name]) -> None:
    for each in names:
        if problem := seen.problems.get(each):
            raise Conflict(
                f"the {each[0]} record {each[1]} cannot be read ({problem}), so what would go with it is not known",
                next_step="put another one in its place with meshagent policy apply, then delete that",
            )


def _names_to_delete(kind: str | None, name: str | None, files: tuple[str, ...]) -> list[Name]:
    if bool(files) == bool(kind):
        raise misuse("takes either KIND and NAME or -f FILE")
    if files:
        written, problems = read_policy(files)
        raise_errors(problems, "nothing was deleted")
        names = list(dict.fromkeys(name_of(each) for each in written))
    elif kind and name:
        names = [(kind, name)]
    else:
        raise misuse(f"which {kind}? Give its NAME too")
    if ("mesh", "mesh") in names:
        raise UsageProblem(
            "the mesh document cannot be deleted: without it nobody would know what the default is",
            next_step="apply another one in its place",
        )
    return names


def _is(each: Name, kind: str | None, name: str | None) -> bool:
    return kind in (None, each[0]) and name in (None, each[1])


def raise_errors(problems: Sequence[Problem], consequence: str) -> None:
    """Raise InvalidDocument with all problems, in the files' order; nothing without any."""
    if problems:
        found = tuple(sorted(dict.fromkeys(problems), key=lambda each: (each.file, each.line)))
        count = f"{len(found)} problems" if len(found) > 1 else "one problem"
        raise InvalidDocument(found, next_step=f"{count}: {consequence}; mend and try again")


def warn_all(found: Findings) -> None:
    """Tell every warning."""
    for problem in found.warnings:
        warn(str(problem))


async def seen_if_any(session: Session) -> tuple[Seen, str]:
    """The mesh, or an empty one and why."""
    try:
        async with session.mesh() as mesh:
            return await mesh.read(), ""
    except (StoreUnavailable, StoreDenied, NotFound) as error:
        return Seen(0, {}, {}, ()), error.message
