"""`meshagent init`: a new mesh in a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshagent.cli.mesh import author, now_utc
from meshagent.cli.options import SERVICE, awaited, mesh_options, misuse
from meshagent.cli.output import say, show
from meshagent.cli.session import Session
from meshagent.cli.token import split_services
from meshagent.errors import MeshExists
from meshagent.model.mesh import Mesh
from meshagent.state.foundation import lay_foundation

if TYPE_CHECKING:
    from meshagent.model.identity import TrustBundle


@click.command()
@click.option("--trust-domain", metavar="NAME", help="Whose identities these are; never changed later.")
@click.option(
    "--default-action",
    type=click.Choice(["deny", "allow"]),
    default="deny",
    show_default=True,
    help="What holds for a call that no intention names.",
)
@click.option("--services", metavar="A,B", default="", help="Settle this host too: the services that may run on it.")
@click.option("--node", metavar="NAME", help="What Consul calls this machine; found out unless told.")
@click.option("--start", is_flag=True, help="Start this host's agent as well.")
@mesh_options("store", "store_token_file", "config", "output")
@click.pass_obj
@awaited
async def init(
    session: Session, trust_domain: str | None, default_action: str, services: str, node: str | None, *, start: bool
) -> int:
    """Set up a new mesh in a store: its trust domain, its default, and the roots of the configured CA.

    Once for a mesh in Consul or etcd, before the first agent starts. An agent with an SQLite file of its own does it
    by itself. With --services, agent.yaml is written for this host. Where the store has ACLs, its agent is given a
    credential that may do no more than those services need, and its operator another (operator.yaml); what
    --store-token-file names is used here alone, and kept nowhere.

    \b
    Example:  meshagent init --store consul://10.0.0.5:8500 --store-token-file management.token --services web --start
    """
    from meshagent.documents.validate import validate

    facts: dict[str, Any] = {"kind": "mesh", "name": "mesh", "default_action": default_action}
    mesh = validate(Mesh, facts | ({"trust_domain": trust_domain} if trust_domain else {}))
    if isinstance(mesh, tuple):
        raise click.BadParameter(mesh[0].message, param_hint="--trust-domain")
    names = tuple(SERVICE.convert(each, None, None) for each in split_services(services))
    if start and not names:
        raise misuse("--start is for a host that is settled: name its --services")
    async with session.mesh(make=True) as opened:
        there = MeshExists(f"there is a mesh already in {opened.where}", next_step="meshagent status shows it")
        if opened.keys.manifest in (await opened.store.read(opened.keys.manifest)).entries:
            raise there
        bundle = await _roots(session, mesh.trust_domain)
        by = author(now_utc(), "meshagent init")
        if not await lay_foundation(opened.store, opened.keys, mesh, bundle, by, opened.signing):
            raise there
        value = {"store": opened.where, "trust_domain": mesh.trust_domain, "default_action": mesh.default_action}
        show(
            value | {"roots": len(bundle.of(mesh.trust_domain))},
            session.form(),
            f"mesh {mesh.trust_domain} is set up in {opened.where}: default {mesh.default_action}",
        )
        if names:
            from meshagent.cli.settling import settle

            written = await settle(session, opened, names, node or "")
            say(f"wrote {' and '.join(map(str, written))}")
    if start:
        from meshagent.cli.starting import start_agent

        say(start_agent(session))
    return 0


async def _roots(session: Session, trust_domain: str) -> TrustBundle:
    from meshagent.ca import open_authority

    config = session.configured()
    opened = open_authority(
        config.ca.provider,
        config.ca.provider_settings,
        trust_domain=trust_domain,
        data_dir=config.data_dir,
        clock=now_utc,
    )
    return await opened.bundle()
