"""`meshagent ca rotate`: another root, or another CA, without a failed request."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshagent.cli.mesh import author, now_utc
from meshagent.cli.options import DURATION, SERVICE, awaited, mesh_options, misuse
from meshagent.cli.output import say, show
from meshagent.cli.session import Session

if TYPE_CHECKING:
    from meshagent.cli.rotating import Rotating, Standing
    from meshagent.model.identity import TrustBundle
    from meshagent.state.roots import Vault
    from meshagent.state.rotation import RotationRecord

_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_NOT_YET = 5  # the exit code of an answer that is no
_DOING = {
    "distribute": "the new root is in the trust bundle; waiting until every live host has it",
    "activate": "the new root signs; waiting until every live host's certificates lead to it, and the old ones have ended",
    "retire": "the old root is retired",
}
_SETTINGS = "now set `ca` of every agent.yaml to the new CA and restart the agents, one host after the other"


@click.command()
@click.option("--status", is_flag=True, help="Say how the rotation stands, and change nothing.")
@click.option("--next", "once", is_flag=True, help="Take the next step if its time has come, and do not wait.")
@click.option("--abort", is_flag=True, help="Go back to the old root: the same road the other way.")
@click.option("--to", "other", type=_FILE, metavar="FILE", help="Go over to the CA of this agent.yaml's `ca`.")
@click.option("--add-roots", "roots", type=_FILE, metavar="FILE", help="Go over to the CA that has these roots (PEM).")
@click.option("--root", type=_DIRECTORY, metavar="DIR", help="The directory with the mesh's root.")
@click.option("--authority", type=_FILE, metavar="FILE", help="The authority.yaml of this machine; the usual one else.")
@click.option("--ttl", type=DURATION, metavar="DURATION", help="How long certificates live; as configured unless told.")
@click.option("--force-without", "without", type=SERVICE, multiple=True, metavar="HOST", help="Do not wait for HOST.")
@mesh_options("store", "config", "output", "timeout")
@click.pass_obj
@awaited
async def rotate(
    session: Session,
    status: bool,
    once: bool,
    abort: bool,
    other: Path | None,
    roots: Path | None,
    root: Path | None,
    authority: Path | None,
    ttl: timedelta | None,
    without: tuple[str, ...],
) -> int:
    """Replace the mesh's root by a new one, or its CA by another, in stages that no request notices.

    The new root goes into the trust bundle; when every live host has it, it signs; when every certificate leads to it
    and one life of the old ones has passed, the old root goes. Each stage waits for the hosts that are missing, and
    names them. Interrupted, it goes on where it was when it is called again.

    \b
    Example:  meshagent ca rotate
    """
    from meshagent.cli.ca_place import place
    from meshagent.cli.rotating import Rotating

    if status + once + abort > 1 or (other and roots):
        raise misuse("choose one of --status, --next and --abort, and one of --to and --add-roots")
    async with place(session, authority) as here:
        rotating = Rotating(here.vault, root or here.root, now_utc, author(now_utc()).who)
        standing = await rotating.look()
        if status:
            return _tell(session, standing)
        record, begun = standing.record, False
        if abort:
            if record is None:
                raise misuse("no rotation is under way: there is nothing to abort")
            record = await rotating.turn_back(record)
            say("turned back: the old root is the one that stays")
        elif record is None:
            added = await _other_ca(session, here.vault, other, roots)
            life = ttl or here.life
            record = await (rotating.change_provider(*added, life) if added else rotating.replace_root(life))
            say(_DOING[record.stage])
            begun = True
        elif other or roots:
            raise misuse("a rotation is under way: go on with it without --to and --add-roots, or --abort it")
        await rotating.leave_out(record, without)
        if begun and once:
            return _tell(session, await rotating.look())
        return await _go_on(session, rotating, once=once)


async def _go_on(session: Session, rotating: Rotating, *, once: bool) -> int:
    """Stage after stage; with `once` the next one alone. Exit code 5: not over when the time for it was."""
    limit = session.timeout.total_seconds() if session.timeout else None
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            return await _stages(session, rotating, once=once)
    return _tell(session, await rotating.look()) or _NOT_YET


async def _stages(session: Session, rotating: Rotating, *, once: bool) -> int:
    from meshagent.state.rotation import Go

    while True:
        standing = await (rotating.look() if once else rotating.wait(_say_waiting))
        if standing.record is None:
            return _tell(session, standing)
        if not isinstance(standing.decision, Go):
            _tell(session, standing)
            return _NOT_YET
        after = await rotating.step(standing.record, standing.decision)
        say(_words(after))
        if once:
            return _tell(session, await rotating.look())


def _words(record: RotationRecord | None) -> str:
    if record is None:
        return "done: what was signed with the old root is believed nowhere any more, and its key here is destroyed"
    if record.stage == "activate" and record.kind == "provider":
        return f"every live host believes the new roots: {_SETTINGS}"
    return _DOING[record.stage]


def _say_waiting(standing: Standing) -> None:
    from meshagent.state.rotation import Wait

    if not isinstance(standing.decision, Wait):
        return
    for host, why in sorted(standing.decision.hosts.items()):
        say(f"  {host}: {why}")
    if standing.decision.until:
        say(f"  not before {standing.decision.until:%Y-%m-%dT%H:%M:%SZ}, when the last old certificate has ended")


def _tell(session: Session, standing: Standing) -> int:
    from meshagent.state.rotation import Go, Wait

    record, decision = standing.record, standing.decision
    value: dict[str, Any] = {"stage": "none", "live_hosts": standing.live}
    words = f"no rotation is under way; {standing.live} hosts live"
    if record is not None:
        waiting = dict(decision.hosts) if isinstance(decision, Wait) else {}
        until = decision.until if isinstance(decision, Wait) else None
        ready = decision.stage if isinstance(decision, Go) else ""
        value |= {"stage": record.stage, "kind": record.kind, "old": record.old, "new": record.new, "next": ready}
        value |= {"waiting": waiting, "until": until.isoformat() if until else None, "without": record.without}
        lines = [f"{record.stage}: {_DOING[record.stage]}", *(f"  {host}: {why}" for host, why in waiting.items())]
        lines += [f"  not before {until:%Y-%m-%dT%H:%M:%SZ}"] if until else []
        lines += [f"  ready to {ready}: meshagent ca rotate"] if ready else []
        words = "\n".join(lines)
    show(value, session.form(), words)
    return 0


async def _other_ca(
    session: Session, vault: Vault, other: Path | None, roots: Path | None
) -> tuple[TrustBundle, str] | None:
    """The roots of the CA to go over to, and their trust domain; None: the CA stays."""
    if other is None and roots is None:
        return None
    trust_domain = await _trust_domain(vault)
    if roots is not None:
        from meshagent.ca.roots import bundle_of, read_trusted

        return bundle_of(read_trusted(roots, "roots"), trust_domain, str(roots)), trust_domain
    from meshagent.ca import open_authority
    from meshagent.config import load_config
    from meshagent.state.reach import ca_settings

    config = load_config(other, {"host.address": "127.0.0.1"}, {})
    data_dir = session.configured().data_dir
    opened = open_authority(
        config.ca.provider, ca_settings(config), trust_domain=trust_domain, data_dir=data_dir, clock=now_utc
    )
    try:
        return await opened.bundle(), trust_domain
    finally:
        await opened.close()


async def _trust_domain(vault: Vault) -> str:
    """As the mesh document says. Raises NotFound, UnreadableRecord."""
    from meshagent.model.mesh import Mesh
    from meshagent.state.records import PolicyRecord, decode

    entry = (await vault.store.read(vault.keys.mesh)).entries.get(vault.keys.mesh)
    document = decode(PolicyRecord, entry.value).document if entry else None
    return Mesh.model_validate(document or {}).trust_domain
