"""`meshagent store`: the mesh's store itself."""

from __future__ import annotations

import click

from meshagent.cli.lazy import LazyGroup
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import say, show
from meshagent.cli.session import Session


@click.group(cls=LazyGroup)
def store() -> None:
    """The mesh's store: copy it to another one, and print the rights in it that each part needs.

    \b
    Example:  meshagent store copy sqlite:///var/lib/meshagent/mesh.db consul://127.0.0.1:8500
    """


@store.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@mesh_options("config", "output")
@click.pass_obj
@awaited
async def copy(session: Session, source: str, target: str, dry_run: bool) -> int:
    """Copy the mesh in FROM into TO: policy, history and trust bundle, with revisions and signatures.

    Hosts register in TO by themselves once their agents are told of it. TO must be empty, or hold an earlier state of
    this mesh; who reads it sees nothing of the copy before it is whole.

    \b
    Example:  meshagent store copy sqlite:///var/lib/meshagent/mesh.db etcd://10.0.0.5:2379 --dry-run
    """
    from meshagent.state.copying import copy_mesh

    async with session.mesh(source) as old, session.mesh(target, make=True) as new:
        plan = await copy_mesh(old.store, new.store, old.keys, old.signing, dry_run=dry_run)
        counts = {"documents": plan.documents, "history": plan.history, "writes": plan.writes}
        value = {"from": old.where, "to": new.where, "revision": plan.revision, "before": plan.before, **counts}
        done = "would write" if dry_run else "wrote"
        held = f"{plan.documents} documents and {plan.history} changes of history at revision {plan.revision}"
        words = (
            f"{done} {plan.writes} keys to {new.where}: {held}"
            if plan.writes
            else f"{new.where} holds it already: {held}"
        )
        show({**value, "dry_run": dry_run}, session.form(), words)
    if plan.writes and not dry_run:
        say("set `store` of every agent to it and restart them; they serve on meanwhile")
    return 0
