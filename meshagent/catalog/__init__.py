"""Catalogs of their own: where instances are registered when the store's server has a catalog, as Consul has.

`open_catalog(url)` is the door. Other stores keep instances as records with leases (`state/catalog.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import timedelta
from typing import cast

from meshagent.catalog.base import Catalog
from meshagent.wire.credentials import ConsulCredentials

# URL scheme of the store -> "module:opener"; the opener takes the URL, the credentials and how long silence means life.
CATALOGS: dict[str, str] = {"consul": "meshagent.catalog.consul:open_url"}


def open_catalog(url: str, access: ConsulCredentials, ttl: timedelta) -> Catalog | None:
    """The catalog of the store at the URL; None when that has none of its own. Nothing is sent yet."""
    scheme = url.partition("://")[0]
    if scheme not in CATALOGS:
        return None
    module, _, opener = CATALOGS[scheme].partition(":")
    opens = cast(
        "Callable[[str, ConsulCredentials, timedelta], Catalog]", getattr(importlib.import_module(module), opener)
    )
    return opens(url, access, ttl)
