"""`meshagent policy key` and `meshagent policy sign`: policy that holds without trust in its store."""

from __future__ import annotations

from pathlib import Path

import click

from meshagent.cli.mesh import author, now_utc
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import say, show
from meshagent.cli.session import Session


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@mesh_options("output")
@click.pass_obj
def key(session: Session, file: Path) -> None:
    """Make an operator's key in FILE (mode 0600), and print its public half.

    The public half is for policy_public_keys of the agents, FILE for policy_signing_key where policy is changed.

    \b
    Example:  meshagent policy key ~/mesh-policy.pem
    """
    from meshagent.state.operator_keys import create_key

    public = create_key(file)
    show({"file": str(file), "public_key": public}, session.form(), public)
    say(f"the private half is in {file}: keep it off the hosts, and a copy of it in a safe place")


@click.command()
@click.option("--adopt", is_flag=True, help="Sign what the store holds now, whoever wrote it.")
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def sign(session: Session, adopt: bool) -> int:
    """Sign all documents and the trust bundle anew, with the configured key.

    To change the key, and with --adopt to begin: look at everything with policy get first, for it will be believed.

    \b
    Example:  meshagent policy sign --adopt
    """
    from meshagent.state.resign import sign_policy

    async with session.mesh() as mesh:
        made = await sign_policy(mesh.store, mesh.keys, author(now_utc()), mesh.signing, adopt=adopt)
    value = {"revision": made.revision, "documents": made.documents, "key": made.key}
    words = f"signed {made.documents} documents with the key {made.key} (revision {made.revision})"
    show(value, session.form(), words)
    return 0
