"""`meshagent intention suggest`: what is called, as the least set of intentions that let it pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import click

from meshagent.cli import output
from meshagent.cli.mesh import Seen, author, now_utc
from meshagent.cli.observing import evidence, observed
from meshagent.cli.options import DURATION, SERVICE, awaited, mesh_options
from meshagent.cli.output import emit, say, show, warn
from meshagent.cli.policy_diff import plan_data
from meshagent.cli.rulebook import tell_problems
from meshagent.cli.rules import moment
from meshagent.cli.session import Session
from meshagent.documents.encode import plain
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.kinds import Document
from meshagent.model.world import Origin, Stated
from meshagent.policy.suggest import Suggested, Suggestion, Unsuggested, suggested
from meshagent.state.catalog import read_reports
from meshagent.state.changes import Name
from meshagent.state.records import ReportRecord

Data = dict[str, Any]
_KEPT = timedelta(days=7)  # what hosts tell of
_OPEN = "every call that no intention names passes and is counted: once nothing is suggested any more, say default_action: deny"


@click.command()
@click.option("--since", type=DURATION, metavar="DURATION", help="Only calls seen in this time, such as 24h.")
@click.option("--l7", "by_request", is_flag=True, help="Allow the methods and paths that were seen, and no others.")
@click.option("--service", type=SERVICE, metavar="SERVICE", help="Only calls by this service and of it.")
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def suggest(session: Session, since: timedelta | None, service: str | None, *, by_request: bool) -> None:
    """The intentions that are missing for the calls that the mesh sees, as documents for `policy apply`.

    What passes now, and would not if nothing but intentions let it: each with how often and when it was seen, and where.
    Hosts tell of the last seven days. Changes nothing; what applying it would mean is told beside the documents.

    \b
    Example:  meshagent intention suggest --l7 > policies/suggested.yaml
    """
    async with session.mesh() as mesh:
        seen = await mesh.read()
        reports = await read_reports(mesh.store, mesh.keys)
    tell_problems({name: words for name, words in seen.problems.items() if name[0] in ("intention", "mesh")})
    now = now_utc()
    found = observed(reports, now - since if since else None, service or "")
    made = suggested(seen.world(), found, now, by_request=by_request)
    if session.form() == "json":
        show(_data(made), "json")
    elif made.documents:
        emit("---\n".join(document_text(each, made.suggestions) for each in made.documents).rstrip("\n"))
    if by_request:
        for report in reports:
            if report.sampled and report.sampled >= now - (since or _KEPT):
                warn(
                    f"{report.host} had more requests than it logs (the last at {moment(report.sampled)}): paths may be missing"
                )
    _tell(seen, reports, made)


def document_text(document: Intention, suggestions: Sequence[Suggestion]) -> str:
    """A document as YAML, with the evidence above each entry that is suggested."""
    new = {each.source: each for each in suggestions if each.destination == document.name}
    head = output.to_yaml({"kind": document.kind, "name": document.name})
    return head + "sources:\n" + "".join(line for each in document.sources for line in _entry(each, new.get(each)))


def _entry(source: IntentionSource, suggestion: Suggestion | None) -> Iterator[str]:
    data = plain(source)
    if suggestion is None:
        yield output.to_yaml([data])
        return
    if not source.permissions:
        yield f"# {suggestion.evidence[0].words}\n"
        yield output.to_yaml([data])
        return
    permissions = data.pop("permissions")
    yield output.to_yaml([data]) + "  permissions:\n"
    for number, permission in enumerate(permissions):
        seen = suggestion.evidence[number].words if number < len(suggestion.evidence) else "as everybody"
        yield f"  # {seen}\n"
        yield from (f"  {line}\n" for line in output.to_yaml([permission]).splitlines())


def _data(made: Suggested) -> Data:
    return {
        "documents": [plain(each) for each in made.documents],
        "suggestions": [
            {
                "source": each.source.name,
                "destination": each.destination,
                "evidence": [evidence(seen) for seen in each.evidence],
            }
            for each in made.suggestions
        ],
        "left": [{**evidence(each.observed), **_pair(each), "why": each.why} for each in made.left],
    }


def _pair(each: Unsuggested) -> Data:
    return {"source": each.key.source, "destination": each.key.destination}


def _tell(seen: Seen, reports: Sequence[ReportRecord], made: Suggested) -> None:
    """Beside the documents: what they would mean, and what is not in them."""
    for left in made.left:
        warn(f"{left.key.source or 'somebody'} -> {left.key.destination} ({left.observed.words}): {left.why}")
    for each in made.suggestions:
        if each.blind:
            warn(f"{each.source.name} -> {each.destination}: no request of it was logged, so it is allowed whole")
    if not made.documents:
        hosts = "1 host tells" if len(reports) == 1 else f"{len(reports)} hosts tell"
        say(f"nothing is missing: {hosts} of no call that passes without an intention")
        return
    by = author(now_utc())
    edits: dict[Name, Stated[Document] | None] = {
        (each.kind, each.name): Stated(each, {"": Origin(who=by.who, at=by.at)}) for each in made.documents
    }
    for row in plan_data(seen, edits)["calls"]:
        say(f"would mean: {row['words']}")
    if seen.world().mesh.default_action == "shadow-deny":
        say(_OPEN)
