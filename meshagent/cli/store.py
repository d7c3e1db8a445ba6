"""`meshagent store`: the mesh's store itself."""

from __future__ import annotations

from typing import get_args

import click

from meshagent.cli.lazy import LazyGroup
from meshagent.cli.options import SERVICE, SERVICE_OR_BEGINNING, awaited, mesh_options, misuse
from meshagent.cli.output import emit, say, show
from meshagent.cli.session import Session, is_absent, shown
from meshagent.state.keys import Keys
from meshagent.state.rights import Grantee, Role, consul_rules, etcd_commands

_KINDS = ("consul", "etcd")


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
    from meshagent.state.copying import copy_mesh, plan_into_nothing

    async with session.mesh(source) as old:
        if dry_run and is_absent(target):
            plan, where = await plan_into_nothing(old.store, old.keys, old.signing.trust), shown(target)
        else:
            async with session.mesh(target, make=True) as new:
                plan = await copy_mesh(old.store, new.store, old.keys, old.signing, dry_run=dry_run)
                where = new.where
    counts = {"documents": plan.documents, "history": plan.history, "writes": plan.writes}
    value = {"from": old.where, "to": where, "revision": plan.revision, "before": plan.before, **counts}
    done = "would write" if dry_run else "wrote"
    held = f"{plan.documents} documents and {plan.history} changes of history at revision {plan.revision}"
    words = f"{done} {plan.writes} keys to {where}: {held}" if plan.writes else f"{where} holds it already: {held}"
    show({**value, "dry_run": dry_run}, session.form(), words)
    if plan.writes and not dry_run:
        say("set `store` of every agent to it and restart them; they serve on meanwhile")
    return 0


@store.command()
@click.option("--for", "role", type=click.Choice(get_args(Role)), required=True, help="Who is to have the rights.")
@click.option("--host", type=SERVICE_OR_BEGINNING, help="The agent's host, as host.name has it; web-* for several.")
@click.option("--services", metavar="A,B", default="", help="The services that may run on that host.")
@click.option(
    "--node", metavar="NAME", help="What Consul calls that machine, where it is not the host's name; * for any."
)
@click.option("--kind", type=click.Choice(_KINDS), help="The kind of store; that of --store unless told.")
@mesh_options("store", "config", "output")
@click.pass_obj
def policy(session: Session, role: Role, host: str | None, services: str, node: str | None, kind: str | None) -> None:
    """Print the least rights that an agent, an operator or an authority needs in the store.

    For Consul the rules of an ACL policy, for etcd the commands that make a role. Nothing is asked or changed.

    \b
    Example:  meshagent store policy --for agent --host vm-1 --services web,batch --kind consul
    """
    grantee = _grantee(role, host, services, node)
    kind = kind or session.store_url().partition(":")[0]
    if kind not in _KINDS:
        raise misuse(
            f"a store of kind {kind} has no rights of its own, but an owner and a mode: name another with --kind"
        )
    text = consul_rules(grantee, Keys()) if kind == "consul" else etcd_commands(grantee, Keys())
    if session.form() == "table":
        emit(text)
    else:
        show({"name": grantee.name, "kind": kind, "text": text}, session.form())


def _grantee(role: Role, host: str | None, services: str, node: str | None) -> Grantee:
    if role != "agent":
        if host or services or node:
            raise misuse("--host, --services and --node are of an agent's rights")
        return Grantee(role)
    names = tuple(SERVICE.convert(name.strip(), None, None) for name in services.split(",") if name.strip())
    if not host or not names:
        raise misuse("an agent's rights are those of a --host and its --services")
    return Grantee(role, host, names, node or host)
