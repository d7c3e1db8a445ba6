"""The stores: where documents, the trust bundle and the catalog live.

`open_store(url)` is the door. To add a store: write its module and give it a line in `STORES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import urlsplit

from meshagent.errors import UsageProblem
from meshagent.store.access import Access
from meshagent.store.base import Store

# URL scheme -> "module:opener"; the opener takes the URL and an Access. Imported when chosen: some clients are big.
STORES: dict[str, str] = {
    "consul": "meshagent.store.consul:open_url",
    "etcd": "meshagent.store.etcd:open_url",
    "sqlite": "meshagent.store.sqlite:open_url",
}


async def open_store(url: str, access: Access | None = None) -> Store:
    """The store at the URL, open and usable. The caller closes it. `access`: who we are to a server.

    Raises UsageProblem for a URL that names no store, StoreUnavailable and StoreDenied as the store's own opener does.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in STORES:
        known = ", ".join(f"{name}://" for name in sorted(STORES))
        raise UsageProblem(
            f"No store is called {urlsplit(url).scheme or url!r}.", next_step=f"Use a URL that begins with {known}."
        )
    module, _, opener = STORES[scheme].partition(":")
    opens = cast("Callable[[str, Access], Awaitable[Store]]", getattr(importlib.import_module(module), opener))
    return await opens(url, access or Access())
