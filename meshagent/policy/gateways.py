"""Which gateways a host serves, which of their ports it opens, and whom they call. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from meshagent.model.gateway import Gateway
from meshagent.model.service import Upstream
from meshagent.model.world import Local, World

Gateways = tuple[Gateway, ...]


def served(world: World, names: Collection[str]) -> Gateways:
    """Those of the names of which there is a document, in a stable order."""
    return tuple(world.gateways[name].thing for name in sorted(set(names)) if name in world.gateways)


def led_to(gateway: Gateway, world: World) -> tuple[Upstream, ...]:
    """The services that it calls, as upstreams without a port. A name outside the mesh is not led to."""
    return tuple(Upstream(service=name) for name in sorted(gateway.services) if name not in world.externals)


def opened(gateways: Gateways, locals_: Iterable[Local]) -> Gateways:
    """The same without the listeners on ports that are the host's own, or another gateway's before it.

    What the host has must not depend on who is first after a restart of Envoy: a document in the store cannot take the
    mesh's own port from it.
    """
    shut_ = {(name, port) for name, port, _ in shut(gateways, locals_)}
    return tuple(
        gateway.model_copy(
            update={"listeners": tuple(each for each in gateway.listeners if (gateway.name, each.port) not in shut_)}
        )
        if any(name == gateway.name for name, _ in shut_)
        else gateway
        for gateway in gateways
    )


def shut(gateways: Gateways, locals_: Iterable[Local]) -> Iterator[tuple[str, int, str]]:
    """(gateway, port, whose it is) of each listener that is not opened."""
    taken = dict(_own_ports(locals_))
    for gateway in gateways:
        for listener in gateway.listeners:
            if owner := taken.get(listener.port):
                yield gateway.name, listener.port, owner
            else:
                taken[listener.port] = f"the gateway {gateway.name}'s"


def _own_ports(locals_: Iterable[Local]) -> Iterator[tuple[int, str]]:
    for local in locals_:
        name = local.definition.name
        yield local.definition.port, f"the service {name}'s"
        for port in (local.plain_port, local.capture_port):
            yield port, f"the service {name}'s"
        for upstream in local.definition.upstreams:
            yield upstream.local_port or 0, f"the service {name}'s, for its upstream {upstream.service}"
        yield local.mtls_port, "the mesh's mTLS port"
