"""The store that a configuration names, the catalog that goes with it, and who this machine is to both."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from meshagent.catalog import open_catalog
from meshagent.catalog.base import Catalog
from meshagent.state.catalog import StoreCatalog
from meshagent.state.keys import Keys
from meshagent.store import open_store
from meshagent.store.access import Access
from meshagent.store.base import Store
from meshagent.wire.credentials import ConsulCredentials

if TYPE_CHECKING:  # a command that reads no configuration does not import what reads one
    from meshagent.catalog.consul_intentions import ConsulIntentions
    from meshagent.config import AgentConfig, StoreConfig

# How long a host may be silent before its instances count as gone.
TTL = timedelta(seconds=10)


def access_of(config: StoreConfig) -> Access:
    """Who this machine is to a store on the network."""
    return Access(
        token_file=config.store_token_file,
        ca_file=config.store_ca_file,
        cert_file=config.store_cert_file,
        key_file=config.store_key_file,
        username=config.store_username,
        password_file=config.store_password_file,
    )


async def open_configured(config: StoreConfig, url: str = "") -> Store:
    """The configured store, or the one at `url` with the configured credentials. Raises what `open_store` does."""
    return await open_store(url or config.store, access_of(config))


def ca_settings(config: AgentConfig) -> dict[str, Any]:
    """The settings of the configured CA. Consul's is reached as the store is, where that is Consul and nothing else is said."""
    settings = config.ca.provider_settings
    if config.ca.provider != "consul" or "address" in settings or not config.store.startswith("consul:"):
        return settings
    access = {
        "token_file": config.store_token_file,
        "ca_file": config.store_ca_file,
        "cert_file": config.store_cert_file,
        "key_file": config.store_key_file,
    }
    return {"address": config.store, **{name: path for name, path in access.items() if path}, **settings}


def consul_intentions(config: AgentConfig) -> ConsulIntentions | None:
    """Where Consul says who may call whom, for an agent whose CA is Consul's; None for any other."""
    if config.ca.provider != "consul":
        return None
    from meshagent.ca.consul import open_client
    from meshagent.catalog.consul_intentions import ConsulIntentions

    settings = ca_settings(config)
    return ConsulIntentions(lambda: open_client(settings))


def catalog_at(
    url: str, access: ConsulCredentials, store: Store, keys: Keys, ttl: timedelta = TTL, *, native: bool = False
) -> Catalog:
    """The catalog that belongs to the store at the URL. Raises UsageProblem for a URL that cannot be used."""
    return open_catalog(url, access, ttl, native=native) or StoreCatalog(store, keys)
