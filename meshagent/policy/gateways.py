"""Which gateways a host serves, and whom they call. Pure."""

from __future__ import annotations

from collections.abc import Collection

from meshagent.model.gateway import Gateway
from meshagent.model.service import Upstream
from meshagent.model.world import World

Gateways = tuple[Gateway, ...]


def served(world: World, names: Collection[str]) -> Gateways:
    """Those of the names of which there is a document, in a stable order."""
    return tuple(world.gateways[name].thing for name in sorted(set(names)) if name in world.gateways)


def led_to(gateway: Gateway, world: World) -> tuple[Upstream, ...]:
    """The services that it calls, as upstreams without a port. A name outside the mesh is not led to."""
    return tuple(Upstream(service=name) for name in sorted(gateway.services) if name not in world.externals)
