"""Where a change of roots is made: which store, by which right, and in which directory the mesh's root lies.

A machine with an authority has an authority.yaml: its root, and its way to the store, which may write the trust bundle.
Elsewhere it is the agent's configuration, with the built-in CA.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from meshagent.ca.root_files import ROOT_FILE
from meshagent.cli.mesh import author, now_utc
from meshagent.cli.session import Session

if TYPE_CHECKING:
    from meshagent.config.authority import AuthorityConfig
    from meshagent.state.changes import Author
    from meshagent.state.roots import Vault


@dataclass(frozen=True, slots=True)
class Place:
    """`root` is None where this machine holds none; `life` is how long a certificate may live."""

    vault: Vault
    root: Path | None
    life: timedelta


@asynccontextmanager
async def place(session: Session, authority: Path | None) -> AsyncIterator[Place]:
    """Open it. `authority` is the authority.yaml that was named. Raises what configurations and stores raise."""
    from meshagent.state.roots import Vault

    config = _authority(session, authority)
    if config is None:
        async with session.mesh() as mesh:
            vault = Vault(mesh.store, mesh.keys, mesh.signing, _author)
            yield Place(vault, _builtin_root(session), session.configured().ca.ttl)
        return
    from meshagent.cli.logs import quiet_log
    from meshagent.state.keys import Keys
    from meshagent.state.operator_keys import load_signing
    from meshagent.state.reach import open_configured

    quiet_log()
    signing = load_signing(config)
    store = await open_configured(config, session.store or "")
    try:
        yield Place(
            Vault(store, Keys(signed=bool(signing.trust)), signing, _author),
            config.root_dir if (config.root_dir / ROOT_FILE).exists() else None,
            config.max_ttl,
        )
    finally:
        await store.close()


def _authority(session: Session, named: Path | None) -> AuthorityConfig | None:
    """The authority of this machine, unless its agent has a root of its own."""
    from meshagent.config.authority import FILE, load_authority_config

    standing = session.config_path().parent / FILE
    own = _builtin_root(session)
    if named is None and (not standing.exists() or (own is not None and (own / ROOT_FILE).exists())):
        return None
    return load_authority_config(named or standing)


def _builtin_root(session: Session) -> Path | None:
    config = session.configured()
    if config.ca.provider != "builtin":
        return None
    return Path(str(config.ca.provider_settings.get("path", config.data_dir / "ca")))


def _author(why: str) -> Author:
    return author(now_utc(), why)
