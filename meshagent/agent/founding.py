"""Sets up a new mesh in a store that only this machine uses, and makes the CA's roots known. Shared stores are set up by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Never

import structlog

from meshagent.ca.base import Authority
from meshagent.errors import AuthorityUnavailable, Conflict, StoreDenied, StoreUnavailable
from meshagent.model.mesh import Mesh
from meshagent.model.world import World
from meshagent.state.changes import Author
from meshagent.state.foundation import add_roots, lay_foundation
from meshagent.state.keys import Keys
from meshagent.state.records import PolicyRecord, UnreadableRecord, decode
from meshagent.store.base import Store

_log = structlog.get_logger(__name__)
_ROOTS_EVERY = (30.0, 60.0)


async def found(
    store: Store,
    keys: Keys,
    authority: Callable[[str], Authority],
    *,
    own_store: bool,
    last_good: World | None,
    clock: Callable[[], datetime],
) -> None:
    """Try until it is done.

    A store in which a mesh was seen before (`last_good`) is never set up anew: an emptied store is a fault, not a wish.
    """
    attempt = 0
    while True:
        try:
            held = (await store.read(keys.manifest, keys.mesh)).entries
            if keys.manifest in held:
                domain = _trust_domain(held[keys.mesh].value) if keys.mesh in held else ""
                if domain and await add_roots(store, keys, await authority(domain).bundle()):
                    _log.info("roots_added", trust_domain=domain)
                return
            if not own_store or last_good is not None:
                return
            mesh = Mesh()
            author = Author("meshagent agent", clock(), "a new mesh on this machine")
            if await lay_foundation(store, keys, mesh, await authority(mesh.trust_domain).bundle(), author):
                _log.info("mesh_founded", trust_domain=mesh.trust_domain, default_action=mesh.default_action)
            return
        except (StoreUnavailable, StoreDenied, AuthorityUnavailable, Conflict) as error:
            _log.warning("founding_delayed", problem=str(error))
            await asyncio.sleep(random.uniform(0.05, min(2.0, 0.1 * 2**attempt)))  # noqa: S311 - jitter
            attempt += 1


async def follow_roots(found_again: Callable[[], Awaitable[None]]) -> Never:
    """For a CA that changes its roots when it sees fit: all hosts must believe a new one before the old one goes."""
    while True:
        await asyncio.sleep(random.uniform(*_ROOTS_EVERY))  # noqa: S311 - jitter
        await found_again()


def _trust_domain(value: bytes) -> str:
    try:
        document = decode(PolicyRecord, value).document or {}
    except UnreadableRecord:
        return ""
    return Mesh.model_validate(document).trust_domain if document else ""
