"""`meshagent policy test`: cases beside the policies, judged by what `explain` asks, and with --live by real Envoys too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshagent.cli.applied import NO
from meshagent.cli.cases import Cases, Judged, by_service, judged
from meshagent.cli.cross_checks import findings
from meshagent.cli.lazy import did_you_mean
from meshagent.cli.mesh import Seen, author, now_utc
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import say, show, warn
from meshagent.cli.policy import FILES, raise_errors
from meshagent.cli.reading import Written, name_of, read_policy, stated
from meshagent.cli.route_checks import named_services
from meshagent.cli.rules import Data
from meshagent.cli.session import Session
from meshagent.documents.compose import field_text
from meshagent.documents.decode import Located
from meshagent.documents.files import is_cases, read_cases
from meshagent.errors import Problem, UsageProblem
from meshagent.model.external import External
from meshagent.model.intention import Intention
from meshagent.model.kinds import Document
from meshagent.model.names import ANY
from meshagent.model.route import Route
from meshagent.model.service import Service
from meshagent.state.changes import Author, Documents

if TYPE_CHECKING:
    from meshagent.cli.live.trial import Tried

_NEXT = "cases are in files that end in .cases.yaml, beside the documents: name the directory"


@click.command()
@FILES
@click.option("--live", is_flag=True, help="Send every case through real Envoys, in a mesh that is made for it here.")
@mesh_options("output")
@click.pass_obj
@awaited
async def test(session: Session, files: tuple[str, ...], *, live: bool) -> int:
    """Whether the documents of files do what their cases expect. Exit code 0 all hold, 5 one does not, 3 a file is wrong.

    Cases are in files that end in .cases.yaml. Nothing is asked of the mesh: a case's services are those of its file.
    With --live they run here for a moment, each with an app, and all of it is gone afterwards.

    \b
    Example:  meshagent policy test -f policies/canary --live
    """
    written, cases = read(files)
    for slip in slips(written, cases):
        warn(str(slip))
    if live:
        return _tell_live(session, await live_outcomes(written, cases))
    found = outcomes(written, cases)
    broken = [each for each in found if each.misses]
    lines = [line for each in broken for line in words(each)]
    show([_row(each) for each in found], session.form(), *lines)
    say(f"{len(found) - len(broken)} of {len(found)} cases hold")
    return NO if broken else 0


def read(files: Sequence[str]) -> tuple[tuple[Written, ...], tuple[Located[Cases], ...]]:
    """The documents and the cases of files. Raises InvalidDocument with every problem, UsageProblem where one is missing."""
    documents = [file for file in files if not is_cases(Path(file).name)]
    found = read_cases([file for file in files if file != "-"], Cases)
    if not documents:
        raise UsageProblem(f"there is no document in {', '.join(files)}", next_step=_NEXT)
    written, problems = read_policy(documents)
    errors = findings(written, (), Seen(0, {}, {}, ())).errors
    raise_errors((*problems, *found.problems, *errors), "nothing was tested")
    if not found.documents:
        raise UsageProblem(f"there is no case in {', '.join(files)}", next_step=_NEXT)
    return written, found.documents


def outcomes(written: Sequence[Written], cases: Sequence[Located[Cases]]) -> tuple[Judged, ...]:
    """Every case with what came of it, as if these documents were the whole policy."""
    now = now_utc()
    world = Seen(0, _documents(written, author(now)), {}, ()).world()
    return tuple(
        each
        for file in cases
        for each in judged(file, replace(world, instances=by_service(file.document.instances())), now)
    )


async def live_outcomes(written: Sequence[Written], cases: Sequence[Located[Cases]]) -> tuple[Tried, ...]:
    """The same through real Envoys, in a mesh that each file of cases has for itself. Raises EnvoyMissing, EnvoyFailed."""
    from meshagent.cli.live.trial import tried
    from meshagent.cli.logs import quiet_log

    quiet_log()
    by = author(now_utc())
    documents = _documents(written, by)
    world = Seen(0, documents, {}, ()).world()
    return await tried(cases, documents, world, by)


def _documents(written: Sequence[Written], by: Author) -> Documents:
    return {name_of(each): stated(each, by) for each in written}


def _tell_live(session: Session, found: Sequence[Tried]) -> int:
    """What the calls showed, and where Envoy did something else than `explain` says."""
    broken = [each for each in found if each.judged.misses]
    differing = [each for each in found if each.differs]
    lines = [line for each in broken for line in words(each.judged)]
    lines += [line for each in differing for line in _difference(each)]
    show([_live_row(each) for each in found], session.form(), *lines)
    say(f"{len(found) - len(broken)} of {len(found)} cases hold through Envoy; {len(differing)} differ from explain")
    if untold := [field for each in found for field in each.untold]:
        kinds = ", ".join(f"{field} {untold.count(field)}" for field in dict.fromkeys(untold))
        say(f"not to be seen from outside, so judged without Envoy: {kinds}")
    return NO if broken or differing else 0


def _difference(each: Tried) -> list[str]:
    case = each.judged.case
    lines = [f"  {miss.field:<8} explain says {miss.expected}, Envoy did {miss.came}" for miss in each.differs]
    return [f"{each.judged.file}:{each.judged.line}: {case.name or case.call}: not as explain says", *lines]


def _live_row(each: Tried) -> Data:
    differs = [{"field": miss.field, "explain": miss.expected, "envoy": miss.came} for miss in each.differs]
    return _row(each.judged) | {"calls": each.calls, "differs": differs, "untold": list(each.untold)}


def slips(written: Sequence[Written], cases: Sequence[Located[Cases]]) -> Iterator[Problem]:
    """Names of callers and called that nothing else names and that are near to one: `denied` would hold by accident."""
    named = {name for each in written for name in _named(each.document)} - {ANY}
    for file in cases:
        known = named | {service.name for service in file.document.services}
        for index, case in enumerate(file.document.cases):
            for field, name in (("from", case.source), ("to", case.destination)):
                if name not in known and (guess := did_you_mean(name, known)):
                    path = ("cases", index, field)
                    words = f"nothing else names {name}.{guess}"
                    yield Problem(file.file, file.line_of(*path), field_text(path), words)


def _named(document: Document) -> Iterator[str]:
    if isinstance(document, Intention):
        yield from (document.name, *(source.name for source in document.sources))
    elif isinstance(document, Route):
        yield from (name for name, _ in named_services(document))
    elif isinstance(document, Service | External):
        yield document.name


def words(outcome: Judged) -> list[str]:
    """A case that does not hold, for a person."""
    case = outcome.case
    name = f"{case.name} ({case.call})" if case.name else case.call
    misses = [f"  {miss.field:<8} expected {miss.expected}, came {miss.came}" for miss in outcome.misses]
    return [f"{outcome.file}:{outcome.line}: {name}", *misses, *(f"  because  {why}" for why in outcome.why)]


def _row(outcome: Judged) -> Data:
    case = outcome.case
    return {
        "file": outcome.file,
        "line": outcome.line,
        "name": case.name,
        "call": case.call,
        "holds": not outcome.misses,
        "misses": [{"field": each.field, "expected": each.expected, "came": each.came} for each in outcome.misses],
        "why": list(outcome.why),
    }
