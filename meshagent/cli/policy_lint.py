"""`meshagent policy lint`."""

from __future__ import annotations

import click

from meshagent.cli.applied import NO
from meshagent.cli.lints import CHECKS, lints
from meshagent.cli.mesh import now_utc
from meshagent.cli.options import awaited, mesh_options, misuse
from meshagent.cli.output import say, show
from meshagent.cli.policy import FILES, raise_errors, seen_if_any
from meshagent.cli.reading import read_policy
from meshagent.cli.session import Session


@click.command()
@FILES
@click.option("--ignore", multiple=True, metavar="CODE", help="Leave out findings of this code; repeatable.")
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def lint(session: Session, files: tuple[str, ...], ignore: tuple[str, ...]) -> int:
    """What is allowed in documents and yet most likely not meant, each with a code. Exit code 5 when there is something.

    Checked together with what the mesh holds, where its store answers.

    \b
    Example:  meshagent policy lint -f policies/ --ignore L006
    """
    if unknown := sorted(set(ignore) - set(CHECKS)):
        raise misuse(f"there is no code {unknown[0]}: {', '.join(CHECKS)}")
    written, problems = read_policy(files)
    raise_errors(problems, "nothing was judged")
    seen, excuse = await seen_if_any(session)
    if excuse:
        say(f"judged without the mesh: {excuse}")
    found = [each for each in lints(written, seen, now_utc()) if each.code not in ignore]
    rows = [
        {"code": code, "file": each.file, "line": each.line, "field": each.field, "message": each.message}
        for code, each in ((lint.code, lint.problem) for lint in found)
    ]
    show(rows, session.form(), *(f"{each.code} {each.problem}" for each in found))
    return NO if found else 0
