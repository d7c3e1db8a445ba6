"""What this host can be asked to do, and what it says of itself. The loops are joined here; `api/` only carries it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from meshagent.agent.authorities import Authorities
from meshagent.agent.certificates import Certificates
from meshagent.agent.converge import Converger
from meshagent.agent.health import HealthChecks
from meshagent.agent.identities import Identities
from meshagent.agent.membership import Membership
from meshagent.agent.ports import until_free
from meshagent.agent.propagation import Propagation
from meshagent.agent.rollouts import Rollouts
from meshagent.agent.roster import Place, Registered, Roster, Source
from meshagent.agent.served import Served
from meshagent.agent.snapshots import Snapshots
from meshagent.agent.unlisted import Unlisted
from meshagent.agent.upstreams import Upstreams
from meshagent.agent.vetoes import ForeignIntentions
from meshagent.agent.watching import Watching
from meshagent.catalog.base import Offer
from meshagent.errors import EnvoyFailed, MeshError
from meshagent.host.responder import Responder
from meshagent.model.service import Instance, ServiceDefinition
from meshagent.model.view import ProxyView
from meshagent.model.world import Local, World
from meshagent.policy.gateways import served, shut
from meshagent.state.records import ObservedRecord, ReportRecord
from meshagent.xds.outcome import Rejected
from meshagent.xds.server import XdsServer

_log = structlog.get_logger(__name__)
_SPREAD_SECONDS = 0.5  # callers elsewhere hear of a deregistration in milliseconds; this is the margin
_ACTIVE_EVERY = 0.1
_UNLISTED_SECONDS = 5.0  # how long a first World waits for the instances of upstreams
_WARMING_SECONDS = 1.0  # what a new cluster may take until routes lead to it in any case


@dataclass(frozen=True, slots=True)
class Here:
    """Facts of this host that do not change while the agent runs. `metrics`: where others find its page; empty: nowhere."""

    name: str
    address: str
    region: str
    zone: str
    agent_version: str
    envoy_version: str
    drain: timedelta
    metrics: str = ""


@dataclass(frozen=True, slots=True)
class _Push:
    generation: int
    revision: int
    urgent: bool  # whether policy that concerns this host changed
    places: frozenset[Place]
    listed: frozenset[str]  # services whose instances were known
    bundle: str  # the trust bundle's digest
    roots: Mapping[str, str]  # what each SVID leads to


class Operations:
    """Joins roster, watching, upstreams, identities, converger, membership and snapshots."""

    left = False
    applied_bundle = ""
    _held: World | None = None  # a first World that waits for the instances of upstreams
    observed: tuple[ObservedRecord, ...] = ()  # what this host saw of calls
    sampled: datetime | None = None  # and when last it did not see them all
    rollouts: Rollouts | None = None  # whose problems are this host's too

    def __init__(
        self,
        here: Here,
        roster: Roster,
        watching: Watching,
        upstreams: Upstreams,
        identities: Identities,
        converger: Converger,
        membership: Membership,
        snapshots: Snapshots,
        xds: XdsServer,
        health: HealthChecks,
        clock: Callable[[], datetime],
        active: Callable[[Registered], Awaitable[int]],
        served: Served,
        authorities: Authorities,
        certificates: Certificates,
        foreign: ForeignIntentions | None = None,
        dns: Responder | None = None,
    ) -> None:
        self.here = here
        self.roster = roster
        self.watching = watching
        self.upstreams = upstreams
        self.identities = identities
        self.converger = converger
        self.membership = membership
        self.snapshots = snapshots
        self.xds = xds
        self.health = health
        self._clock = clock
        self._active = active
        self.served = served
        self.authorities = authorities
        self.foreign = foreign
        self.dns = dns
        self.certificates = certificates
        watching.on_upstreams = upstreams.want
        self._known_calls = Unlisted(self.roster_changed).left_out
        converger.in_force = lambda generation: xds.wait_applied(generation, _WARMING_SECONDS)
        self._waiting: list[_Push] = []
        self._policy: object = None
        self.live: frozenset[Place] = frozenset()
        self._listed: frozenset[str] = frozenset()
        self.propagation = Propagation()
        self.applied_revision = 0
        self._whole = 0  # the newest revision of which nothing waits
        self._applied_roots: Mapping[str, str] = {}
        self._moved = asyncio.Event()
        converger.on_served = self._served

    # --- what the loops tell each other

    def roster_changed(self) -> None:
        """A service came, went, or changed its health."""
        self.watching.narrow(self.roster.interest())
        self._want_identities(self.converger.world)
        self.converger.offer(locals_=self._locals(self.converger.world))
        self._offer_instances()

    def world_changed(self, world: World) -> None:
        """The store has a new World."""
        self.propagation.seen(world.revision, time.monotonic())
        self._want_identities(world)
        self.certificates.want(served(world, self.roster.interest().gateways), world)
        if self.converger.world is None and self._unlisted(world):
            if self._held is None:
                asyncio.get_running_loop().call_later(_UNLISTED_SECONDS, self._release)
            self._held = world
        else:
            self.converger.offer(world=world, locals_=self._locals(world))

    def _locals(self, world: World | None) -> tuple[Local, ...]:
        return self._known_calls(self.roster.locals(world), world)

    def _unlisted(self, world: World) -> bool:
        """Whether it is not known yet where upstreams run.

        An Envoy that serves since before this agent, whose snapshot is of no use, would forget where if it were told so.
        """
        return not self.roster.interest().upstreams <= world.instances.keys()

    def _release(self) -> None:
        if self._held is not None and self.converger.world is None:
            self.converger.offer(world=self._held, locals_=self.roster.locals(self._held))

    async def follow_outcomes(self) -> None:
        """Take in what Envoy applied and rejected, for ever."""
        async for outcome in self.xds.outcomes():
            self.propagation.rejections += isinstance(outcome, Rejected)
            self._settle()

    def _served(self, world: World, view: ProxyView, generation: int) -> None:
        policy = (world.mesh, world.intentions, world.services, world.routes, world.externals, world.rollouts)
        urgent, self._policy = policy != self._policy, policy
        places = frozenset((inbound.service, inbound.instance) for inbound in view.inbounds)
        roots = {service: svid.root_digest for service, svid in sorted(self.converger.svids.items())}
        listed, bundle = frozenset(world.instances), world.bundle.digest()
        self._whole = self._whole if world.awaits else world.revision
        self._waiting.append(_Push(generation, self._whole, urgent, places, listed, bundle, roots))
        self.snapshots.keep(world, view)
        self._settle()

    def _settle(self) -> None:
        """What is applied counts: instances whose listener is up are offered to callers, the revision is reported."""
        applied = self.xds.applied
        done = [served for served in self._waiting if served.generation <= applied]
        if done:
            self._waiting = [served for served in self._waiting if served.generation > applied]
            self.applied_revision, self._listed = done[-1].revision, done[-1].listed
            self.applied_bundle, self._applied_roots = done[-1].bundle, done[-1].roots
            self.propagation.applied(self.applied_revision, time.monotonic())
            rejected = self.rejected()
            ports = {each.place: f"in/{each.mtls_port}" for each in self.roster.registered.values()}
            self.live = frozenset(place for place in done[-1].places if ports.get(place) not in rejected)
        self._offer_instances()
        self.report(urgent=any(served.urgent for served in done))
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _want_identities(self, world: World | None) -> None:
        if world is not None:
            interest = self.roster.interest()
            self.identities.want(interest.services | interest.gateways, world.mesh.trust_domain, world.bundle)

    def _offer_instances(self) -> None:
        offered = {
            place: each for place, each in self.roster.registered.items() if place in self.live and not each.draining
        }
        self.membership.offer({place: Offer(self._instance(each), each.definition) for place, each in offered.items()})

    def _instance(self, each: Registered) -> Instance:
        return Instance(
            service=each.definition.name,
            host=self.here.name,
            id=each.definition.instance_id,
            address=self.here.address,
            port=each.mtls_port,
            protocol=each.definition.protocol,
            health="passing" if each.healthy else "failing",
            meta=each.definition.meta,
            region=self.here.region,
            zone=self.here.zone,
        )

    # --- what a person asks

    async def up(self, definition: ServiceDefinition, source: Source, wait: float) -> Registered:
        """Register a service; returns when its listeners are up and the catalog knows it, at most `wait` seconds later.

        Raises PortInUse, UsageProblem; EnvoyFailed when Envoy refuses a listener or is not there in time.
        """
        await self.watching.refuse_outside(definition.name)
        registered = self.roster.add(definition, source)
        try:
            async with asyncio.timeout(wait):
                while not self._in_service(registered):
                    self._refuse_rejected(registered)
                    await self._next_move()
                self._refuse_rejected(registered)
                await self.membership.settled()
        except TimeoutError:
            raise EnvoyFailed(
                f"{definition.name} is registered here but not in service after {wait:g} s: {self._holding_up(registered)}",
                next_step="meshagent proxy status; meshagent status",
            ) from None
        return registered

    async def down(self, service: str, instance_id: str | None) -> tuple[Registered, float]:
        """Drain and deregister: callers are told first, then what is under way may end. Returns it and the seconds taken."""
        found = self.roster.find(service, instance_id)
        started = asyncio.get_running_loop().time()
        self.roster.drain(found.place)
        await self._quiet([found])
        self.roster.remove(found.place)
        generation = self.converger.serve(self.converger.world) if self.converger.world else 0
        await self.xds.wait_applied(generation, 2.0)
        await until_free(self.roster.given_up(found))
        return found, asyncio.get_running_loop().time() - started

    async def leave(self) -> None:
        """Drain everything and leave the mesh, before this agent or its Envoy ends. Only a new agent comes back."""
        self.left = True
        everything = list(self.roster.registered.values())
        for each in everything:
            self.roster.drain(each.place)
        await self._quiet(everything)
        await self.membership.leave([self._instance(each) for each in everything])
        await self.snapshots.flush()

    async def _quiet(self, leaving: list[Registered]) -> None:
        """Wait until callers know and nothing is under way, at most the drain time."""
        if not leaving:
            return
        try:
            async with asyncio.timeout(self.here.drain.total_seconds()):
                await self._deregistered()
                await asyncio.sleep(_SPREAD_SECONDS)
                while any([await self._active(each) for each in leaving]):
                    await asyncio.sleep(_ACTIVE_EVERY)
        except TimeoutError:
            _log.warning("drain_cut_short", services=[each.definition.name for each in leaving])
        except MeshError as error:
            _log.warning("drain_unwatched", problem=str(error))

    async def _deregistered(self) -> None:
        """Wait until the store knows; one that is away is not waited for, its leases end by themselves."""
        try:
            async with asyncio.timeout(_SPREAD_SECONDS):
                await self.membership.settled()
        except TimeoutError:
            _log.warning(
                "deregistration_unconfirmed", problem=self.membership.last_error or "the store gave no answer yet"
            )

    def _in_service(self, registered: Registered) -> bool:
        """Whether Envoy takes calls to it, and leads its own calls to where the catalog says."""
        name, calls = registered.definition.name, {upstream.service for upstream in registered.definition.upstreams}
        return registered.place in self.live and name in self.identities.svids and calls <= self._listed

    async def _next_move(self) -> None:
        """Until something was applied or issued; looked at again after a moment in any case."""
        try:
            async with asyncio.timeout(0.05):
                await self._moved.wait()
        except TimeoutError:
            pass

    def _refuse_rejected(self, registered: Registered) -> None:
        names = [f"in/{registered.mtls_port}"]
        if registered.capture_port:
            names.append(f"capture/{registered.definition.name}")
        for upstream in registered.definition.upstreams:
            where = upstream.local_port or upstream.local_socket
            names.append(f"out/{registered.definition.name}/{upstream.service}:{where}")
        for name in names:
            if message := self.rejected().get(name):
                raise EnvoyFailed(f"Envoy refuses {name}: {message}", next_step="meshagent proxy status")

    def _holding_up(self, registered: Registered) -> str:
        if not self.xds.streams:
            return "Envoy is not connected"
        if problem := self.identities.problems.get(registered.definition.name):
            return f"no certificate ({problem})"
        if registered.place not in self.live:
            return "Envoy has not applied its listener"
        if unknown := {each.service for each in registered.definition.upstreams} - self._listed:
            return f"the catalog has not said who {', '.join(sorted(unknown))} is ({self.upstreams.problem or 'no answer yet'})"
        return f"the store has not taken it ({self.membership.last_error or 'no answer yet'})"

    # --- what it says of itself

    def rejected(self) -> dict[str, str]:
        """What Envoy refuses now, by resource name."""
        return {
            name: message
            for stream in self.xds.streams
            for status in stream.types.values()
            for name, message in status.rejected.items()
        }

    def problems(self) -> dict[str, str]:
        """Everything that is not as it should be, by key, service or part."""
        found = dict(self.watching.problems)
        found.update({f"svid/{service}": text for service, text in self.identities.problems.items()})
        found.update({f"served/{service}": text for service, text in self.served.problems.items()})
        found.update({f"ca/{number}": text for number, text in enumerate(self.authorities.problems, start=1)})
        found.update({f"gateway/{place}": text for place, text in self._gateway_problems()})
        if self.foreign:
            told = self.foreign.problems.items()
            found.update({f"consul/intentions/{service}": f"{text}: their last word holds" for service, text in told})
        found.update(self.rollouts.problems if self.rollouts else {})
        if self.dns and self.dns.problem:
            found["dns"] = self.dns.problem
        if self.snapshots.problem:
            found["snapshot"] = self.snapshots.problem
        if self.upstreams.problem:
            found["catalog"] = self.upstreams.problem
        if self.membership.last_error:
            found["registration"] = self.membership.last_error
        return found

    def _gateway_problems(self) -> Iterator[tuple[str, str]]:
        yield from self.certificates.problems
        world, names = self.converger.world, self.roster.interest().gateways
        gateways = served(world, names) if world else ()
        for name in sorted(names - {gateway.name for gateway in gateways}):
            yield name, "this host is to serve it, and no document says what it takes"
        for name, port, owner in shut(gateways, self.converger.locals):
            yield f"{name}:{port}", f"the port is {owner} here, so it is not opened for the gateway"

    def report(self, *, urgent: bool) -> None:
        """Offer the host's report to the store, when something in it changed."""
        interest, world = self.roster.interest(), self.converger.world
        led = {name for each in (served(world, interest.gateways) if world else ()) for name in each.services}
        report = ReportRecord(
            host=self.here.name,
            revision=self.applied_revision,
            services=sorted({name for name, _ in self.live}),
            upstreams=sorted(interest.upstreams | led),
            gateways=sorted(interest.gateways),
            agent_version=self.here.agent_version,
            envoy_version=self.here.envoy_version,
            rejected=self.rejected(),
            problems=sorted(f"{key}: {text}" for key, text in self.problems().items()),
            svids={service: svid.expires_at for service, svid in sorted(self.identities.svids.items())},
            roots=self._roots(),
            bundle=self.applied_bundle,
            metrics=self.here.metrics,
            observed=list(self.observed),
            sampled=self.sampled,
            at=self._clock(),
        )
        self.membership.report(report, urgent=urgent)

    def _roots(self) -> dict[str, str]:
        """What the certificate that Envoy has leads to, of services that have one; what is gone from here is left out."""
        held = {service: root for service, root in self._applied_roots.items() if service in self.identities.svids}
        return held | self.authorities.own_roots
