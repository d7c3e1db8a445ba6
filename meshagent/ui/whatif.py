"""What documents would change if they were applied. Nothing is: the page asks, and the answer is worked out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from meshagent.cli.cross_checks import findings
from meshagent.cli.explain import answer_of
from meshagent.cli.mesh import Seen
from meshagent.cli.policy import Application
from meshagent.cli.policy_diff import difference, plan_data
from meshagent.documents.decode import decode_documents, twice
from meshagent.errors import InvalidDocument, UsageProblem
from meshagent.model.kinds import KINDS
from meshagent.model.names import check_service_name
from meshagent.policy.request import Request
from meshagent.state.changes import Author
from meshagent.state.records import ReportRecord

Data = dict[str, Any]
PASTED = "pasted"


def what_if(seen: Seen, text: str, now: datetime, reports: Sequence[ReportRecord] = ()) -> Data:
    """Who gains or loses whom by the documents in `text` (YAML), or the problems for which they could not be applied.

    `reports` tell which calls hosts have seen: those that would be refused are told apart.
    """
    decoded = decode_documents(text, PASTED, KINDS)
    problems = (*decoded.problems, *twice(decoded.documents))
    if not decoded.documents and not problems:
        raise UsageProblem("there is no document in this", next_step="paste YAML with a kind and a name")
    application = Application(decoded.documents, problems, seen, Author("you", now))
    try:
        edits = application.edit(seen.documents)
    except InvalidDocument as error:
        return {"problems": [str(problem) for problem in error.problems]}
    diffs = [difference(name, seen.documents.get(name), new) for name, new in sorted(edits.items())]
    warnings = findings(decoded.documents, (), seen).warnings
    return {
        "problems": [],
        "warnings": [str(each) for each in warnings],
        "plan": plan_data(seen, edits, reports),
        "diffs": [each for each in diffs if each["diff"]],
    }


def explained(seen: Seen, reports: tuple[ReportRecord, ...], asked: Mapping[str, str]) -> Data:
    """What `meshagent explain` says of `source`, `destination` and, where they are given, `method` and `path`.

    Raises UsageProblem for what is no service's name.
    """
    source, destination = _name(asked, "source"), _name(asked, "destination")
    method, path = asked.get("method", ""), asked.get("path", "")
    request = (
        Request((method or "GET").upper(), path or "/", _headers(asked.get("header", ""))) if method or path else None
    )
    answer = answer_of(seen, reports, source, destination, request)
    held = [
        {"name": each.name, "words": each.words, "level": each.level, "origin": str(each.origin)}
        for each in answer.settings
    ]
    return {**answer.whole, "settings": held, "words": answer.words, "doubts": answer.doubts}


def _name(asked: Mapping[str, str], field: str) -> str:
    try:
        return check_service_name(asked.get(field, ""))
    except ValueError as error:
        raise UsageProblem(f"{field} {error}", next_step="choose a service") from None


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    """`name=value`, one on each line."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
