"""The services that run on this host: definitions, ports, health. Kept on disk, so that a restarted agent has them at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog

from meshagent.agent.ports import is_free, require_free
from meshagent.errors import DataDirUnusable, MeshError, NotFound, PortInUse, UsageProblem
from meshagent.model.names import UNSPECIFIED
from meshagent.model.service import ServiceDefinition
from meshagent.model.world import Local, World
from meshagent.private import read_private, write_private
from meshagent.state.keys import Interest

_log = structlog.get_logger(__name__)
_MORE_PORTS = 255  # further instances of a service take inbound_port + 1 to + 255
Source = Literal["file", "api"]
Place = tuple[str, str]  # service, instance id


@dataclass(frozen=True, slots=True)
class Registered:
    """A service instance of this host."""

    definition: ServiceDefinition
    mtls_port: int
    source: Source
    healthy: bool
    draining: bool = False
    capture_port: int = 0  # where Envoy takes its redirected connections; 0: it has none

    @property
    def place(self) -> Place:
        """What tells it from the others here."""
        return (self.definition.name, self.definition.instance_id)


class Roster:
    """The host's services. `changed` is called after every change. `apart`: no two of them share an mTLS port.

    `capture_port`: the first of those for captured services. `gateways`: those that it serves besides.
    """

    def __init__(
        self,
        path: Path,
        address: str,
        inbound_port: int,
        changed: Callable[[], None],
        *,
        apart: bool = False,
        capture_port: int = 0,
        gateways: tuple[str, ...] = (),
    ) -> None:
        self._path = path
        self._address = address
        self._inbound_port = inbound_port
        self._changed = changed
        self._apart = apart
        self._capture_port = capture_port
        self._gateways = frozenset(gateways)
        self._registered: dict[Place, Registered] = {}
        self._kept = b""  # what the file holds

    @property
    def registered(self) -> Mapping[Place, Registered]:
        """All of them, by service and instance id."""
        return self._registered

    def locals(self, world: World | None) -> tuple[Local, ...]:
        """What policy needs to know of them, in a stable order."""
        return tuple(_local(each, world, self._address) for _, each in sorted(self._registered.items()))

    def interest(self) -> Interest:
        """What this host needs to know of the mesh."""
        definitions = [each.definition for each in self._registered.values()]
        services = frozenset(definition.name for definition in definitions)
        upstreams = frozenset(up.service for each in definitions for up in each.upstreams)
        return Interest(services, upstreams, gateways=self._gateways)

    def add(self, definition: ServiceDefinition, source: Source) -> Registered:
        """Register or change an instance. Raises PortInUse, UsageProblem, DataDirUnusable; then nothing has changed."""
        place = (definition.name, definition.instance_id)
        held = self._registered.get(place)
        self._refuse_shared_ports(definition, place)
        refuse_shared_capture(definition, place, self._registered.values())
        for upstream in definition.upstreams:
            known = held.definition.upstreams if held else ()
            if upstream.local_port and upstream.local_port not in (other.local_port for other in known):
                require_free("127.0.0.1", upstream.local_port, f"upstream {upstream.service} of {definition.name}")
        port = held.mtls_port if held else self._free_port(definition)
        healthy = held.healthy if held and held.definition.checks == definition.checks else not definition.checks
        capture = self._port_of_capture(definition)
        new = Registered(definition, port, source, healthy, capture_port=capture)
        self._save({**self._registered, place: new})
        self._registered[place] = new
        self._changed()
        return self._registered[place]

    def set_health(self, place: Place, healthy: bool) -> None:
        """Take in what the checks say."""
        held = self._registered.get(place)
        if held and held.healthy != healthy:
            self._registered[place] = replace(held, healthy=healthy)
            _log.info("health_changed", service=place[0], instance=place[1], healthy=healthy)
            self._changed()

    def drain(self, place: Place) -> None:
        """Offer it to callers no longer, but go on serving. Raises NotFound."""
        self._registered[place] = replace(self.find(*place), draining=True)
        self._changed()

    def remove(self, place: Place) -> None:
        """Forget it. When the disk does not take that, it is gone until the agent starts again, and that is logged."""
        if self._registered.pop(place, None):
            try:
                self._save(self._registered)
            except DataDirUnusable as error:
                _log.error("roster_not_written", path=str(self._path), problem=str(error))
            self._changed()

    def given_up(self, gone: Registered) -> list[tuple[str, int]]:
        """Where nobody has to listen any more without this one: its upstreams' ports and its own port for mTLS."""
        others = list(self._registered.values())
        theirs = {up.local_port for each in others for up in each.definition.upstreams}
        own = sorted({up.local_port for up in gone.definition.upstreams if up.local_port} - theirs)
        kept = any(each.mtls_port == gone.mtls_port for each in others) or self._gateways
        return [("127.0.0.1", port) for port in own] + ([] if kept else [(self._address, gone.mtls_port)])

    def find(self, service: str, instance_id: str | None = None) -> Registered:
        """The instance, or a service's only one. Raises NotFound, and UsageProblem when there are several."""
        found = [each for each in self._registered.values() if each.definition.name == service]
        if instance_id:
            found = [each for each in found if each.definition.instance_id == instance_id]
        if not found:
            known = ", ".join(sorted({name for name, _ in self._registered})) or "none"
            raise NotFound(f"no service {service} runs on this host (running: {known})", next_step="meshagent services")
        if len(found) > 1:
            ids = ", ".join(sorted(each.definition.instance_id for each in found))
            raise UsageProblem(f"{service} has several instances here: {ids}", next_step="name one with --id")
        return found[0]

    def load(self) -> None:
        """Take in what an earlier agent kept. A file that cannot be read is reported and left out."""
        try:
            kept_bytes = read_private(self._path)
            rows = json.loads(kept_bytes)["services"]
            kept = [
                Registered(
                    definition := ServiceDefinition.model_validate(row["definition"]),
                    int(row["mtls_port"]),
                    row["source"],
                    not definition.checks,
                    capture_port=int(row.get("capture_port", 0)),
                )
                for row in rows
            ]
        except NotFound:
            if self._gateways:
                self._changed()
            return
        except (MeshError, ValueError, KeyError, TypeError) as error:
            _log.warning("roster_unreadable", path=str(self._path), problem=str(error))
            return
        self._kept = kept_bytes
        for each in kept:
            self._registered[each.place] = each
        self._changed()

    def _save(self, registered: Mapping[Place, Registered]) -> None:
        """Write what differs from the file. Raises DataDirUnusable; then the file is as it was."""
        rows = [
            {"definition": each.definition.model_dump(mode="json"), "mtls_port": each.mtls_port, "source": each.source}
            | ({"capture_port": each.capture_port} if each.capture_port else {})
            for _, each in sorted(registered.items())
        ]
        data = json.dumps({"v": 1, "services": rows}).encode()
        if data != self._kept:
            write_private(self._path, data)
            self._kept = data

    def _refuse_shared_ports(self, definition: ServiceDefinition, place: Place) -> None:
        """Two services cannot listen on one local port for their upstreams: the port is what tells them apart."""
        for other in self._registered.values():
            if other.place == place or other.definition.name == definition.name:
                continue
            theirs = {upstream.local_port for upstream in other.definition.upstreams if upstream.local_port}
            for upstream in definition.upstreams:
                if upstream.local_port in theirs:
                    what = f"upstream {upstream.service} of {definition.name} wants port {upstream.local_port}"
                    raise PortInUse(f"{what}, which {other.definition.name} has", next_step="choose another local_port")

    def _port_of_capture(self, definition: ServiceDefinition) -> int:
        """One for all instances of a service: its connections are told by whose they are, which they share."""
        if definition.capture is None:
            return 0
        held = {each.definition.name: each.capture_port for each in self._registered.values() if each.capture_port}
        if port := held.get(definition.name):
            return port
        for port in range(self._capture_port, self._capture_port + 1 + _MORE_PORTS):
            if port not in held.values() and is_free("127.0.0.1", port):
                return port
        raise PortInUse(
            f"no free port from {self._capture_port} to {self._capture_port + _MORE_PORTS} to capture {definition.name}",
            next_step="set another capture.port in agent.yaml",
        )

    def _free_port(self, definition: ServiceDefinition) -> int:
        """The first instance of a service shares the host's mTLS port; each further one gets its own."""
        siblings = [each for each in self._registered.values() if each.definition.name == definition.name]
        if all(
            each.mtls_port != self._inbound_port
            for each in self._registered.values()
            if self._apart or each in siblings
        ):
            return self._inbound_port
        taken = {each.mtls_port for each in self._registered.values()}
        for other in (definition, *(each.definition for each in self._registered.values())):
            taken |= {other.port, *(upstream.local_port for upstream in other.upstreams if upstream.local_port)}
        for port in range(self._inbound_port + 1, self._inbound_port + 1 + _MORE_PORTS):
            if port not in taken and is_free(self._address, port):
                return port
        raise PortInUse(
            f"no free port from {self._inbound_port + 1} to {self._inbound_port + _MORE_PORTS} for {definition.instance_id}",
            next_step="set another inbound_port in agent.yaml",
        )


def _local(each: Registered, world: World | None, address: str) -> Local:
    permissive = world is not None and world.permissive(each.definition.name)
    # Otherwise the app itself already has the port on this address.
    apart = address != each.definition.address and address not in UNSPECIFIED
    plain_port = each.definition.port if permissive and apart else 0
    return Local(each.definition, each.mtls_port, each.healthy, each.draining, plain_port, each.capture_port)


def refuse_shared_capture(definition: ServiceDefinition, place: Place, others: Iterable[Registered]) -> None:
    """Whose connection it is says which service calls: so no two services may have the same. Raises UsageProblem."""
    if definition.capture is None:
        return
    for other in others:
        theirs = other.definition.capture
        if other.place == place or theirs is None:
            continue
        same = theirs.whose == definition.capture.whose
        if same and other.definition.name != definition.name:
            raise UsageProblem(
                f"{definition.name} captures {theirs.whose}, which {other.definition.name} does",
                next_step="run them as different users, or in different cgroups",
            )
        if not same and other.definition.name == definition.name:
            raise UsageProblem(
                f"{definition.name} captures {definition.capture.whose}, but its instance {other.place[1]} {theirs.whose}",
                next_step="run all instances of a service on one host as the same user",
            )
