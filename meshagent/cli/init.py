"""`meshagent init`: a new mesh in a store, and the first host and authority of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from meshagent.cli.mesh import OpenMesh, author, now_utc
from meshagent.cli.options import SERVICE, Checked, awaited, mesh_options, misuse
from meshagent.cli.output import emit, say, show
from meshagent.cli.session import Session
from meshagent.cli.token import DEFAULT_TTL, split_services
from meshagent.errors import MeshExists
from meshagent.model.mesh import Mesh
from meshagent.state.foundation import lay_foundation

if TYPE_CHECKING:
    from meshagent.cli.first_authority import FirstAuthority
    from meshagent.model.identity import TrustBundle


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be there beside the mesh: this host's services, whom to invite, which CA and at which address."""

    services: tuple[str, ...]
    joins: tuple[tuple[str, tuple[str, ...]], ...]
    authority: bool
    address: str | None
    node: str


def _join(text: str) -> tuple[str, tuple[str, ...]]:
    """`vm-2=web,batch`. Raises ValueError."""
    from meshagent.model.names import check_service_name

    host, equals, services = text.partition("=")
    names = split_services(services)
    if not equals or not names:
        raise ValueError("must be HOST=SERVICE[,SERVICE]")
    return check_service_name(host), tuple(map(check_service_name, names))


_JOIN = Checked("join", _join)


@click.command()
@click.option("--trust-domain", metavar="NAME", help="Whose identities these are; never changed later.")
@click.option(
    "--default-action",
    type=click.Choice(["deny", "shadow-deny", "allow"]),
    default="deny",
    show_default=True,
    help="What holds for a call that no intention names.",
)
@click.option("--services", metavar="A,B", default="", help="Settle this host too: the services that may run on it.")
@click.option(
    "--join", "joins", multiple=True, type=_JOIN, metavar="HOST=A,B", help="Print a join line for a host. Repeatable."
)
@click.option(
    "--ca",
    type=click.Choice(["authority", "builtin"]),
    help="Who signs: an authority on this machine for all hosts, which a shared store has unless told, or each host.",
)
@click.option(
    "--address", metavar="HOST:PORT", help="Where hosts reach the authority; port 8443 of this host unless told."
)
@click.option("--node", metavar="NAME", help="What Consul calls this machine; found out unless told.")
@click.option("--start", is_flag=True, help="Start the authority and this host's agent as well.")
@mesh_options("store", "store_token_file", "config", "output")
@click.pass_obj
@awaited
async def init(
    session: Session,
    trust_domain: str | None,
    default_action: str,
    services: str,
    joins: tuple[tuple[str, tuple[str, ...]], ...],
    ca: str | None,
    address: str | None,
    node: str | None,
    *,
    start: bool,
) -> int:
    """Set up a new mesh in a store: its trust domain, its default, its root, and the first authority.

    Once for a mesh in Consul or etcd, before the first agent starts. An agent with an SQLite file of its own does it
    by itself. With --services, this host is let in and agent.yaml is written. Where the store has ACLs, its agent, its
    authority and its operator (operator.yaml) each get a credential of their own that may do no more than they need;
    what --store-token-file names is used here alone, and kept nowhere.

    \b
    Example:  meshagent init --store consul://10.0.0.5:8500 --services web --join vm-2=payments --start
    """
    names = tuple(SERVICE.convert(each, None, None) for each in split_services(services))
    wanted = Wanted(names, joins, _asks_authority(session, ca, joins), address, node or "")
    if start and not names:
        raise misuse("--start is for a host that is settled: name its --services")
    if joins and not wanted.authority:
        raise misuse("--join needs an authority that lets hosts in, and not --ca builtin")
    await _found(session, _mesh(trust_domain, default_action), wanted)
    if start:
        from meshagent.cli.starting import start_agent, start_authority

        if wanted.authority:
            say(start_authority(session))
        say(start_agent(session))
    elif wanted.authority:
        say("start it: meshagent authority" + (", and meshagent agent" if names else ""))
    return 0


def _mesh(trust_domain: str | None, default_action: str) -> Mesh:
    from meshagent.documents.validate import validate

    facts: dict[str, Any] = {"kind": "mesh", "name": "mesh", "default_action": default_action}
    mesh = validate(Mesh, facts | ({"trust_domain": trust_domain} if trust_domain else {}))
    if isinstance(mesh, tuple):
        raise click.BadParameter(mesh[0].message, param_hint="--trust-domain")
    return mesh


def _asks_authority(session: Session, ca: str | None, joins: object) -> bool:
    """Whether an authority is made: as told, else where hosts share a store and no other CA is configured."""
    if ca:
        return ca == "authority"
    configured = session.configured().ca
    if "provider" in configured.model_fields_set:
        return configured.provider == "authority"
    return bool(joins) or not session.store_url().startswith("sqlite:")


async def _found(session: Session, mesh: Mesh, wanted: Wanted) -> None:
    async with session.mesh(make=True) as opened:
        there = MeshExists(f"there is a mesh already in {opened.where}", next_step="meshagent status shows it")
        if opened.keys.manifest in (await opened.store.read(opened.keys.manifest)).entries:
            raise there
        made = _authority(session, mesh.trust_domain, wanted)
        bundle = made.bundle if made else await _roots(session, mesh.trust_domain)
        by = author(now_utc(), "meshagent init")
        if not await lay_foundation(opened.store, opened.keys, mesh, bundle, by, opened.signing):
            raise there
        value = {"store": opened.where, "trust_domain": mesh.trust_domain, "default_action": mesh.default_action}
        lines = await _furnish(session, opened, wanted, made)
        words = f"mesh {mesh.trust_domain} is set up in {opened.where}: default {mesh.default_action}"
        if session.form() == "table" and lines:
            say(words)
            emit("\n".join(lines))
        else:
            show({**value, "roots": len(bundle.of(mesh.trust_domain)), "lines": list(lines)}, session.form(), words)


def _authority(session: Session, trust_domain: str, wanted: Wanted) -> FirstAuthority | None:
    if not wanted.authority:
        return None
    from meshagent.cli.first_authority import make_authority

    return make_authority(session, trust_domain, wanted.address)


async def _furnish(session: Session, mesh: OpenMesh, wanted: Wanted, made: FirstAuthority | None) -> tuple[str, ...]:
    """Authority, this host, invitations; returns the join lines."""
    from meshagent.cli.token import invited
    from meshagent.state.tokens import Invitation

    if made:
        from meshagent.cli.first_authority import publish

        say(f"wrote {await publish(session, mesh, made)}")
    if wanted.services:
        from meshagent.cli.settling import settle

        written = await settle(session, mesh, wanted.services, wanted.node, made)
        say(f"wrote {' and '.join(map(str, written))}")
    lines = []
    for host, services in wanted.joins:
        invitation = Invitation(host, services, DEFAULT_TTL)
        lines.append((await invited(session, mesh, invitation, "", credential=True))[0])
        say(f"on {host}, within {int(DEFAULT_TTL.total_seconds())} s: meshagent join, then paste its line")
    return tuple(lines)


async def _roots(session: Session, trust_domain: str) -> TrustBundle:
    from meshagent.ca import open_authority
    from meshagent.state.reach import ca_settings

    config = session.configured()
    opened = open_authority(
        config.ca.provider,
        ca_settings(config),
        trust_domain=trust_domain,
        data_dir=config.data_dir,
        clock=now_utc,
    )
    try:
        return await opened.bundle()
    finally:
        await opened.close()
