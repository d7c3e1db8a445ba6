"""resolve(world, host, locals, ...) -> ProxyView: what one proxy must do.

Pure. `previous` is the view in force: pieces that did not change are the same objects again (translate skips them), and a
change that forbids something counts up the `cut` of exactly the chains whose open connections it concerns.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from meshagent.model.names import Protocol
from meshagent.model.service import Upstream
from meshagent.model.view import Endpoint, Guard, Inbound, Outbound, ProxyView
from meshagent.model.world import Local, World
from meshagent.policy.cuts import chained_sources, next_chains, next_default_cut
from meshagent.policy.precedence import guard, next_expiry


@dataclass(frozen=True, slots=True)
class Host:
    """The machine: its name and the address on which it takes mTLS."""

    name: str
    address: str


def resolve(
    world: World, host: Host, locals_: tuple[Local, ...], previous: ProxyView | None, now: datetime
) -> ProxyView:
    """The view of the proxy on `host`, which runs `locals_`, at `now`."""
    kept = _Kept(previous)
    inbounds = tuple(kept.inbound(_inbound(world, local, kept, now)) for local in locals_)
    outbounds: dict[tuple[str, str, int, str], Outbound] = {}
    for local in locals_:
        for upstream in local.definition.upstreams:
            outbound = kept.outbound(_outbound(world, host, local, upstream, locals_, kept))
            outbounds.setdefault(_outbound_key(outbound), outbound)
    expiries = (next_expiry(local.definition.name, world.intentions, now) for local in locals_)
    return ProxyView(
        host=host.name,
        address=host.address,
        trust_domain=world.mesh.trust_domain,
        inbounds=inbounds,
        outbounds=tuple(outbounds[key] for key in sorted(outbounds)),
        access_log=world.mesh.access_log,
        bundle=world.bundle,
        valid_until=min((at for at in expiries if at is not None), default=None),
    )


def protocol_of(world: World, service: str, registered: Protocol | None = None, last: Protocol = "tcp") -> Protocol:
    """How a service speaks: its document decides, then what runs here, then its first instance, then what it last was."""
    stated = world.services.get(service)
    if stated and stated.thing.protocol:
        return stated.thing.protocol
    if registered:
        return registered
    return next((instance.protocol for instance in world.instances.get(service, ())), last)


class _Kept:
    """Hands out the previous view's object where the new one is equal to it."""

    def __init__(self, previous: ProxyView | None) -> None:
        self._inbounds = {(piece.service, piece.instance): piece for piece in previous.inbounds} if previous else {}
        self._outbounds = {_outbound_key(piece): piece for piece in previous.outbounds} if previous else {}

    def before(self, service: str, instance: str) -> Inbound | None:
        return self._inbounds.get((service, instance))

    def protocol(self, source: str, upstream: Upstream) -> Protocol:
        """How the upstream spoke before: its last instance may have gone, its callers still speak as they did."""
        key = (source, upstream.service, upstream.local_port or 0, upstream.local_socket or "")
        before = self._outbounds.get(key)
        return before.protocol if before else "tcp"

    def inbound(self, new: Inbound) -> Inbound:
        old = self._inbounds.get((new.service, new.instance))
        return old if old == new and _same_origins(old.guard, new.guard) else new

    def outbound(self, new: Outbound) -> Outbound:
        old = self._outbounds.get(_outbound_key(new))
        return old if old == new else new


def _same_origins(old: Guard, new: Guard) -> bool:
    return all(a.origin == b.origin and a.reason == b.reason for a, b in zip(old.rules, new.rules, strict=True))


def _outbound_key(outbound: Outbound) -> tuple[str, str, int, str]:
    return (outbound.source, outbound.upstream, outbound.local_port, outbound.local_socket)


def _inbound(world: World, local: Local, kept: _Kept, now: datetime) -> Inbound:
    definition = local.definition
    protocol = protocol_of(world, definition.name, definition.protocol)
    rules = guard(definition.name, protocol, world.mesh, world.intentions, now)
    before = kept.before(definition.name, definition.instance_id)
    sources = chained_sources(rules)
    return Inbound(
        service=definition.name,
        instance=definition.instance_id,
        protocol=protocol,
        app_address=definition.address,
        app_port=definition.port,
        mtls_port=local.mtls_port,
        guard=rules,
        chains=next_chains(before, rules, sources),
        default_cut=next_default_cut(before, rules, sources),
        plain_port=local.plain_port,
    )


def _outbound(
    world: World, host: Host, local: Local, upstream: Upstream, locals_: tuple[Local, ...], kept: _Kept
) -> Outbound:
    here = next((other.definition.protocol for other in locals_ if other.definition.name == upstream.service), None)
    return Outbound(
        source=local.definition.name,
        upstream=upstream.service,
        protocol=protocol_of(world, upstream.service, here, kept.protocol(local.definition.name, upstream)),
        endpoints=_endpoints(world, host, upstream.service, locals_),
        local_port=upstream.local_port or 0,
        local_socket=upstream.local_socket or "",
        socket_mode=upstream.mode,
    )


def _endpoints(world: World, host: Host, service: str, locals_: tuple[Local, ...]) -> tuple[Endpoint, ...]:
    """The catalog's instances elsewhere, and what runs here as this host knows it, which is always newer."""
    elsewhere = (
        Endpoint(instance.address, instance.port, instance.health == "passing")
        for instance in world.instances.get(service, ())
        if instance.host != host.name and instance.health != "draining"
    )
    here = (
        Endpoint(host.address, local.mtls_port, local.healthy)
        for local in locals_
        if local.definition.name == service and not local.draining
    )
    return tuple(sorted({*elsewhere, *here}, key=lambda endpoint: (endpoint.address, endpoint.port)))
