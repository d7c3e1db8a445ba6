"""The composition root: the only file that knows every concrete class. One task group; when it ends, so does the agent."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Never

import structlog

from meshagent import __version__
from meshagent.agent.answers import SharedAnswers
from meshagent.agent.authorities import Authorities
from meshagent.agent.certificates import Certificates
from meshagent.agent.converge import Converger
from meshagent.agent.definitions import Definitions
from meshagent.agent.founding import follow_roots, found
from meshagent.agent.health import HealthChecks
from meshagent.agent.identities import Identities
from meshagent.agent.lastgood import with_cuts
from meshagent.agent.liveness import Liveness
from meshagent.agent.membership import Membership
from meshagent.agent.observations import Observations
from meshagent.agent.operations import Here, Operations
from meshagent.agent.pace import chance_of, start_pause
from meshagent.agent.ports import has_ipv6, require_free
from meshagent.agent.renewal import renew_outdated
from meshagent.agent.rollouts import Rollouts
from meshagent.agent.roster import Registered, Roster
from meshagent.agent.served import Served
from meshagent.agent.snapshots import Snapshots, last_good
from meshagent.agent.upstreams import Upstreams
from meshagent.agent.vetoes import ForeignIntentions
from meshagent.agent.watching import Watching
from meshagent.api.listen import serving
from meshagent.api.traffic import read_traffic
from meshagent.ca import open_authority
from meshagent.ca.base import Authority
from meshagent.config import AgentConfig, misspelt_variables
from meshagent.envoy.bootstrap import BootstrapSettings
from meshagent.envoy.logs import tell_log, tell_requests
from meshagent.envoy.process import EnvoyEvent, EnvoyProcess
from meshagent.envoy.sinks import keep_sinks
from meshagent.envoy.unit import EnvoyUnit
from meshagent.errors import DataDirInUse
from meshagent.host.notify import Notifier
from meshagent.host.responder import Responder
from meshagent.host.roots import system_roots
from meshagent.host.watchdog import feed, feed_every
from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.world import World
from meshagent.policy.resolve import Host, resolve
from meshagent.private import locked, private_dir
from meshagent.state.keys import Keys
from meshagent.state.operator_keys import load_signing
from meshagent.state.reach import TTL, access_of, ca_settings, catalog_at, consul_intentions, open_configured
from meshagent.store.base import Store
from meshagent.store.lazy import LazyStore
from meshagent.telemetry.log import set_up_log
from meshagent.translate.settings import Settings
from meshagent.xds.cache import Cache
from meshagent.xds.server import XdsServer

_log = structlog.get_logger("meshagent")
_RETRY_REJECTED_SECONDS = 5.0
_SHORTEST_DRAIN_SECONDS = 0.1
_STOP_SECONDS = 10.0  # for what comes after the drain


async def run(config: AgentConfig) -> int:
    """Run the agent until SIGTERM or SIGINT, then drain. Returns the exit code. Raises MeshError when it cannot start."""
    set_up_log(config.log_level)
    for words in misspelt_variables(os.environ):
        _log.warning("setting_unknown", problem=words)
    try:
        with locked(private_dir(config.data_dir) / "agent.lock", wait_seconds=0):
            await Daemon(config).serve()
    except DataDirInUse:
        raise DataDirInUse(
            f"another agent runs on {config.data_dir}", next_step="stop it, or give this one its own --data-dir"
        ) from None
    return 0


class Daemon:
    """Everything that one agent consists of."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        data, runtime = config.data_dir, private_dir(config.runtime_dir)
        self._xds_socket = runtime / "xds.sock"
        self._last_good, self._cuts = last_good(data / "snapshot.json")
        _check_ca(config)
        self._authority = Authorities(self._open_authority)
        self._store_pause = _store_pause(config) if self._last_good else 0.0
        self.store = LazyStore(self._open_store)
        self._trust = load_signing(config).trust
        self.keys = Keys(signed=bool(self._trust))
        told = consul_intentions(config)  # where Consul says who is who, its own proxies and intentions count too
        self.catalog = catalog_at(config.store, access_of(config), self.store, self.keys, native=told is not None)
        self._foreign = ForeignIntentions(told, data / "consul-intentions.json", self._relay) if told else None
        cache_ = Cache()
        self.xds = XdsServer(cache_)
        settings = BootstrapSettings(
            config.host.name, self._xds_socket, runtime / "admin.sock", config.envoy.max_connections
        )
        self._stop = asyncio.Event()
        self._notifier = Notifier.of(os.environ)
        self.envoy = self._supervised(settings)
        self._host = Host(**config.host.model_dump(), gateways=config.gateways)
        used = Settings(str(data / "access.log"), config.ca.ttl, has_ipv6(), system_roots(), config.envoy.concurrency)
        self.converger = Converger(self._host, used, cache_, _now)
        self.roster = Roster(
            data / "services.json",
            config.host.bind,
            config.inbound_port,
            self._roster_changed,
            apart=told is not None,
            capture_port=config.capture.port,
            gateways=config.gateways,
        )
        self.health = HealthChecks(self.roster.set_health)
        watching = Watching(
            self.store, self.keys, self._last_good, self._world_changed, _now, self._trust, config.host.address
        )
        self.operations = self._joined(watching)
        self._observations = Observations(data, _now, self._edges, self.operations, self.envoy.admin)

    def _supervised(self, settings: BootstrapSettings) -> EnvoyProcess:
        told = self._config.envoy
        run_by = EnvoyUnit if told.own_unit else EnvoyProcess
        return run_by(
            self._config.data_dir,
            settings,
            path=told.path,
            concurrency=told.concurrency,
            drain=told.drain,
            on_event=self._envoy_changed,
        )

    def _joined(self, watching: Watching) -> Operations:
        config, data = self._config, self._config.data_dir
        membership = Membership(self.store, self.keys, self.catalog, TTL)
        self.rollouts = Rollouts(
            self.store,
            self.keys,
            config.host.name,
            self._last_good.progress if self._last_good else {},
            self.roster,
            lambda: membership.lease,
            self.envoy.admin,
            self._relay,
            _now,
        )
        shared = SharedAnswers(self.store, self.keys, config.host.name, lambda: membership.lease, _now)
        operations = Operations(
            here=self._here(""),
            roster=self.roster,
            watching=watching,
            upstreams=Upstreams(self.catalog, watching, TTL),
            identities=Identities(
                self._authority, private_dir(data / "identities"), config.ca.ttl, _now, self._identities_changed
            ),
            converger=self.converger,
            membership=membership,
            snapshots=Snapshots(data / "snapshot.json"),
            xds=self.xds,
            health=self.health,
            clock=_now,
            active=self._active,
            served=Served(self.envoy.admin.certs),
            authorities=self._authority,
            certificates=Certificates(data / "acme", system_roots(), _now, self.converger, self.xds, shared),
            foreign=self._foreign,
            dns=Responder.of(config.dns_address, config.dns_zone, lambda: self.roster.interest().upstreams),
        )
        operations.rollouts = self.rollouts
        self._definitions = Definitions(config.services_dir, self.roster, operations.down)
        return operations

    async def serve(self) -> None:
        """Start everything in the order in which it depends on each other, run until told to stop, and drain."""
        if not self.envoy.running_here:
            require_free(self._host.listens_on, self._config.inbound_port, "the mesh's mTLS port (inbound_port)")
        await self.envoy.start()
        self.operations.here = self._here(str(self.envoy.version))
        await self.xds.start(self._xds_socket)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        async with asyncio.TaskGroup() as group:
            outcomes = group.create_task(self.operations.follow_outcomes())
            self._restore()
            tasks = [outcomes, *(group.create_task(loop) for loop in self._loops())]
            await self._stop.wait()
            await self._leave()
            for task in tasks:
                task.cancel()
        await self.xds.stop(0.1)
        await self._authority.close()
        if self._foreign:
            await self._foreign.close()
        await self.catalog.close()
        await self.store.close()
        _log.info("agent_stopped")

    async def _leave(self) -> None:
        """Leave with Envoy, after a drain; or hand Envoy and this host's place in the mesh to the next agent.

        With Envoy in a unit of its own, it is the stop of that unit which leaves (`meshagent systemd drain`).
        """
        drain = self._config.envoy.drain.total_seconds()
        _log.info("agent_stopping")
        self._notifier.stopping(drain + _STOP_SECONDS)
        if self._config.envoy.own_unit:
            await self.operations.snapshots.flush()
            return
        ends = asyncio.get_running_loop().time() + drain
        await self.operations.leave()
        left = ends - asyncio.get_running_loop().time()
        await self.envoy.stop(timedelta(seconds=max(left, _SHORTEST_DRAIN_SECONDS)))

    def _loops(self) -> list[Coroutine[Any, Any, Any]]:
        operations, data = self.operations, self._config.data_dir
        return [
            self.envoy.run(),
            renew_outdated(self.envoy, lambda: operations.applied_revision),
            self.envoy.tap.run(),
            self.converger.run(),
            operations.watching.run(),
            operations.watching.run_health(),
            operations.upstreams.run(),
            operations.identities.run(),
            operations.served.run(),
            operations.certificates.run(),
            self._authority.run(),
            self._authority.run_checks(),
            operations.membership.run(),
            operations.snapshots.run(),
            self.rollouts.run(),
            self.health.run(),
            self._found(),
            self._retry_rejected(),
            self._definitions.run(),
            *([operations.dns.run()] if operations.dns else []),
            *([self._foreign.run(), follow_roots(self._found)] if self._foreign else []),
            self._serve_api(),
            self._feed_watchdog(),
            tell_log(data / "envoy.log", self.envoy.admin),
            tell_requests(data / "access.log", self.envoy.admin, self._observations.take),
            keep_sinks(data, self.envoy.admin),
            self._observations.run(),
        ]

    # --- what the parts tell each other

    def _world_changed(self, world: World) -> None:
        self._authority.world_changed(world)
        self.rollouts.look(world)
        self.operations.world_changed(self._laid_over(world))

    def _laid_over(self, world: World) -> World:
        """The world with what others than operators say: another mesh's intentions, and where rollouts stand."""
        vetoes = self._foreign.now if self._foreign else world.vetoes
        return replace(world, vetoes=vetoes, progress=self.rollouts.now)

    def _relay(self) -> None:
        if self.rollouts.world:
            self.operations.world_changed(self._laid_over(self.rollouts.world))

    def _identities_changed(self, svids: Any) -> None:
        self.converger.offer(svids=svids)
        self.operations.served.issued(svids)

    def _roster_changed(self) -> None:
        self.health.follow({place: each.definition.checks for place, each in self.roster.registered.items()})
        if self._foreign:
            self._foreign.want(self.roster.interest().services)
        self.rollouts.look()
        self.operations.roster_changed()

    def _envoy_changed(self, event: EnvoyEvent) -> None:
        taken_over = event.kind == "adopted" and self._config.envoy.own_unit
        if taken_over or event.kind == "renewed":
            self.operations.here = self._here(str(self.envoy.version))
        if taken_over and self.operations.left:  # its unit was restarted, after a drain: a new agent brings us back
            self._stop.set()

    async def _active(self, each: Registered) -> int:
        """Requests, and for TCP connections, that are under way to one service instance."""
        service, instance = each.place
        more = "" if instance == service else rf"\.{instance}"
        requests = rf"http\.in\.{service}{more}(/[^.]+)?\.downstream_rq_active"
        connections = rf"cluster\.app/{service}/{instance}\.upstream_cx_active"
        wanted = requests if each.definition.protocol in HTTP_PROTOCOLS else connections
        return sum((await self.envoy.admin.stats(f"^{wanted}$")).values())

    # --- starting

    def _restore(self) -> None:
        """Take up what an earlier agent knew: its services, and with its last World serve at once, store or no store."""
        self.roster.load()
        self._observations.load()
        self._definitions.load()
        if not self._last_good:
            return
        locals_ = self.roster.locals(self._last_good)
        view = resolve(self._laid_over(self._last_good), self._host, locals_, None, _now())
        self.converger.remember(with_cuts(view, self._cuts))
        self._world_changed(self._last_good)
        _log.info("snapshot_restored", revision=self._last_good.revision)

    async def _edges(self) -> list[dict[str, Any]]:
        """Who called whom from here, as Envoy counted it."""
        found: list[dict[str, Any]] = (await read_traffic(self.operations, self.envoy))["edges"]
        return found

    def _reload(self) -> None:
        self._notifier.reloading(time.monotonic())
        self._definitions.load()
        self._notifier.ready(self._standing())

    def _standing(self) -> str:
        return f"agent of {self._host.name}, {len(self.roster.registered)} services"

    async def _open_store(self) -> Store:
        pause, self._store_pause = self._store_pause, 0.0
        if pause:
            _log.info("store_put_off", seconds=round(pause, 1))
            await asyncio.sleep(pause)
        return await open_configured(self._config)

    async def _found(self) -> None:
        if self._trust:  # what an agent puts there itself it would not believe: `meshagent init` signs a new mesh
            return
        if self._config.ca.provider == "authority":  # the authorities look after the mesh's roots, `init` made the mesh
            return
        own = self._config.store.startswith("sqlite:")
        await found(self.store, self.keys, self._authority, own_store=own, last_good=self._last_good, clock=_now)

    def _open_authority(self, trust_domain: str) -> Authority:
        ca = self._config.ca
        return open_authority(
            ca.provider,
            ca_settings(self._config),
            trust_domain=trust_domain,
            data_dir=self._config.data_dir,
            clock=_now,
        )

    async def _retry_rejected(self) -> Never:
        """A port that was taken may be free by now; and what went wrong without a push is reported."""
        while True:
            await asyncio.sleep(_RETRY_REJECTED_SECONDS)
            self.operations.report(urgent=False)
            if self.operations.rejected():
                self.xds.retry_rejected()

    async def _serve_api(self) -> None:
        config = self._config
        facts = {"data_dir": str(config.data_dir), "store": config.store}
        api, metrics = config.api_socket, config.metrics_address
        async with serving(self.operations, self.envoy, facts, api, metrics, config.metrics_edges):
            if self._trust:
                _log.info("signatures_required", keys=sorted(self._trust.keys))
            _log.info("agent_started", host=self._host.name, api=str(self._config.api_socket))
            self._notifier.ready(self._standing())
            await asyncio.Event().wait()

    async def _feed_watchdog(self) -> None:
        if every := feed_every(os.environ, os.getpid()):
            await feed(self._notifier, every, Liveness(self.store, self.envoy, self.xds).look)

    def _here(self, envoy_version: str) -> Here:
        host, drain, metrics = self._config.host, self._config.envoy.drain, self._config.metrics_elsewhere
        return Here(host.name, host.address, host.region, host.zone, __version__, envoy_version, drain, metrics)


def _store_pause(config: AgentConfig) -> float:
    """Seconds to leave a shared store alone at first: hosts that boot together do not ask it together."""
    if config.store.startswith("sqlite:"):
        return 0.0
    return start_pause(time.clock_gettime(time.CLOCK_BOOTTIME), chance_of(config.host.name))


def _check_ca(config: AgentConfig) -> None:
    """Raises UsageProblem where an agent could not tell its authority from an impostor: it does not start."""
    if config.ca.provider == "authority":
        from meshagent.ca.authority import check_settings

        check_settings(config.ca.provider_settings, config.data_dir)


def _now() -> datetime:
    return datetime.now(UTC)
