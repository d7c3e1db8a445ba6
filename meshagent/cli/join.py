"""`meshagent join`: this host becomes one of the mesh's."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshagent.cli.mesh import now_utc
from meshagent.cli.options import SERVICE, awaited, mesh_options
from meshagent.cli.output import say, show
from meshagent.cli.session import Session
from meshagent.errors import CertificateRefused, UsageProblem

if TYPE_CHECKING:
    from meshagent.agent.enrolment import Enrolled
    from meshagent.config import AgentConfig
    from meshagent.model.joining import JoinLine

_LONGEST = 8192
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("refused", nargs=-1, metavar="")
@click.option(
    "--from", "file", type=_FILE, metavar="FILE", help="File (0600) with the join line; else it is asked for."
)
@click.option("--host-name", type=SERVICE, metavar="NAME", help="Name of this host in the mesh; else the hostname.")
@click.option("--host-address", metavar="ADDRESS", help="Where other hosts reach this one; else the default route's.")
@click.option(
    "--store-token-file", type=_FILE, metavar="FILE", help="The store's token, where none comes with the line."
)
@click.option("--replace", is_flag=True, help="Join anew although this host has joined: a new key and certificate.")
@click.option("--start", is_flag=True, help="Start the agent as well.")
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def join(
    session: Session,
    refused: tuple[str, ...],
    file: Path | None,
    host_name: str | None,
    host_address: str | None,
    store_token_file: Path | None,
    *,
    replace: bool,
    start: bool,
) -> int:
    """Let this host into a mesh with the join line that `meshagent init` or `meshagent token create` printed.

    The line is asked for, or read from stdin: it holds a secret, and arguments can be read by every user of a machine.
    The authority is checked by the line's fingerprint before anything is sent. Writes agent.yaml, the host's key and
    certificate, and its credential for the store; nothing is started unless told.

    \b
    Example:  meshagent join --start
    """
    if refused:
        raise UsageProblem(
            "a join line is a secret, and every user of this machine can read arguments",
            next_step="meshagent join, then paste the line; revoke this one: meshagent token revoke",
        )
    from meshagent.cli.logs import quiet_log

    quiet_log()
    config = _configured(session, host_name, host_address)
    if not replace and (there := _joined(config)):
        show(there, session.form(), f"{there['host']} has joined {there['trust_domain']} already; --replace joins anew")
    else:
        await _join(session, config, _line(file), host_address, store_token_file, replace=replace)
    _start_or_say(session, start=start)
    return 0


def _configured(session: Session, host_name: str | None, host_address: str | None) -> AgentConfig:
    """This machine's settings as they are now. The address is found out when the agent starts, not here."""
    from meshagent.config import load_config

    file = session.config_file
    flags = {"host.name": host_name, "host.address": host_address or "127.0.0.1"}
    return load_config(file if file is None or file.exists() else None, flags)


def _joined(config: AgentConfig) -> dict[str, Any] | None:
    """What this host has joined; None when it has not, or when its certificate has ended."""
    from meshagent.ca.authority import pinned_roots
    from meshagent.ca.host_identity import ROOTS_FILE, load_own

    try:
        own = load_own(config.data_dir, pinned_roots(config.data_dir / ROOTS_FILE), now_utc())
    except (CertificateRefused, UsageProblem):
        return None
    domain, _, host = own.spiffe_id.removeprefix("spiffe://").partition("/host/")
    return {"trust_domain": domain, "host": host, "certificate_ends_at": own.expires_at.isoformat()}


def _line(file: Path | None) -> JoinLine:
    """The join line from a file, a prompt without echo, or stdin. Raises UsageProblem, which repeats none of it."""
    from meshagent.model.joining import parse_join_line
    from meshagent.private import read_private

    if file:
        text = read_private(file, _LONGEST).decode(errors="replace")
    elif sys.stdin.isatty():
        text = click.prompt("Join line", hide_input=True, err=True)
    else:
        text = sys.stdin.read(_LONGEST)
    try:
        return parse_join_line(text)
    except ValueError as error:
        raise UsageProblem(f"what was given {error}", next_step="meshagent token create prints a new one") from None


async def _join(
    session: Session,
    config: AgentConfig,
    line: JoinLine,
    host_address: str | None,
    store_token_file: Path | None,
    *,
    replace: bool,
) -> None:
    from meshagent.agent.enrolment import enrol, new_key
    from meshagent.cli.settings_files import agent_settings, older_settings, write_settings

    path = session.config_path()
    older_settings(path)  # what cannot be read is told before the token is spent
    with new_key(config.data_dir) if replace else nullcontext():
        enrolled = await enrol(line, config.host.name, config.data_dir, now_utc)
    access = _access(enrolled, line, config.data_dir, store_token_file)
    store = session.store or enrolled.store
    if not store:
        raise UsageProblem(
            f"{config.host.name} has joined, but the authority names no store that other hosts reach",
            next_step="set store in agent.yaml, and beside it ca: {provider: authority, addresses: [...]}",
        )
    host = {"name": config.host.name} | ({"address": host_address} if host_address else {})
    write_settings(path, agent_settings(store, host, enrolled.addresses, access), "meshagent join")
    services = ", ".join(enrolled.services) or "no service"
    words = f"{config.host.name} has joined {line.trust_domain} and may run {services}"
    value = {"trust_domain": line.trust_domain, "host": config.host.name, "services": list(enrolled.services)}
    show(value | {"store": store, "config": str(path)}, session.form(), words, f"  wrote {path}")


def _access(enrolled: Enrolled, line: JoinLine, data_dir: Path, named: Path | None) -> dict[str, object]:
    """The settings for the way to the store: the file that was named, or what came sealed with the line."""
    if named:
        return {"store_token_file": named.absolute()}
    if not enrolled.sealed:
        return {}
    from meshagent.cli.settings_files import kept_credential
    from meshagent.state.credentials import unpacked
    from meshagent.state.enrolment import unseal

    return kept_credential(unpacked(unseal(line.token, enrolled.sealed)), data_dir)


def _start_or_say(session: Session, *, start: bool) -> None:
    if not start:
        say("start the agent: meshagent agent")
        return
    from meshagent.cli.starting import start_agent

    say(start_agent(session))
