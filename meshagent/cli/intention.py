"""`meshagent intention`: who may call whom, one pair at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from shlex import quote
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from meshagent.cli.amend import Wish, amended, placed, without
from meshagent.cli.applied import Shown, commit, finish
from meshagent.cli.lazy import Lazy, LazyGroup, did_you_mean
from meshagent.cli.mesh import Seen, author, now_utc
from meshagent.cli.options import DURATION, HEADER, MOMENT, REASON, SERVICE_OR_ANY, awaited, mesh_options, misuse
from meshagent.cli.output import say, warn
from meshagent.cli.rules import action_words, intention_row, moment
from meshagent.cli.session import Session
from meshagent.cli.soundness import case_gap, l7_problem, unknown_service
from meshagent.errors import Conflict, InvalidDocument, NotFound, Problem
from meshagent.model.intention import Action, HttpMatch, Intention, IntentionSource
from meshagent.model.kinds import Document
from meshagent.model.mesh import Mesh
from meshagent.model.names import ANY
from meshagent.model.view import Guard, Rule
from meshagent.model.world import Origin, Stated
from meshagent.policy.explain import default_words
from meshagent.policy.precedence import guard
from meshagent.state.changes import Documents, Name

Function = TypeVar("Function", bound=Callable[..., Any])
Edited = Mapping[Name, Stated[Document] | None]

_OPTION = {"path_prefix": "--path", "path_exact": "--path-exact", "path_regex": "--path-regex"}
_OPTION |= {"methods": "--method", "headers": "--header"}


@click.group(
    cls=LazyGroup,
    lazy={
        "allow": Lazy("meshagent.cli.intention:allow", "Let a source call a destination."),
        "deny": Lazy("meshagent.cli.intention:deny", "Refuse a source; ends what it has open there."),
        "delete": Lazy("meshagent.cli.intention:delete", "Take an intention back: the next rule decides."),
        "list": Lazy("meshagent.cli.rulebook:list_intentions", "All intentions, or those of a source or destination."),
        "show": Lazy("meshagent.cli.rulebook:show_intention", "A destination's rules in order, or one intention."),
        "check": Lazy("meshagent.cli.explain:check", "Whether a call is allowed: exit code 0 yes, 5 no."),
        "suggest": Lazy("meshagent.cli.suggest:suggest", "The intentions that are missing for what is called."),
        "explain": Lazy("meshagent.cli.explain:explain", "Why a call is allowed or refused, and where it would go."),
    },
)
def intention() -> None:
    """Say who may call whom.

    The most precise intention decides: that of the pair, then of any source (*) to the destination, then of the source
    to any destination, then of any to any, then the mesh's default action.

    \b
    Example:  meshagent intention allow web payments --path /reports --method GET
    """


@dataclass(frozen=True, slots=True)
class _Given:
    """The options of allow and deny."""

    path: str | None
    path_exact: str | None
    path_regex: str | None
    method: tuple[str, ...]
    header: tuple[tuple[str, str | None], ...]
    ignore_case: bool
    lasting: timedelta | None
    expires_at: datetime | None
    reason: str
    shadow: bool = False


def _wish_options(function: Function) -> Function:
    options = (
        click.argument("source", type=SERVICE_OR_ANY),
        click.argument("destination", type=SERVICE_OR_ANY),
        click.option("--path", metavar="PATH", help="Only requests at this path and below it."),
        click.option("--path-exact", metavar="PATH", help="Only requests at exactly this path."),
        click.option("--path-regex", metavar="REGEX", help="Only requests whose whole path matches (RE2)."),
        click.option("--method", multiple=True, metavar="METHOD", help="Only requests of this method; repeatable."),
        click.option(
            "--header", multiple=True, type=HEADER, metavar="NAME[=VALUE]", help="Only requests with it; repeatable."
        ),
        click.option("--ignore-case", is_flag=True, help="Compare the path without regard to upper and lower case."),
        click.option("--for", "lasting", type=DURATION, metavar="DURATION", help="It ends after, such as 2h."),
        click.option("--expires-at", type=MOMENT, metavar="TIME", help="It ends at, such as 2027-01-31T18:00:00Z."),
        click.option("--reason", type=REASON, default="", help="Why: kept with it, and shown where it decides."),
        mesh_options("store", "config", "output", "wait", "timeout"),
        click.pass_obj,
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@_wish_options
@awaited
async def allow(session: Session, source: str, destination: str, **given: Any) -> int:
    """Let SOURCE call DESTINATION (* is any).

    With --path, --method or --header the request must look like that: a permission is put before those that the pair
    has.

    \b
    Example:  meshagent intention allow web payments --for 2h --reason INC-7
    """
    return await _carry_out(session, _wish("allow", source, destination, _Given(**given), now_utc()))


@click.command()
@click.option("--shadow", is_flag=True, help="Refuse nothing: count and log what would be refused.")
@_wish_options
@awaited
async def deny(session: Session, source: str, destination: str, **given: Any) -> int:
    """Refuse SOURCE at DESTINATION (* is any). Connections that it has open there end.

    With --path, --method or --header only such requests are refused, and everything else stays as it is. With --shadow
    nothing changes for calls, and what is in force for the pair stays in force.

    \b
    Example:  meshagent intention deny web payments --path /admin --ignore-case
    """
    return await _carry_out(session, _wish("deny", source, destination, _Given(**given), now_utc()))


@click.command()
@click.option("--shadow", is_flag=True, help="Only what is in shadow.")
@click.argument("source", type=SERVICE_OR_ANY)
@click.argument("destination", type=SERVICE_OR_ANY)
@mesh_options("store", "config", "output", "wait", "timeout")
@click.pass_obj
@awaited
async def delete(session: Session, source: str, destination: str, *, shadow: bool) -> int:
    """Take back what was said of SOURCE and DESTINATION, in force and in shadow: the next rule decides.

    \b
    Example:  meshagent intention delete web payments
    """
    name, now = ("intention", destination), now_utc()
    async with session.mesh() as mesh:
        _require_readable(await mesh.read(), destination)

        def edit(documents: Documents) -> Edited:
            return {name: _without(documents.get(name), source, destination, shadow=shadow)}

        outcome = await commit(mesh, edit, author(now))
        left = _deciding(await mesh.read(), source, destination, now)
        words = f"{source} -> {destination}: deleted (revision {outcome.revision}); now {left}"
        shown = Shown({"source": source, "destination": destination, "deleted": True}, (words,))
        return await finish(session, mesh, outcome, [name], shown)


async def _carry_out(session: Session, wish: Wish) -> int:
    name, now = ("intention", wish.destination), now_utc()
    async with session.mesh() as mesh:
        seen = await mesh.read()
        _require_readable(seen, wish.destination)
        _require_http(seen, wish)
        by = author(now, wish.reason)
        edits = _Edits(seen, wish, Origin(who=by.who, at=now), now)
        outcome = await commit(mesh, edits.edit, by)
        _tell(edits, seen)
        row = intention_row(wish.destination, edits.source, edits.stated, now)
        words = _words(wish, edits.source, outcome.revision, changed=bool(outcome.changed))
        return await finish(session, mesh, outcome, [name], Shown(row, (words,)))


class _Edits:
    """The edit that a wish means. It may be asked several times, when others change the documents meanwhile."""

    def __init__(self, seen: Seen, wish: Wish, origin: Origin, now: datetime) -> None:
        self._seen = seen
        self._origin = origin
        self._now = now
        self.wish = wish
        self.source: IntentionSource
        self.stated: Stated[Intention]
        self.notes: tuple[str, ...] = ()

    def edit(self, documents: Documents) -> Edited:
        """The destination's document, with its origins."""
        wish, name = self.wish, ("intention", self.wish.destination)
        stated = documents.get(name)
        document = _intention(stated)
        held = document.source(wish.source, shadow=wish.shadow) if document else None
        if held is not None and held.expires_at is not None and held.expires_at <= self._now:
            held = None
        world = replace(self._seen, documents=documents).world()
        rules = self._guard(world.mesh, world.intentions)
        if wish.shadow and rules.shadow:
            rules = rules.shadow
        made = amended(wish, held, rules.rule_for(wish.source), rules.default)
        self.source, self.notes = made.source, made.notes
        origins = {**(stated.origins if stated else {"": self._origin}), made.source.part: self._origin}
        self.stated = Stated(placed(document, wish.destination, made.source), origins)
        after = {**world.intentions, wish.destination: self.stated}
        if wish.shadow and not self._guard(world.mesh, after).doubts("" if wish.source == ANY else wish.source):
            self.notes += (f"nothing that passes now would be refused: {wish.source} -> {wish.destination} is denied",)
        return {name: Stated(self.stated.thing, origins)}

    def _guard(self, mesh: Mesh, intentions: Mapping[str, Stated[Intention]]) -> Guard:
        """The rules for the destination, as if it could tell requests apart."""
        return guard(self.wish.destination, "http", mesh, intentions, self._now)


def _wish(action: Action, source: str, destination: str, given: _Given, now: datetime) -> Wish:
    if given.lasting and given.expires_at:
        raise misuse("--for and --expires-at exclude each other")
    expires_at = now + given.lasting if given.lasting else given.expires_at
    if expires_at and expires_at <= now:
        raise misuse(f"--expires-at {expires_at.isoformat()} is over already")
    return Wish(source, destination, action, _http_match(given), expires_at, given.reason, given.shadow)


def _http_match(given: _Given) -> HttpMatch | None:
    """The conditions, None without any. Raises click.UsageError in the options' names."""
    paths = {"path_prefix": given.path, "path_exact": given.path_exact, "path_regex": given.path_regex}
    paths = {field: path for field, path in paths.items() if path is not None}
    if len(paths) > 1:
        raise misuse(f"{' and '.join(_OPTION[field] for field in paths)} exclude each other")
    if given.ignore_case and not paths:
        raise misuse("--ignore-case needs a path")
    if not (paths or given.method or given.header):
        return None
    headers = [{"name": name} | ({"exact": value} if value is not None else {}) for name, value in given.header]
    rest = {
        "methods": [method.upper() for method in given.method],
        "headers": headers,
        "ignore_case": given.ignore_case,
    }
    try:
        return HttpMatch.model_validate(paths | rest)
    except ValidationError as error:
        first = error.errors()[0]
        option = _OPTION.get(str(first["loc"][0]), "") if first["loc"] else ""
        words = first["msg"].removeprefix("Value error, ")
        raise misuse(f"{option} {first['input']}: {words}".lstrip()) from None


def _require_readable(seen: Seen, destination: str) -> None:
    """Refuse to write over a record whose other intentions would be lost with it."""
    if problem := seen.problems.get(("intention", destination)):
        raise Conflict(
            f"the intention record of {destination} cannot be read ({problem}), so nothing in it can be changed",
            next_step="use a meshagent of the version that wrote it, or replace it whole with meshagent policy apply",
        )


def _require_http(seen: Seen, wish: Wish) -> None:
    """Refuse permissions on requests where no request can be seen."""
    if wish.http is None or wish.destination == ANY:
        return
    probe = amended(wish, None, None, "deny").source
    if problem := l7_problem(wish.destination, probe, seen.protocols(wish.destination)):
        raise InvalidDocument((Problem("", 0, f"{wish.source} -> {wish.destination}", problem),))


def _tell(edits: _Edits, seen: Seen) -> None:
    wish = edits.wish
    for name in dict.fromkeys((wish.source, wish.destination)):
        if words := unknown_service(name, seen.services):
            warn(words)
    for note in edits.notes:
        say(note)
    if gap := case_gap(edits.source.permissions):
        warn(f"{wish.source} -> {wish.destination} {gap}")


def _words(wish: Wish, source: IntentionSource, revision: int, *, changed: bool) -> str:
    until = f", until {moment(source.expires_at)}" if source.expires_at else ""
    what = action_words(source.action, source.permissions) + (", in shadow" if source.shadow else "")
    return f"{wish.source} -> {wish.destination}: {what}{until} ({'' if changed else 'unchanged, '}revision {revision})"


def _without(
    stated: Stated[Document] | None, source: str, destination: str, *, shadow: bool
) -> Stated[Document] | None:
    document = _intention(stated)
    held = [each for each in document.sources if each.shadow or not shadow] if document else []
    gone = {each.part for each in held if each.name == source}
    if stated is None or document is None or not gone:
        known = [each.name for each in held]
        raise NotFound(
            f"there is no intention {source} -> {destination}{' in shadow' if shadow else ''}.{did_you_mean(source, known)}",
            next_step=f"meshagent intention list --destination {quote(destination)}",
        )
    left = without(document, gone)
    origins = {part: origin for part, origin in stated.origins.items() if part not in gone}
    return Stated(left, origins) if left else None


def _deciding(seen: Seen, source: str, destination: str, now: datetime) -> str:
    rules = seen.guard(destination, now)
    rule: Rule | None = rules.rule_for(source)
    if rule is None:
        return f"the mesh's default decides: {default_words(rules)}"
    return f"{rule.id} decides: {action_words(rule.action, rule.permissions)}"


def _intention(stated: Stated[Document] | None) -> Intention | None:
    return stated.thing if stated is not None and isinstance(stated.thing, Intention) else None
