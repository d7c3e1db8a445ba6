"""Catalogs of their own: where instances are registered when the store's server has a catalog, as Consul has.

`open_catalog(url)` is the door. Other stores keep instances as records with leases (`state/catalog.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Protocol, cast

from meshagent.catalog.base import Catalog


class Credentials(Protocol):
    """Who we are to the server, and how we know it; the store's `Access` is one."""

    @property
    def ca_file(self) -> Path | None:
        """The PEM roots that the server's certificate must chain to."""

    @property
    def cert_file(self) -> Path | None:
        """The certificate that the server is shown."""

    @property
    def key_file(self) -> Path | None:
        """The key of that certificate."""

    @property
    def tls(self) -> bool:
        """Whether the server is to be reached by TLS."""

    def token(self) -> str:
        """The token as it is now, "" for none."""


# URL scheme of the store -> "module:opener"; the opener takes the URL, the credentials and how long silence means life.
CATALOGS: dict[str, str] = {"consul": "meshagent.catalog.consul:open_url"}


def open_catalog(url: str, access: Credentials, ttl: timedelta) -> Catalog | None:
    """The catalog of the store at the URL; None when that has none of its own. Nothing is sent yet."""
    scheme = url.partition("://")[0]
    if scheme not in CATALOGS:
        return None
    module, _, opener = CATALOGS[scheme].partition(":")
    opens = cast("Callable[[str, Credentials, timedelta], Catalog]", getattr(importlib.import_module(module), opener))
    return opens(url, access, ttl)
