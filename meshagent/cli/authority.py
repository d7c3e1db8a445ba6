"""`meshagent authority`: the daemon that lets hosts in and signs their certificates."""

from __future__ import annotations

from pathlib import Path

import click

from meshagent.cli.options import awaited
from meshagent.cli.session import Session

_FILE = click.Path(dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--config", "file", type=_FILE, metavar="FILE", help="The authority's settings; else authority.yaml.")
@click.option("--data-dir", type=_DIRECTORY, metavar="DIR", help="Its keys and audit log; one authority a directory.")
@click.option("--listen", metavar="HOST:PORT", help="Where it takes HTTPS.")
@click.option("--address", metavar="HOST:PORT", help="Where hosts reach it.")
@click.option("--name", metavar="NAME", help="Name of this authority; else the hostname.")
@click.pass_obj
@awaited
async def authority(
    session: Session,
    file: Path | None,
    data_dir: Path | None,
    listen: str | None,
    address: str | None,
    name: str | None,
) -> int:
    """Run a signing authority until SIGTERM or Ctrl-C.

    It lets in hosts that bring a join token, and signs the certificates of the services that each host was granted. There
    may be several, each with an intermediate of its own; without the mesh's root in its data directory, it waits until
    an operator has signed its request: meshagent ca root sign.

    \b
    Example:  meshagent authority --config /etc/meshagent/authority.yaml
    """
    import meshagent.telemetry  # noqa: F401 - before anything else that logs, see there
    from meshagent.authority.run import run
    from meshagent.config.authority import AuthorityConfig, load_authority_config

    flags = {"store": session.store, "data_dir": data_dir, "listen": listen, "address": address, "name": name}

    def load() -> AuthorityConfig:
        return load_authority_config(file, flags)

    return await run(load(), load)
