"""When another Envoy takes over from one that an earlier agent started otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from meshagent.envoy.process import EnvoyProcess

_LOOK_SECONDS = 0.1


async def renew_outdated(envoy: EnvoyProcess, applied_revision: Callable[[], int]) -> None:
    """An outdated Envoy serves until it has applied what this agent knows: then there is something to tell the next one.

    An Envoy that were started before would have nothing to serve, and the one before would be gone.
    """
    while envoy.outdated and not applied_revision():
        await asyncio.sleep(_LOOK_SECONDS)
    envoy.renew()
