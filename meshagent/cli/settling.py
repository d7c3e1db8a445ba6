"""`init` for the machine that it runs on: least credentials of the store for its agent and its operator, and their settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshagent.cli.session import OPERATOR_FILE, Session
from meshagent.cli.settings_files import kept_credential, older_settings, write_settings
from meshagent.state.credentials import least_credential
from meshagent.state.rights import Grantee

if TYPE_CHECKING:
    from pathlib import Path

    from meshagent.cli.first_authority import FirstAuthority
    from meshagent.cli.mesh import OpenMesh

BY = "meshagent init"


async def settle(
    session: Session, mesh: OpenMesh, services: tuple[str, ...], node: str, made: FirstAuthority | None
) -> tuple[Path, ...]:
    """Make what this host's agent and operator need and write it down; returns the files.

    `made`: the authority that lets this host in; None: the configured CA is asked. Where the store guards nothing, no
    credential is made. Raises StoreDenied, StoreUnavailable, UnsafeFile.
    """
    path, config = session.config_path(), session.configured()
    older_settings(path)  # what cannot be read is told before credentials are made
    url, access = session.store_url(), session.access()
    agent = await least_credential(url, access, Grantee("agent", config.host.name, services, node), mesh.keys)
    own: dict[str, Any] = {"store": url, "host": {"name": config.host.name}}
    if made:
        from meshagent.cli.first_authority import enrol_here

        own = await enrol_here(session, mesh, made, config, services)
    kept = kept_credential(agent, config.data_dir) if agent else {}
    write_settings(path, own | {key: str(value) for key, value in kept.items()}, BY)
    operator = await least_credential(url, access, Grantee("operator"), mesh.keys) if agent else None
    if operator is None:
        return (path,)
    told = kept_credential(operator, path.parent, "operator")
    write_settings(path.with_name(OPERATOR_FILE), {key: str(value) for key, value in told.items()}, BY)
    return path, path.with_name(OPERATOR_FILE)
