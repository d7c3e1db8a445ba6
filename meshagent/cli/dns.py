"""`meshagent dns`: lead this host's resolver to the agent for the mesh's names, and see whether it goes there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import Table, say, show, warn
from meshagent.cli.session import Session
from meshagent.errors import AgentUnreachable, NotFound, UsageProblem

_ROOT = click.Path(file_okay=False, path_type=Path)


@click.group()
def dns() -> None:
    """Names of services for applications: api.mesh. Lead this host's resolver to the agent, and see where it goes.

    \b
    Example:  meshagent dns install
    """


@dns.command()
@click.option(
    "--resolver",
    type=click.Choice(["auto", "resolved", "dnsmasq"]),
    default="auto",
    show_default=True,
    help="systemd-resolved or dnsmasq; auto: the one that runs.",
)
@click.option(
    "--root", type=_ROOT, default=Path("/"), metavar="DIR", help="Write below DIR, as for an image; run nothing."
)
@mesh_options("api", "config")
@click.pass_obj
@awaited
async def install(session: Session, resolver: str, root: Path) -> None:
    """Have this host's resolver ask the agent for the mesh's names, and for no others.

    One file is written, and the resolver restarted. A file that this command did not write is left alone.

    \b
    Example:  meshagent dns install
    """
    from meshagent.host.resolver import RESOLVERS, refuse_other_servers, run_command, running, text_for, write
    from meshagent.model.virtual import reverse_zones

    address, zone = await _served(session)
    zones = (zone, *reverse_zones())
    chosen = next((each for each in RESOLVERS if each == resolver), None) or running(root)
    if chosen is None:
        raise NotFound(
            "neither systemd-resolved nor dnsmasq runs here",
            next_step=f"name one with --resolver, or have yours ask {address} for {zone}: docs/dns.md",
        )
    live = root == Path("/")
    if live and chosen == "resolved":
        refuse_other_servers(run_command, address, zones)
    path = write(root, chosen, text_for(chosen, address, zones))
    say(f"wrote {path}: names that end in .{zone} are asked at {address}")
    if live:
        _restart(chosen)
    say("see what it finds: meshagent dns show; undo: meshagent dns uninstall")


@dns.command()
@click.option("--root", type=_ROOT, default=Path("/"), metavar="DIR", help="Remove below DIR; run nothing.")
def uninstall(root: Path) -> None:
    """Remove what `install` wrote, and restart the resolver.

    \b
    Example:  meshagent dns uninstall
    """
    from meshagent.host.resolver import remove

    removed = remove(root)
    for resolver, path in removed:
        say(f"removed {path}")
        if root == Path("/"):
            _restart(resolver)
    if not removed:
        say("nothing is installed")


@dns.command("show")
@click.option("--root", type=_ROOT, default=Path("/"), metavar="DIR", help="Look for files below DIR.")
@mesh_options("api", "config", "output")
@click.pass_obj
@awaited
async def show_names(session: Session, root: Path) -> int:
    """The names that the agent answers, their addresses, and what applications of this host find.

    Exit code 1 when a name leads elsewhere or nowhere.

    \b
    Example:  meshagent dns show
    """
    from meshagent.cli.lookups import look_up
    from meshagent.host.resolver import FILES, looked_up, written

    told = (await session.agent().status()).get("dns")
    if not told:
        raise _off()
    files = {resolver: str(root / FILES[resolver]) for resolver in written(root)}
    seen = [look_up(service, told["zone"], looked_up) for service in told["names"]]
    data = {**told, "files": files, "names": [{**asdict(each), "ok": each.ok} for each in seen]}
    head = f"{told['address']} answers for .{told['zone']}" + ("" if told["listening"] else " (not listening)")
    hook = ", ".join(files.values()) or "no file of `meshagent dns install`"
    rows = [(each.name, each.ipv4, each.ipv6, each.verdict) for each in seen]
    show(data, session.form(), head, hook, Table(("NAME", "IPV4", "IPV6", "FOUND"), rows))
    return 0 if told["listening"] and all(each.ok for each in seen) else 1


async def _served(session: Session) -> tuple[str, str]:
    """The listener's address and zone: the running agent's, else as configured. Raises UsageProblem where it is off."""
    try:
        told = (await session.agent().status()).get("dns")
        found = (told["address"], told["zone"]) if told else None
    except AgentUnreachable:
        configured = session.configured()
        found = (configured.dns, configured.dns_zone) if configured.dns_address else None
    if found is None:
        raise _off()
    return found


def _off() -> UsageProblem:
    return UsageProblem(
        "the agent answers no names", next_step="set dns: 127.0.0.1:15053 in agent.yaml and start the agent again"
    )


def _restart(resolver: Any) -> None:
    from meshagent.host.resolver import RESTARTS, run_command

    words = RESTARTS[resolver]
    try:
        run_command(words)
    except NotFound as error:
        warn(f"it counts from the next start of the resolver: {error}")
    else:
        say(f"ran {' '.join(words)}")
