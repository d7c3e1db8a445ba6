"""`meshagent systemd`: the units of this machine, and the commands that Envoy's unit runs."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import click

from meshagent.cli.options import awaited
from meshagent.cli.output import say
from meshagent.cli.session import Session
from meshagent.errors import EnvoyFailed, MeshError

_ROOT = click.Path(file_okay=False, path_type=Path)
_AFTER_DRAIN = timedelta(seconds=2)  # for connections that came to Envoy while the mesh was told


@click.group()
def systemd() -> None:
    """Units for systemd: write them, remove them.

    \b
    Example:  meshagent systemd install
    """


@systemd.command()
@click.option(
    "--root", type=_ROOT, default=Path("/"), metavar="DIR", help="Write below DIR, as for an image; run nothing."
)
def install(root: Path) -> None:
    """Write the units, the users they run as and their directories. Nothing is enabled or started.

    Where meshagent came as a Debian package, they are in place already.

    \b
    Example:  meshagent systemd install
    """
    from meshagent.host.systemd import install as install_units
    from meshagent.host.systemd import own_command

    for path in install_units(root, own_command()):
        say(f"wrote {path}")
    say("start the agent, now and at boot: systemctl enable --now meshagent")


@systemd.command()
@click.option("--root", type=_ROOT, default=Path("/"), metavar="DIR", help="Remove below DIR; stop nothing.")
def uninstall(root: Path) -> None:
    """Stop the units and remove them. Settings (/etc/meshagent), state (/var/lib/meshagent*) and users stay.

    \b
    Example:  meshagent systemd uninstall
    """
    from meshagent.host.systemd import uninstall as uninstall_units

    removed = uninstall_units(root)
    for path in removed:
        say(f"removed {path}")
    if not removed:
        say("no units are installed")


@systemd.command()
@click.pass_obj
def envoy(session: Session) -> None:
    """Become this host's Envoy, as the agent has written down. Run by meshagent-envoy.service.

    \b
    Example:  meshagent systemd envoy
    """
    from meshagent.envoy.unit import become_envoy

    become_envoy(session.configured().data_dir)


@systemd.command()
@click.pass_obj
@awaited
async def renew(session: Session) -> None:
    """Have another Envoy take over from one that is outdated, with its sockets. Run by `systemctl reload meshagent-envoy`.

    Where no other can follow without a gap, this fails, and Envoy serves on as it is.

    \b
    Example:  meshagent systemd renew
    """
    from meshagent.envoy.unit import renew_envoy
    from meshagent.host.notify import Notifier

    config = session.configured()
    told = Notifier.of(os.environ).main_process
    say(await renew_envoy(config.data_dir, config.runtime_dir / "admin.sock", config.envoy.drain, told))


@systemd.command()
@click.pass_obj
@awaited
async def drain(session: Session) -> int:
    """Take this host out of the mesh and wait for what is under way. Run by meshagent-envoy.service before it stops Envoy.

    Where Envoy has ended by itself (no MAINPID), there is nothing to wait for.

    \b
    Example:  meshagent systemd drain
    """
    if not os.environ.get("MAINPID"):
        return 0
    from meshagent.envoy.admin import AdminClient
    from meshagent.envoy.drain import drain as drain_envoy

    config = session.configured()
    try:
        await session.agent().leave()
    except MeshError as error:
        say(f"the agent cannot tell the mesh: {error}")
    try:
        await drain_envoy(AdminClient(config.runtime_dir / "admin.sock"), max(config.envoy.drain, _AFTER_DRAIN))
    except EnvoyFailed as error:
        say(f"Envoy is not drained: {error}")
    return 0
