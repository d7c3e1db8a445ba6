"""`meshagent redirect`: transparent capture on this host, with a timer that takes it back unless it is confirmed."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from meshagent.cli.options import DURATION, awaited, mesh_options
from meshagent.cli.output import say, show
from meshagent.cli.session import Session
from meshagent.errors import CaptureFailed, MeshError, UsageProblem
from meshagent.host.redirect import Standing

_UNDO = timedelta(seconds=60)
_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(hours=24)


@click.group()
def redirect() -> None:
    """Transparent capture: apps that know nothing of the mesh call NAME.mesh and land by mTLS.

    Which services: those with `capture` in their definition. Needs root and nftables.

    \b
    Example:  meshagent redirect up
    """


@redirect.command()
@click.option(
    "--undo",
    type=DURATION,
    default=_UNDO,
    show_default="60s",
    metavar="TIME",
    help="After how long the kernel takes the rules back, unless they are confirmed.",
)
@click.option("--no-undo", "--yes", "certain", is_flag=True, help="No timer: for automation that has tried it before.")
@click.option("--dry-run", is_flag=True, help="Print the rules, and put nothing in force.")
@mesh_options("api", "config")
@click.pass_obj
@awaited
async def up(session: Session, undo: timedelta, *, certain: bool, dry_run: bool) -> None:
    """Put the rules in force, in place of those before, in one transaction. `meshagent redirect confirm` keeps them.

    What was open before stays as it is, and so does SSH. A definition that changes needs another `redirect up`.

    \b
    Example:  meshagent redirect up --undo 5m
    """
    from meshagent.cli.captures import wanted_here
    from meshagent.host import nft
    from meshagent.host.redirect import meaning, rules

    if not _SHORTEST <= undo <= _LONGEST:
        raise click.BadParameter("must be from 1s to 24h", param_hint="--undo")
    wanted = await wanted_here(session)
    seconds = None if certain else int(undo.total_seconds())
    if wanted is None:
        raise UsageProblem(
            "no service of this host is captured",
            next_step="add capture: {user: NAME} to its definition, and register it anew: meshagent up FILE",
        )
    text = rules(wanted, seconds)
    if dry_run:
        click.echo(text, nl=False)
        return
    nft.apply(text)
    for words in meaning(wanted):
        say(words)
    if seconds is not None:
        say(f"undone in {seconds} s, unless you say that all is well: meshagent redirect confirm")


@redirect.command()
def confirm() -> None:
    """Keep the rules: stops the timer of `redirect up`. From a connection made anew, so that you know that one can be.

    \b
    Example:  meshagent redirect confirm
    """
    from meshagent.host import nft

    nft.confirm()
    say("confirmed: the rules stay until meshagent redirect down, or a reboot")


@redirect.command()
@click.option(
    "--kept",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/var/lib/meshagent-redirect/rules.nft"),
    show_default=True,
    metavar="FILE",
    help="Where they are kept. Root's alone.",
)
@click.option("--anew", is_flag=True, help="Not what was kept, but what this host's services need now.")
@mesh_options("api", "config")
@click.pass_obj
@awaited
async def restore(session: Session, path: Path, *, anew: bool) -> None:
    """Put the rules in force that were kept, without asking anybody. Run by meshagent-redirect.service.

    Where none are kept, or with --anew: what `redirect up --no-undo` does, and keeps it.

    \b
    Example:  meshagent redirect restore
    """
    from meshagent.host.kept import keep, kept

    rules = None if anew else kept(path)
    if rules is None:
        keep(path, await _certain_rules(session))
        say(f"kept in {path} for the next boot")
    elif rules:
        _put_back(rules)
    else:
        say("nothing was to be captured")


async def _certain_rules(session: Session) -> str:
    """What this host's services need, in force without a timer. "" where nothing is to be captured."""
    from meshagent.cli.captures import wanted_here
    from meshagent.host import nft
    from meshagent.host.redirect import rules

    wanted = await wanted_here(session)
    if wanted is None:
        nft.remove()
        say("no service of this host is captured: there are no rules")
        return ""
    text = rules(wanted, None)
    nft.apply(text)
    say("in force")
    return text


def _put_back(rules: str) -> None:
    """All of it, or what does not need a cgroup that is not there yet. Raises CaptureFailed."""
    from meshagent.host import nft
    from meshagent.host.kept import without_cgroups

    try:
        nft.apply(rules)
    except CaptureFailed as error:
        fewer = without_cgroups(rules)
        if fewer == rules:
            raise
        nft.apply(fewer)
        raise CaptureFailed(
            f"in force but for what is said of cgroups: {error}",
            next_step="once they are there: systemctl restart meshagent-redirect",
        ) from None
    say("what was kept is in force")


@redirect.command()
def down() -> None:
    """Take the rules away. Apps can call no virtual address then, and their ports are open to other hosts again.

    \b
    Example:  meshagent redirect down
    """
    from meshagent.host import nft

    was = nft.standing().there
    nft.remove()
    say("the rules are gone" if was else "nothing was captured")


@redirect.command("show")
@mesh_options("api", "config", "output")
@click.pass_obj
@awaited
async def show_rules(session: Session) -> int:
    """What the rules are, what they mean, and whether they are what this host's services need. Exit code 5: they are not.

    \b
    Example:  meshagent redirect show
    """
    from meshagent.cli.captures import mismatch, wanted_here
    from meshagent.host import nft
    from meshagent.host.redirect import meaning

    found, listed = nft.standing(), nft.listing()
    try:
        wanted, unknown = await wanted_here(session), ""
    except MeshError as error:
        wanted, unknown = None, str(error)
    same = wanted is not None and wanted.digest == found.digest
    means = list(meaning(wanted)) if wanted and same else []
    problem, step = mismatch(wanted, found)
    if unknown and found.there:
        problem = f"whether they are as they should be is not known: {unknown}"
    shown = [_rule(line) for line in listed.splitlines()]
    data = {**_data(found), "meaning": means, "problem": problem, "next_step": step if problem else "", "rules": shown}
    show(data, session.form(), *_words(found), *means, *_problem(problem, step), *shown)
    return 5 if problem and found.undo_in is None else 0


def _words(found: Standing) -> list[str]:
    if not found.there:
        return ["nothing is captured on this host"]
    if not found.holds:
        return ["the undo timer ran out: the rules below hold no longer"]
    left = "" if found.undo_in is None else f", undone in {found.undo_in} s unless confirmed"
    return [f"in force{left}"]


def _data(found: Standing) -> dict[str, Any]:
    return {"in_force": found.there and found.holds, "there": found.there, "undo_in_s": found.undo_in}


def _problem(problem: str, step: str) -> list[str]:
    return [f"but: {problem}", *([f"next: {step}"] if step else [])] if problem else []


def _rule(line: str) -> str:
    return re.sub(r"\t", "  ", line)
