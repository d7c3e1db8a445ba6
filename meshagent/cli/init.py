"""`meshagent init`: a new mesh in a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshagent.cli.mesh import author, now_utc
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import show
from meshagent.cli.session import Session
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
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def init(session: Session, trust_domain: str | None, default_action: str) -> int:
    """Set up a new mesh in a store: its trust domain, its default, and the roots of the configured CA.

    Once for a mesh in Consul or etcd, before the first agent starts. An agent with an SQLite file of its own does it
    by itself.

    \b
    Example:  meshagent init --store consul://127.0.0.1:8500
    """
    from meshagent.documents.validate import validate

    facts: dict[str, Any] = {"kind": "mesh", "name": "mesh", "default_action": default_action}
    mesh = validate(Mesh, facts | ({"trust_domain": trust_domain} if trust_domain else {}))
    if isinstance(mesh, tuple):
        raise click.BadParameter(mesh[0].message, param_hint="--trust-domain")
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
