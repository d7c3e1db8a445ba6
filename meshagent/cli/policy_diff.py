"""`meshagent policy diff`, `plan` and `export`: files beside the mesh, as text and in effect."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from meshagent.cli import output
from meshagent.cli.applied import NO
from meshagent.cli.mesh import Seen, author, now_utc
from meshagent.cli.observing import evidence, observed
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import say, show
from meshagent.cli.policy import FILES, PRUNE, Application, raise_errors
from meshagent.cli.reading import read_policy
from meshagent.cli.rules import action_words
from meshagent.cli.session import Session
from meshagent.cli.shift_words import rule_changes, shift_rows
from meshagent.documents.encode import plain, to_yaml
from meshagent.errors import UsageProblem
from meshagent.model.kinds import Document
from meshagent.model.names import ANY
from meshagent.model.route import Route
from meshagent.model.view import Rule
from meshagent.model.world import Stated
from meshagent.policy.plan import Effect, effects
from meshagent.policy.shifts import shifts
from meshagent.policy.suggest import Loss, losses
from meshagent.state.catalog import read_reports
from meshagent.state.changes import Documents, Name
from meshagent.state.records import ReportRecord

Data = dict[str, Any]
Edits = Mapping[Name, Stated[Document] | None]
_WORDS = {
    "gains": "{source} gains {destination}",
    "loses": "{source} loses {destination}",
    "narrows": "{source} keeps only some of {destination}",
    "widens": "{source} gains all of {destination}",
    "differs": "{source} gets another choice of {destination}",
}


@click.command()
@FILES
@PRUNE
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def diff(session: Session, files: tuple[str, ...], prune: bool) -> int:
    """How the documents of files differ from the mesh's, line by line. Exit code 0: not at all, 5: they do.

    \b
    Example:  meshagent policy diff -f policies/
    """
    seen, edits, _ = await _edits(session, files, prune)
    rows = [difference(name, seen.documents.get(name), new) for name, new in sorted(edits.items())]
    rows = [row for row in rows if row["diff"]]
    show(rows, session.form(), *(row["diff"] for row in rows))
    if not rows:
        say(f"the mesh is as the files say (revision {seen.revision})")
    return NO if rows else 0


@click.command()
@FILES
@PRUNE
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def plan(session: Session, files: tuple[str, ...], prune: bool) -> None:
    """What applying files would mean: who gains or loses whom, which share of requests goes elsewhere, and what else changes.

    And which calls that the mesh saw would be refused, in the last seven days. Changes nothing. Shares are those that there
    are now: a subset without an instance gets none.

    \b
    Example:  meshagent policy plan -f policies/ --prune
    """
    seen, edits, reports = await _edits(session, files, prune)
    planned = plan_data(seen, edits, reports)
    every = [row for rows in planned.values() for row in rows]
    show(planned, session.form(), *(row["words"] for row in every))
    if not every:
        say("nothing would change")


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Write over files that are there.")
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def export(session: Session, directory: Path, force: bool) -> None:
    """Write every document of the mesh to a file of its own, DIRECTORY/KIND-NAME.yaml, for version control.

    `policy apply -f DIRECTORY --prune` makes a mesh what the directory says.

    \b
    Example:  meshagent policy export policies/
    """
    async with session.mesh() as mesh:
        seen = await mesh.read()
    names = sorted(seen.documents)
    files = {name: directory / f"{name[0]}{'' if name[1] == ANY else f'-{name[1]}'}.yaml" for name in names}
    if (there := [str(path) for path in files.values() if path.exists()]) and not force:
        raise UsageProblem(f"{there[0]} is there already", next_step="name another directory, or give --force")
    directory.mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        path.write_text(to_yaml([seen.documents[name].thing]))
    rows = [{"kind": kind, "name": name, "file": str(files[kind, name])} for kind, name in names]
    show(rows, session.form(), *(row["file"] for row in rows))
    raise_unreadable(seen)


def plan_data(seen: Seen, edits: Edits, reports: Sequence[ReportRecord] = ()) -> dict[str, list[Data]]:
    """What edits of the mesh would mean now: for calls, for those that hosts saw, for ways of requests, and other settings."""
    after = replace(seen, documents=changed(seen.documents, edits))
    worlds = (seen.world(), after.world())
    return {
        "calls": [_effect(each) for each in effects(*worlds, now_utc(), seen.services)],
        "observed": [_loss(each) for each in losses(*worlds, observed(reports), now_utc())],
        "ways": [row for shift in shifts(*worlds) for row in shift_rows(shift)],
        "settings": [
            row for name, new in sorted(edits.items()) for row in _settings(name, seen.documents.get(name), new)
        ],
    }


def raise_unreadable(seen: Seen) -> None:
    """Raise UsageProblem where a record of the mesh could not be read: what was written is not all."""
    if seen.problems:
        kind, name = min(seen.problems)
        raise UsageProblem(
            f"{len(seen.problems)} record(s) cannot be read and were left out, such as {kind} {name}: "
            f"{seen.problems[kind, name]}",
            next_step="use a meshagent of the version that wrote them, or put others in their place",
        )


def changed(documents: Documents, edits: Edits) -> dict[Name, Stated[Document]]:
    """The documents after the edits."""
    after = {**documents, **edits}
    return {name: stated for name, stated in after.items() if stated is not None}


async def _edits(session: Session, files: Sequence[str], prune: bool) -> tuple[Seen, Edits, tuple[ReportRecord, ...]]:
    """The mesh, what applying the files would do to it, and what its hosts say. Raises what `apply` raises."""
    written, problems = read_policy(files)
    async with session.mesh() as mesh:
        seen = await mesh.read()
        reports = await read_reports(mesh.store, mesh.keys)
    raise_errors(problems, "nothing was compared")
    application = Application(written, problems, seen, author(now_utc()), prune=prune)
    edits = application.edit(seen.documents)
    application.warn()
    return seen, edits, reports


def difference(name: Name, old: Stated[Document] | None, new: Stated[Document] | None) -> Data:
    """A document before and after as a unified diff of its YAML; an empty one when it says the same."""
    place = "/".join(name)
    lines = difflib.unified_diff(
        _text(old).splitlines(),
        _text(new).splitlines(),
        f"mesh/{place}" if old else "/dev/null",
        new.origin().file if new else "/dev/null",
        lineterm="",
    )
    return {"kind": name[0], "name": name[1], "diff": "\n".join(lines)}


def _text(stated: Stated[Document] | None) -> str:
    return output.to_yaml(plain(stated.thing)) if stated else ""


def _effect(effect: Effect) -> Data:
    source = "every service that no intention names" if effect.source == ANY else effect.source
    words = _WORDS[effect.turn].format(source=source, destination=effect.destination)
    rule = effect.after or effect.before
    how = f": {_rule_words(effect.after)}" if effect.turn in ("narrows", "differs", "gains") else ""
    return {
        "source": effect.source,
        "destination": effect.destination,
        "turn": effect.turn,
        "shadow": effect.shadow,
        "words": f"{'in shadow: ' if effect.shadow else ''}{words}{how}",
        "rule": rule.id if rule else "mesh/default_action",
    }


def _loss(loss: Loss) -> Data:
    key, seen = loss.observed.key, loss.observed
    call = " ".join(each for each in (key.source or "somebody", "->", key.destination, key.method, key.path) if each)
    would = "would refuse some of what was seen" if loss.some else "would refuse what was seen"
    return {
        "source": key.source,
        "destination": key.destination,
        "method": key.method,
        "path": key.path,
        "some": loss.some,
        "rule": loss.rule.id if loss.rule else "mesh/default_action",
        **evidence(seen),
        "words": f"{would}: {call}: {seen.words}",
    }


def _rule_words(rule: Rule | None) -> str:
    return "the mesh's default" if rule is None else action_words(rule.action, rule.permissions)


def _settings(name: Name, old: Stated[Document] | None, new: Stated[Document] | None) -> Iterator[Data]:
    """Fields of documents other than intentions that come, go or change."""
    if name[0] == "intention":
        return
    if name[0] == "route":
        yield from _of_rules(name, old, new)
        return
    before, after = plain(old.thing) if old else {}, plain(new.thing) if new else {}
    for field in dict.fromkeys((*before, *after)):
        if field not in ("kind", "name") and before.get(field) != after.get(field):
            was, is_ = (_value(data.get(field)) for data in (before, after))
            words = f"{' '.join(name)}: {field} {was} -> {is_}"
            yield {"kind": name[0], "name": name[1], "field": field, "words": words}


def _of_rules(name: Name, old: Stated[Document] | None, new: Stated[Document] | None) -> Iterator[Data]:
    """What the rules of a route ask for besides where requests go."""
    routes = [stated.thing if stated and isinstance(stated.thing, Route) else None for stated in (old, new)]
    for field, was, is_ in rule_changes(*routes):
        words = f"{' '.join(name)}: {field} {_value(was)} -> {_value(is_)}"
        yield {"kind": name[0], "name": name[1], "field": field, "words": words}


def _value(value: object) -> str:
    if value is None:
        return "(default)"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
