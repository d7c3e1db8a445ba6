"""`meshagent agent`: the daemon of this host."""

from __future__ import annotations

from pathlib import Path

import click

from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.session import Session

_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--data-dir", type=_DIRECTORY, metavar="DIR", help="What this agent keeps; one agent a directory.")
@click.option("--services-dir", type=_DIRECTORY, metavar="DIR", help="Definitions of this host's services.")
@click.option("--host-name", metavar="NAME", help="Name of this host in the mesh.")
@click.option("--host-address", metavar="ADDRESS", help="Where other hosts reach this one.")
@click.option("--inbound-port", type=int, metavar="PORT", help="The port on which this host takes mTLS.")
@click.option("--envoy-path", metavar="FILE", help="The Envoy binary; auto finds one.")
@click.option("--metrics", metavar="HOST:PORT", help="Where Prometheus finds the agent's metrics; none: nowhere.")
@mesh_options("store", "api", "config")
@click.pass_obj
@awaited
async def agent(
    session: Session,
    data_dir: Path | None,
    services_dir: Path | None,
    host_name: str | None,
    host_address: str | None,
    inbound_port: int | None,
    envoy_path: str | None,
    metrics: str | None,
) -> int:
    """Run this host's agent and its Envoy until SIGTERM or Ctrl-C, which drain.

    An option wins over its environment variable (MESHAGENT_DATA_DIR and so on), which wins over the configuration file.

    \b
    Example:  meshagent agent --store sqlite:///var/lib/meshagent/mesh.db
    """
    flags = {
        "store": session.store,
        "api": f"unix://{session.api}" if session.api and session.api.startswith("/") else session.api,
        "data_dir": data_dir,
        "services_dir": services_dir,
        "host.name": host_name,
        "host.address": host_address,
        "inbound_port": inbound_port,
        "envoy.path": envoy_path,
        "metrics": metrics,
    }
    import meshagent.telemetry  # noqa: F401 - before anything else that logs, see there
    from meshagent.config import load_config
    from meshagent.daemon import run

    return await run(load_config(session.config_file, flags))
