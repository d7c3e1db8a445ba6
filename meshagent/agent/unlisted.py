"""Upstreams whose instances nobody has listed yet: how they are spoken to is not known either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from meshagent.model.world import Local, World

_PATIENCE_SECONDS = 5.0


class Unlisted:
    """Leaves such upstreams out for a while. Else each would get a listener for bytes, to be replaced a moment later.

    `changed` is called when the patience with some of them has ended: then they are served as what is known of them.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._awaited: frozenset[str] = frozenset()
        self._overdue: frozenset[str] = frozenset()

    def left_out(self, locals_: tuple[Local, ...], world: World | None) -> tuple[Local, ...]:
        """The services with those upstreams that can be served in this world."""
        if world is None:
            return locals_
        called = {upstream.service for each in locals_ for upstream in each.definition.upstreams}
        unlisted = frozenset(called - world.instances.keys())
        self._overdue &= unlisted
        self._await(unlisted - self._overdue)
        return tuple(_without(each, self._awaited) for each in locals_)

    def _await(self, services: frozenset[str]) -> None:
        if new := services - self._awaited:
            asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._give_up, new)
        self._awaited = services

    def _give_up(self, services: frozenset[str]) -> None:
        if late := services & self._awaited:
            self._overdue |= late
            self._awaited -= late
            self._changed()


def _without(local: Local, services: frozenset[str]) -> Local:
    upstreams = tuple(each for each in local.definition.upstreams if each.service not in services)
    if len(upstreams) == len(local.definition.upstreams):
        return local
    return replace(local, definition=local.definition.model_copy(update={"upstreams": upstreams}))
