"""The store that a configuration names, and who this machine is to it."""

from __future__ import annotations

from meshagent.config import AgentConfig
from meshagent.store import open_store
from meshagent.store.access import Access
from meshagent.store.base import Store


async def open_configured(config: AgentConfig, url: str = "") -> Store:
    """The configured store, or the one at `url` with the configured credentials. Raises what `open_store` does."""
    access = Access(
        token_file=config.store_token_file,
        ca_file=config.store_ca_file,
        cert_file=config.store_cert_file,
        key_file=config.store_key_file,
        username=config.store_username,
        password_file=config.store_password_file,
    )
    return await open_store(url or config.store, access)
