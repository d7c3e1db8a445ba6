"""resolve(world, host, locals, ...) -> ProxyView: what one proxy must do.

Pure. `previous` is the view in force: pieces that did not change are the same objects again (translate skips them), and a
change that forbids something counts up the `cut` of exactly the chains whose open connections it concerns.

`resolve_next` gives the same view at the price of what differs: it knows what the view in force was resolved from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from meshagent.model.names import ANY, HTTP_PROTOCOLS, UNSPECIFIED, Protocol
from meshagent.model.service import Instance, Upstream
from meshagent.model.traffic import ALL_ADMITTED, Admission
from meshagent.model.view import Captured, Endpoint, Guard, Inbound, Outbound, ProxyView
from meshagent.model.world import Local, World
from meshagent.policy.carriage import carried, data_path
from meshagent.policy.cuts import chained_sources, next_chains, next_default_cut
from meshagent.policy.defaults import sampling_of, traffic_of, with_tracing
from meshagent.policy.egress import Egresses, called_outside, egresses_of
from meshagent.policy.failover import backups_of, with_failover
from meshagent.policy.gateways import Gateways, led_to, opened, served
from meshagent.policy.precedence import guard, next_expiry
from meshagent.policy.rollouts import rolled
from meshagent.policy.tiers import Tiers, placed, tiers_of
from meshagent.policy.vetoes import vetoed
from meshagent.policy.ways import with_ways


@dataclass(frozen=True, slots=True)
class Host:
    """The machine: its name, where others reach it, where it stands, and where it listens for them ("": at its address)."""

    name: str
    address: str
    region: str = ""
    zone: str = ""
    bind: str = ""
    gateways: tuple[str, ...] = ()

    @property
    def listens_on(self) -> str:
        """The address of its listeners."""
        return self.bind or self.address

    @property
    def near(self) -> str:
        """Where its own proxy reaches them: what others call may be another machine's address."""
        return UNSPECIFIED.get(self.listens_on, self.listens_on)


def resolve(
    world: World, host: Host, locals_: tuple[Local, ...], previous: ProxyView | None, now: datetime
) -> ProxyView:
    """The view of the proxy on `host`, which runs `locals_`, at `now`."""
    kept = _Kept(previous)
    inbounds = tuple(kept.inbound(_inbound(world, local, kept, now)) for local in locals_)
    outbounds: dict[tuple[str, str, int, str], Outbound] = {}
    for local in locals_:
        for upstream in local.definition.upstreams:
            if upstream.service in world.externals:
                continue
            outbound = kept.outbound(_outbound(world, host, local.definition.name, upstream, locals_, kept))
            outbounds.setdefault(_outbound_key(outbound), outbound)
    gateways = opened(served(world, host.gateways), locals_)
    for gateway in gateways:
        for upstream in led_to(gateway, world):
            outbound = kept.outbound(_outbound(world, host, gateway.name, upstream, locals_, kept))
            outbounds.setdefault(_outbound_key(outbound), outbound)
    in_order = tuple(outbounds[key] for key in sorted(outbounds))
    egresses = egresses_of(world, locals_, previous, now)
    until = _valid_until(world, locals_, now)
    return _view(world, host, inbounds, in_order, until, captured(locals_), egresses, gateways)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A view, and all that it was resolved from."""

    view: ProxyView
    world: World
    host: Host
    locals_: tuple[Local, ...]
    at: datetime


def resolve_next(
    world: World, host: Host, locals_: tuple[Local, ...], previous: Resolved | ProxyView | None, now: datetime
) -> Resolved:
    """What `resolve` gives. Where the previous inputs are known, only what differs from them (by identity) is looked at."""
    held = previous if isinstance(previous, Resolved) else None
    same_place = held is not None and (held.host, held.locals_) == (host, locals_)
    same_kinds = held is not None and world.externals.keys() == held.world.externals.keys()
    if held and same_place and same_kinds and served(world, host.gateways) == served(held.world, host.gateways):
        view = _renewed(world, held, now)
    else:
        view = resolve(world, host, locals_, previous.view if isinstance(previous, Resolved) else previous, now)
    return Resolved(view, world, host, locals_, now)


def protocol_of(world: World, service: str, registered: Protocol | None = None, last: Protocol = "tcp") -> Protocol:
    """How a service speaks: its document decides, then what runs here, then its first instance, then what it last was."""
    return known_protocol(world, service, registered) or last


def judged_protocol(world: World, destination: str) -> Protocol:
    """How callers speak to a destination: a name outside the mesh as its document says, whoever registered under it."""
    stated = world.externals.get(destination)
    return stated.thing.protocol if stated else protocol_of(world, destination)


def known_protocol(world: World, service: str, registered: Protocol | None = None) -> Protocol | None:
    """As `protocol_of`; None when nothing says it."""
    stated = world.services.get(service)
    if stated and stated.thing.protocol:
        return stated.thing.protocol
    if registered:
        return registered
    return next((each.protocol for each in world.instances.get(service, ()) if not each.plain), None)


def outbound_of(world: World, source: str, upstream: str, region: str = "", zone: str = "") -> Outbound:
    """How a caller on some host in a region and zone reaches an upstream, whether it has declared it or not."""
    declared = Outbound(source, upstream, judged_protocol(world, upstream), ())
    if upstream in world.externals:
        return declared
    return _reached(world, Host("", "", region, zone), declared, ())


def _renewed(world: World, last: Resolved, now: datetime) -> ProxyView:
    """The next view of the same services on the same host."""
    view, locals_, kept = last.view, last.locals_, _Kept(last.view)
    moved = _differing(last.world.services, world.services) | _differing(last.world.instances, world.instances)
    judged = moved | _differing(last.world.intentions, world.intentions)
    lasting = last.at <= now and (view.valid_until is None or now < view.valid_until)
    quiet = lasting and world.mesh is last.world.mesh and world.vetoes is last.world.vetoes and ANY not in judged
    inbounds = tuple(
        piece if quiet and piece.service not in judged else kept.inbound(_inbound(world, local, kept, now))
        for piece, local in zip(view.inbounds, locals_, strict=True)
    )
    outbounds = view.outbounds
    called = moved | _differing(last.world.routes, world.routes) | _moved_on(last.world, world)
    every = world.mesh != last.world.mesh  # whose defaults are everybody's
    if every or any(_leads_to(piece, world, called) for piece in outbounds):
        outbounds = tuple(
            _reached(world, last.host, piece, locals_) if every or _leads_to(piece, world, called) else piece
            for piece in outbounds
        )
    destinations = {local.definition.name for local in locals_} | called_outside(world, locals_)
    until = view.valid_until if quiet and destinations.isdisjoint(judged) else _valid_until(world, locals_, now)
    egresses = egresses_of(world, locals_, view, now)
    return _view(world, last.host, inbounds, outbounds, until, view.captured, egresses, view.gateways)


def _view(
    world: World,
    host: Host,
    inbounds: tuple[Inbound, ...],
    outbounds: tuple[Outbound, ...],
    valid_until: datetime | None,
    captured_: tuple[Captured, ...],
    egresses: Egresses,
    gateways: Gateways,
) -> ProxyView:
    view = ProxyView(
        host=host.name,
        address=host.listens_on,
        trust_domain=world.mesh.trust_domain,
        inbounds=inbounds,
        outbounds=outbounds,
        access_log=world.mesh.access_log,
        bundle=world.bundle,
        valid_until=valid_until,
        captured=captured_,
        egresses=egresses,
        gateways=gateways,
    )
    return with_tracing(view, world.mesh.tracing)


def captured(locals_: tuple[Local, ...]) -> tuple[Captured, ...]:
    """The captured services here that call somebody, one each however many instances of it run."""
    calling = (local for local in locals_ if local.capture_port and local.definition.upstreams)
    ports = {local.definition.name: local.capture_port for local in calling}
    return tuple(Captured(source, port) for source, port in sorted(ports.items()))


def _valid_until(world: World, locals_: tuple[Local, ...], now: datetime) -> datetime | None:
    destinations = {local.definition.name for local in locals_} | called_outside(world, locals_)
    expiries = (next_expiry(name, world.intentions, now) for name in destinations)
    return min((at for at in expiries if at is not None), default=None)


def _differing(old: Mapping[str, object], new: Mapping[str, object]) -> set[str]:
    """The names under which another object stands now."""
    if old is new:
        return set()
    return {name for name in old.keys() | new.keys() if old.get(name) is not new.get(name)}


def _moved_on(old: World, new: World) -> set[str]:
    """The services whose rollout came, went, or stands elsewhere now."""
    return _differing(old.rollouts, new.rollouts) | _differing(old.progress, new.progress)


class _Kept:
    """Hands out the previous view's object where the new one is equal to it."""

    def __init__(self, previous: ProxyView | None) -> None:
        self._inbounds = {(piece.service, piece.instance): piece for piece in previous.inbounds} if previous else {}
        self._previous = previous

    @cached_property
    def _outbounds(self) -> dict[tuple[str, str, int, str], Outbound]:
        return {_outbound_key(piece): piece for piece in self._previous.outbounds} if self._previous else {}

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
    """Of equal guards."""
    same = all(a.origin == b.origin and a.reason == b.reason for a, b in zip(old.rules, new.rules, strict=True))
    return same and (old.shadow is None or new.shadow is None or _same_origins(old.shadow, new.shadow))


def _outbound_key(outbound: Outbound) -> tuple[str, str, int, str]:
    return (outbound.source, outbound.upstream, outbound.local_port, outbound.local_socket)


def _inbound(world: World, local: Local, kept: _Kept, now: datetime) -> Inbound:
    definition = local.definition
    protocol = protocol_of(world, definition.name, definition.protocol)
    ours = guard(definition.name, protocol, world.mesh, world.intentions, now)
    rules = vetoed(ours, world.vetoes.of(definition.name))
    before = kept.before(definition.name, definition.instance_id)
    sources = chained_sources(rules)
    stated = world.services.get(definition.name)
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
        admission=_admission(world, definition.name) if protocol in HTTP_PROTOCOLS else ALL_ADMITTED,
        access_log=stated.thing.access_log if stated else None,
        sampling=sampling_of(world.mesh, stated.thing if stated else None, protocol),
        data_path=data_path(world.services.get(definition.name), protocol),
    )


def _outbound(
    world: World, host: Host, source: str, upstream: Upstream, locals_: tuple[Local, ...], kept: _Kept
) -> Outbound:
    declared = Outbound(
        source=source,
        upstream=upstream.service,
        protocol=kept.protocol(source, upstream),
        endpoints=(),
        local_port=upstream.local_port or 0,
        local_socket=upstream.local_socket or "",
        socket_mode=upstream.mode,
    )
    return _reached(world, host, declared, locals_)


def _leads_to(outbound: Outbound, world: World, moved: set[str]) -> bool:
    """Whether what moved has to do with an outbound: its upstream, what the route of that names, or their failovers."""
    route = world.routes.get(outbound.upstream)
    named = {outbound.upstream, *route.thing.services} if route else {outbound.upstream}
    return not (moved.isdisjoint(named) and moved.isdisjoint(backups_of(world.services, named)))


def _reached(world: World, host: Host, outbound: Outbound, locals_: tuple[Local, ...]) -> Outbound:
    """The outbound as its upstream speaks and is reached now: it itself where that is as before."""
    found = _found(world, host, outbound, locals_)

    def other(service: str) -> Outbound | None:
        """Another service, for the same caller. It has no port of its own here."""
        known = known_protocol(world, service, _spoken_here(service, locals_))
        place = Outbound(outbound.source, service, known, (), local_address="") if known else None
        return _found(world, host, place, locals_) if place else None

    def serves(service: str, subset: str) -> bool:
        place = found if service == found.upstream else other(service)
        return place is not None and place.serves(subset)

    ways = with_ways(found, rolled(world, outbound.upstream, serves), host.region, other)
    new = carried(with_failover(ways, world.services, other))
    if new.data_path and outbound.source in host.gateways:
        new = replace(new, data_path="")  # host and path decide there, so requests are what it sees
    return outbound if new == outbound else new


def _found(world: World, host: Host, outbound: Outbound, locals_: tuple[Local, ...]) -> Outbound:
    """The outbound with how its upstream speaks and its instances."""
    service = outbound.upstream
    stated = world.services.get(service)
    tiers = tiers_of(stated.thing.failover, host.region, host.zone) if stated else ()
    protocol = protocol_of(world, service, _spoken_here(service, locals_), outbound.protocol)
    return replace(
        outbound,
        protocol=protocol,
        endpoints=_endpoints(world, host, service, locals_, tiers),
        plain_endpoints=_plain_endpoints(world, service, tiers),
        traffic=traffic_of(world.mesh, stated.thing if stated else None),
        divided=bool(stated and stated.thing.subsets),
        tiers=tiers,
        failover=(),
        data_path=data_path(stated, protocol),
    )


def _spoken_here(service: str, locals_: tuple[Local, ...]) -> Protocol | None:
    return next((other.definition.protocol for other in locals_ if other.definition.name == service), None)


def _admission(world: World, service: str) -> Admission:
    stated = world.services.get(service)
    return stated.thing.admission if stated else ALL_ADMITTED


def _endpoints(
    world: World, host: Host, service: str, locals_: tuple[Local, ...], tiers: Tiers
) -> tuple[Endpoint, ...]:
    """The catalog's instances elsewhere, and what runs here as this host knows it, which is always newer."""
    elsewhere = (
        _endpoint(world, instance, tiers)
        for instance in world.instances.get(service, ())
        if instance.host != host.name and instance.health != "draining" and not instance.plain
    )
    here = (
        placed(_here(world, host, local), tiers, host.region, host.zone)
        for local in locals_
        if local.definition.name == service and not local.draining
    )
    return tuple(sorted({*elsewhere, *here}, key=lambda endpoint: (endpoint.address, endpoint.port)))


def _here(world: World, host: Host, local: Local) -> Endpoint:
    definition = local.definition
    return Endpoint(host.near, local.mtls_port, local.healthy, _subsets(world, definition.name, definition.meta))


def _plain_endpoints(world: World, service: str, tiers: Tiers) -> tuple[Endpoint, ...]:
    """The instances that somebody registered without meshagent: of a permissive service, or behind Consul's proxies."""
    permissive = world.permissive(service)
    native = bool(world.bundle.domains(world.mesh.trust_domain).consul.forms)
    found = (
        each for each in world.instances.get(service, ()) if each.plain and (native if each.native else permissive)
    )
    told = {_endpoint(world, each, tiers) for each in found}
    return tuple(sorted(told, key=lambda endpoint: (endpoint.address, endpoint.port)))


def _endpoint(world: World, each: Instance, tiers: Tiers) -> Endpoint:
    subsets = _subsets(world, each.service, each.meta)
    found = Endpoint(each.address, each.port, each.health == "passing", subsets, "consul" if each.native else "")
    return placed(found, tiers, each.region, each.zone)


def _subsets(world: World, service: str, meta: Mapping[str, str]) -> tuple[str, ...]:
    stated = world.services.get(service)
    return stated.thing.subsets_of(meta) if stated and stated.thing.subsets else ()
