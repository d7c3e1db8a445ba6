"""`meshagent token`: join lines for new hosts, and what becomes of hosts that have joined."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from meshagent.cli.lazy import LazyGroup
from meshagent.cli.mesh import OpenMesh, author, now_utc
from meshagent.cli.options import DURATION, SERVICE, awaited, mesh_options
from meshagent.cli.output import Table, emit, say, show
from meshagent.cli.session import Session
from meshagent.errors import NotFound
from meshagent.state.enrolment import ID_LENGTH, GrantRecord, token_hash

if TYPE_CHECKING:
    from meshagent.state.tokens import Invitation

DEFAULT_TTL = timedelta(minutes=10)


@click.group(cls=LazyGroup)
def token() -> None:
    """Join lines: let a new host in, once; see and revoke them; deny a host that has joined.

    \b
    Example:  meshagent token create --host vm-2 --services payments
    """


@token.command()
@click.option("--host", required=True, type=SERVICE, metavar="NAME", help="The host that it is for, and no other.")
@click.option("--services", required=True, metavar="A,B", help="The services that may run on that host.")
@click.option("--ttl", type=DURATION, metavar="DURATION", default="10m", show_default=True, help="How long it is good.")
@click.option("--node", type=SERVICE, metavar="NAME", help="What Consul calls that machine; found out unless told.")
@click.option(
    "--without-credential", is_flag=True, help="No credential of the store comes with it: it is made by hand."
)
@mesh_options("store", "store_token_file", "config", "output")
@click.pass_obj
@awaited
async def create(
    session: Session, host: str, services: str, ttl: timedelta, node: str | None, *, without_credential: bool
) -> int:
    """Print one join line for a new host, good once and for a short time: it is a secret.

    Where the store guards itself (Consul's ACLs, etcd's authentication), the host's own least credential is made as well
    and travels sealed: nobody reads it in the store.

    \b
    Example:  meshagent token create --host vm-2 --services payments,batch --ttl 10m
    """
    from meshagent.state.tokens import Invitation, check_invitation

    invitation = Invitation(host, split_services(services), ttl)
    check_invitation(invitation)
    async with session.mesh() as mesh:
        line = await invited(session, mesh, invitation, node or "", credential=not without_credential)
    value = {
        "host": host,
        "services": list(invitation.services),
        "id": token_hash(line[1])[:ID_LENGTH],
        "line": line[0],
    }
    if session.form() == "table":
        emit(line[0])
    else:
        show(value, session.form())
    say(f"on {host}, within {int(ttl.total_seconds())} s: meshagent join, then paste the line")
    return 0


@token.command("list")
@mesh_options("store", "store_token_file", "config", "output")
@click.pass_obj
@awaited
async def list_(session: Session) -> int:
    """List join tokens by their ids, and the hosts that have joined; the tokens themselves are kept nowhere.

    \b
    Example:  meshagent token list -o json
    """
    from meshagent.state.tokens import grants, tokens

    async with session.mesh() as mesh:
        held, joined = await tokens(mesh.store, mesh.keys), await grants(mesh.store, mesh.keys)
    now = now_utc()
    rows: list[dict[str, Any]] = [
        {
            "id": digest[:ID_LENGTH],
            "host": each.host,
            "services": list(each.services),
            "state": each.state(now),
            "expires_at": each.expires_at.isoformat(),
            "created_by": each.created_by,
            "used_by": each.used_by_address,
        }
        for digest, each in sorted(held.items(), key=lambda item: item[1].at)
    ]
    hosts = [_grant_row(each) for _, each in sorted(joined.items())]
    show(
        {"tokens": rows, "hosts": hosts},
        session.form(),
        Table(("ID", "HOST", "SERVICES", "STATE", "EXPIRES", "BY", "USED BY"), [list(row.values()) for row in rows]),
        Table(("JOINED", "SERVICES", "DENIED"), [list(row.values()) for row in hosts]),
    )
    return 0


@token.command()
@click.argument("token_id", metavar="ID")
@mesh_options("store", "store_token_file", "config", "output")
@click.pass_obj
@awaited
async def revoke(session: Session, token_id: str) -> int:
    """Take a join token back; ID is what `token list` shows. A host that has joined with it stays: see `token deny`.

    \b
    Example:  meshagent token revoke 3f0c9a77be21
    """
    from meshagent.state.tokens import revoke as take_back

    async with session.mesh() as mesh:
        gone = await take_back(mesh.store, mesh.keys, token_id)
    words = (
        f"the token for {gone.host} is revoked"
        if gone.used_at is None
        else f"the used token of {gone.host} is forgotten"
    )
    show({"host": gone.host, "services": list(gone.services), "used": gone.used_at is not None}, session.form(), words)
    return 0


@token.command()
@click.argument("host", type=SERVICE)
@click.option("--service", type=SERVICE, metavar="NAME", help="This service alone.")
@mesh_options("store", "store_token_file", "config", "output")
@click.pass_obj
@awaited
async def deny(session: Session, host: str, service: str | None) -> int:
    """Give HOST no more certificates, or none for one service: what it has ends within its life, an hour by default.

    \b
    Example:  meshagent token deny vm-2 --service payments
    """
    from meshagent.state.tokens import deny as change

    async with session.mesh() as mesh:
        grant = await change(mesh.store, mesh.keys, host, service or "", author(now_utc()))
    show(_grant_row(grant), session.form(), f"{host} gets no certificate{_for(service)} any more")
    return 0


@token.command()
@click.argument("host", type=SERVICE)
@click.option("--service", type=SERVICE, metavar="NAME", help="This service alone.")
@mesh_options("store", "store_token_file", "config", "output")
@click.pass_obj
@awaited
async def allow(session: Session, host: str, service: str | None) -> int:
    """Take `token deny` back.

    \b
    Example:  meshagent token allow vm-2
    """
    from meshagent.state.tokens import allow as change

    async with session.mesh() as mesh:
        grant = await change(mesh.store, mesh.keys, host, service or "", author(now_utc()))
    show(_grant_row(grant), session.form(), f"{host} gets certificates{_for(service)} again")
    return 0


async def invited(
    session: Session, mesh: OpenMesh, invitation: Invitation, node: str, *, credential: bool
) -> tuple[str, str]:
    """A join line for the invitation, and its token. Raises NotFound, StoreDenied, StoreUnavailable, UsageProblem."""
    from meshagent.ca.authority_calls import fingerprint_of, issuer_among
    from meshagent.model.joining import JoinLine
    from meshagent.state.credentials import least_credential
    from meshagent.state.rights import Grantee
    from meshagent.state.tokens import invite, signers, with_credential

    domain, roots = await _roots(mesh)
    known = await signers(mesh.store, mesh.keys)  # without an authority no token is made
    root = issuer_among(known[0].intermediate, roots)
    if credential:
        grantee = Grantee("agent", invitation.host, invitation.services, node)
        made = await least_credential(session.store_url(), session.access(), grantee, mesh.keys)
        invitation = with_credential(invitation, made)
    secret = await invite(mesh.store, mesh.keys, invitation, author(now_utc()))
    addresses = tuple(each.address for each in known)
    return JoinLine(addresses, fingerprint_of(root), secret, domain).text(), secret


async def _roots(mesh: OpenMesh) -> tuple[str, tuple[str, ...]]:
    """The trust domain and its roots, oldest first."""
    from meshagent.model.mesh import Mesh
    from meshagent.state.records import BundleRecord, decode

    documents = (await mesh.read()).documents
    found = next((stated.thing for stated in documents.values() if isinstance(stated.thing, Mesh)), Mesh())
    entry = (await mesh.store.read(mesh.keys.bundle)).entries.get(mesh.keys.bundle)
    roots = decode(BundleRecord, entry.value).bundle().of(found.trust_domain) if entry else ()
    if not roots:
        raise NotFound(f"there is no root of {found.trust_domain} in the store", next_step="meshagent init")
    return found.trust_domain, roots


def split_services(text: str) -> tuple[str, ...]:
    """`web,batch` as names."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _grant_row(grant: GrantRecord) -> dict[str, Any]:
    denied: list[str] = ["everything"] if grant.denied else list(grant.denied_services)
    return {"host": grant.host, "services": list(grant.services), "denied": denied}


def _for(service: str | None) -> str:
    return f" for {service}" if service else ""
