"""Catalogs of their own: where instances are registered when the store's server has a catalog, as Consul has.

`open_catalog(url)` is the door. Other stores keep instances as records with leases (`state/catalog.py`).
"""

from __future__ import annotations

import importlib
from datetime import timedelta
from typing import Protocol, cast

from meshagent.catalog.base import Catalog
from meshagent.wire.credentials import ConsulCredentials

# URL scheme of the store -> "module:opener"; the opener takes the URL, the credentials and how long silence means life.
CATALOGS: dict[str, str] = {"consul": "meshagent.catalog.consul:open_url"}


class Opener(Protocol):
    """What a catalog's module offers."""

    def __call__(self, url: str, access: ConsulCredentials, ttl: timedelta, *, native: bool) -> Catalog:
        """As `open_catalog`."""


def open_catalog(url: str, access: ConsulCredentials, ttl: timedelta, *, native: bool = False) -> Catalog | None:
    """The catalog of the store at the URL; None when that has none of its own. Nothing is sent yet.

    `native`: with what stands behind the proxies of its server's own mesh.
    """
    scheme = url.partition("://")[0]
    if scheme not in CATALOGS:
        return None
    module, _, opener = CATALOGS[scheme].partition(":")
    opens = cast("Opener", getattr(importlib.import_module(module), opener))
    return opens(url, access, ttl, native=native)
