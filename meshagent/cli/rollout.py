"""`meshagent rollout`: a new version of a service in steps, and the operator's word on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from meshagent.cli.applied import Shown, commit, finish
from meshagent.cli.cross_checks import Findings, findings
from meshagent.cli.lazy import Lazy, LazyGroup
from meshagent.cli.mesh import Seen, author, now_utc
from meshagent.cli.options import DURATION, SERVICE, Checked, awaited, mesh_options, misuse
from meshagent.cli.output import say
from meshagent.cli.policy import raise_errors, warn_all
from meshagent.cli.rollout_edits import Edited, State, base_of, begun, ended, held_by, said
from meshagent.cli.session import Session
from meshagent.cli.standings import line_of, next_of, standing
from meshagent.documents.decode import Located
from meshagent.model.rollout import Rollout
from meshagent.model.world import Origin
from meshagent.state.changes import Documents, Name
from meshagent.state.progress import Told

Function = TypeVar("Function", bound=Callable[..., Any])


def _steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise ValueError("must be percentages such as 5,25,50,100") from None


def _percent(text: str) -> float:
    try:
        return float(text.removesuffix("%"))
    except ValueError:
        raise ValueError("must be a percentage such as 1 or 0.5") from None


STEPS, PERCENT = Checked("steps", _steps), Checked("percent", _percent)


@click.group(
    cls=LazyGroup,
    lazy={
        "start": Lazy("meshagent.cli.rollout:start", "Move callers to another subset of a service, in steps."),
        "status": Lazy("meshagent.cli.rollout_status:status", "Where rollouts stand, and what they wait for."),
        "pause": Lazy("meshagent.cli.rollout:pause", "No further step for now; it still goes back if it fares badly."),
        "resume": Lazy("meshagent.cli.rollout:resume", "Go on with a paused rollout."),
        "abort": Lazy("meshagent.cli.rollout:abort", "All callers back to the old subset, at once."),
        "promote": Lazy("meshagent.cli.rollout:promote", "All callers to the new subset, at once."),
    },
)
def rollout() -> None:
    """Bring in a new version of a service: in steps, as far as it answers well, and back by itself.

    \b
    Example:  meshagent rollout start payments --to v2 --max-error-rate 1
    """


def _word_options(function: Function) -> Function:
    options = (
        click.argument("service", type=SERVICE),
        click.option("--reason", default="", metavar="TEXT", help="Why, for the history."),
        mesh_options("store", "config", "output", "wait", "timeout"),
        click.pass_obj,
    )
    for option in reversed(options):
        function = option(function)
    return function


_KEEP = click.option("--keep", is_flag=True, help="Also write it into the routes for good, and end the rollout.")


@click.command()
@click.option("--to", required=True, type=SERVICE, metavar="SUBSET", help="The new subset.")
@click.option(
    "--base",
    type=SERVICE,
    metavar="SUBSET",
    help="The old one: that of the last rollout, or the only other one.",
)
@click.option("--steps", type=STEPS, metavar="PERCENTS", help="Its shares in order; 5,25,50,100 unless told.")
@click.option("--every", type=DURATION, metavar="DURATION", help="How long a step lasts; 2m unless told.")
@click.option("--max-error-rate", type=PERCENT, metavar="PERCENT", help="How many may fail; 1 unless told.")
@click.option("--max-p99", type=DURATION, metavar="DURATION", help="No more than 1 % of requests may take longer.")
@click.option("--min-requests", type=click.IntRange(1), help="By fewer nothing is judged; 100 unless told.")
@_word_options
@awaited
async def start(session: Session, service: str, to: str, base: str | None, reason: str, **given: Any) -> int:
    """Move the callers of SERVICE to its subset --to, in steps, as far as that answers well.

    It is judged by what the hosts of the service count at its instances, and driven by whichever of them is there.

    \b
    Example:  meshagent rollout start payments --to v2 --steps 5,25,50,100 --every 2m --max-p99 300ms
    """
    now = now_utc()
    async with session.mesh() as mesh:
        seen = await mesh.read()
        wanted = _wanted(service, base or base_of(seen, service, to), to, now, given)
        by = author(now, reason or f"rollout of {service} from {wanted.base} to {to}")
        told = seen.rolled.get(service, Told())
        edit = _Checked(seen, lambda documents: begun(documents, wanted, told.progress, Origin(who=by.who, at=now)))
        outcome = await commit(mesh, edit, by)
        warn_all(edit.found)
        steps = ", ".join(map(str, wanted.steps))
        words = f"rollout {service}: {wanted.base} -> {to} by {steps} % (revision {outcome.revision})"
        say(f"follow it: meshagent rollout status {service} --watch")
        shown = Shown({**standing(wanted, Told(), now), "now": "started"}, (words,))
        return await finish(session, mesh, outcome, [("rollout", service)], shown)


@click.command()
@_word_options
@awaited
async def pause(session: Session, service: str, reason: str) -> int:
    """Take no further step with SERVICE for now. It still goes back by itself if the new version fares badly.

    \b
    Example:  meshagent rollout pause payments --reason "release freeze"
    """
    return await _say(session, service, "paused", reason, keep=False)


@click.command()
@_word_options
@awaited
async def resume(session: Session, service: str, reason: str) -> int:
    """Go on with the paused rollout of SERVICE.

    \b
    Example:  meshagent rollout resume payments
    """
    return await _say(session, service, "running", reason, keep=False)


@click.command()
@_KEEP
@_word_options
@awaited
async def abort(session: Session, service: str, reason: str, keep: bool) -> int:
    """Lead all callers of SERVICE back to the old subset, at once.

    \b
    Example:  meshagent rollout abort payments --keep
    """
    return await _say(session, service, "aborted", reason, keep=keep)


@click.command()
@_KEEP
@_word_options
@awaited
async def promote(session: Session, service: str, reason: str, keep: bool) -> int:
    """Lead all callers of SERVICE to the new subset, at once, however far the rollout has come.

    \b
    Example:  meshagent rollout promote payments --keep
    """
    return await _say(session, service, "promoted", reason, keep=keep)


async def _say(session: Session, service: str, state: State, reason: str, *, keep: bool) -> int:
    now = now_utc()
    async with session.mesh() as mesh:
        seen = await mesh.read()
        by = author(now, reason or f"rollout of {service}: {state}")
        origin, make = Origin(who=by.who, at=now), ended if keep else said
        edit = _Checked(seen, lambda documents: make(documents, service, state, origin))
        outcome = await commit(mesh, edit, by)
        warn_all(edit.found)
        held = held_by(seen.documents, service)
        assert held is not None  # noqa: S101 - the edit has raised NotFound else
        data = standing(held.model_copy(update={"state": state}), seen.rolled.get(service, Told()), now)
        words = line_of(data)
        if keep:
            subset = held.to if state == "promoted" else held.base
            words = f"rollout {service}: ended; all calls go to {subset}, as its route says from now on"
        elif following := next_of(data):
            say(f"{following} writes it into the routes for good, and ends the rollout")
        names: list[Name] = [*outcome.changed, ("rollout", service)]
        return await finish(session, mesh, outcome, names, Shown({**data, "ended": keep}, (words,)))


class _Checked:
    """An edit, checked as `policy apply` checks documents."""

    def __init__(self, seen: Seen, edit: Callable[[Documents], Edited]) -> None:
        self._seen = seen
        self._edit = edit
        self.found = Findings()

    def __call__(self, documents: Documents) -> Edited:
        """What is wanted. Raises InvalidDocument with everything that speaks against it."""
        edits = self._edit(documents)
        written = [Located(new.thing, "", 0, {}) for new in edits.values() if new]
        deleted = [name for name, new in edits.items() if new is None]
        self.found = findings(written, deleted, replace(self._seen, documents=documents))
        raise_errors(self.found.errors, "nothing was changed")
        return edits


def _wanted(service: str, base: str, to: str, now: datetime, given: dict[str, Any]) -> Rollout:
    """The rollout that the options say. Raises click.UsageError in their names."""
    said_ = {name: value for name, value in given.items() if value is not None}
    fields = {"name": service, "base": base, "to": to, "id": f"{now:%Y%m%dT%H%M%SZ}", **said_}
    if not base:
        raise misuse(f"{service} has no subset besides {to}: its service document says which instances belong to which")
    try:
        return Rollout.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}: " if first["loc"] else ""
        raise misuse(f"{option}{first['msg'].removeprefix('Value error, ')}") from None
