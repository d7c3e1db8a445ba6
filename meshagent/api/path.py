"""GET /v1/path: how far a call from one service to another gets on this host, part by part, as plain data."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from meshagent.agent.operations import Operations
from meshagent.agent.roster import Registered
from meshagent.envoy.process import EnvoyProcess
from meshagent.errors import EnvoyFailed
from meshagent.host.handshake import connected, handshake
from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.view import Endpoint, Outbound, ProxyView
from meshagent.translate.clusters import plain_name, upstream_name
from meshagent.translate.inbound import inbound_listener_name
from meshagent.translate.local import local_listener_name
from meshagent.translate.tls import server_name

_MOST = 20  # endpoints that are tried
Data = dict[str, Any]
_FLAGS = {
    "failed_outlier_check": "ejected: too many of its answers were failures (outlier_detection)",
    "failed_active_health_check": "fails the caller's health check (health_check)",
}


class CallPath:
    """What one host knows of a call. `directory` is the agent's data directory, `now` the time at which it is judged."""

    def __init__(self, operations: Operations, envoy: EnvoyProcess, directory: Path, now: datetime) -> None:
        self._operations = operations
        self._envoy = envoy
        self._directory = directory
        self._now = now

    async def read(self, source: str, destination: str) -> Data:
        """`source` (None: it does not run here), `listener`, `endpoints`, and the `apps` of the destination.

        Connections are made to at most 20 endpoints, and to the apps that are here.
        """
        view = self._operations.converger.view
        listeners, clusters = await _admin(self._envoy)
        outbound = _outbound(view, source, destination) if view else None
        found: Data = {
            "host": self._operations.here.name,
            "source": self._service(source),
            "listener": self._listener(outbound, listeners) if outbound else None,
            "endpoints": [],
            "apps": [await self._app(each, listeners) for each in self._instances(destination)],
        }
        if view and outbound:
            told = _told(clusters, outbound)
            tried = (self._endpoint(view, outbound, each) for each in outbound.reached[:_MOST])
            rows = await asyncio.gather(*tried)
            found["endpoints"] = [row | {"left_out": told.get((row["address"], row["port"]), [])} for row in rows]
        return found

    def _service(self, name: str) -> Data | None:
        registered = next(self._instances(name), None)
        if registered is None:
            return None
        svid = self._operations.identities.svids.get(name)
        called = {each.service: each for each in registered.definition.upstreams}
        return {
            "calls": {name: each.local_socket or each.local_port or 0 for name, each in sorted(called.items())},
            "captured": registered.definition.capture is not None,
            "expires_at": svid.expires_at.isoformat() if svid else None,
            "expired": self._is_ended(name),
            "problem": self._operations.identities.problems.get(name, ""),
        }

    def _is_ended(self, service: str) -> bool:
        svid = self._operations.identities.svids.get(service)
        return svid is None or svid.expires_at <= self._now

    def _instances(self, service: str) -> Iterator[Registered]:
        return (each for (name, _), each in sorted(self._operations.roster.registered.items()) if name == service)

    def _listener(self, outbound: Outbound, listeners: frozenset[str]) -> Data:
        name = local_listener_name(outbound) if outbound.listened else f"capture/{outbound.source}"
        return {"name": name, "there": name in listeners, "rejected": self._operations.rejected().get(name, "")}

    async def _app(self, each: Registered, listeners: frozenset[str]) -> Data:
        definition = each.definition
        checks = [row for row in self._operations.health.rows(each.place) if row.get("status") == "failing"]
        return {
            "id": definition.instance_id,
            "address": f"{definition.address}:{definition.port}",
            "problem": await connected(definition.address, definition.port),
            "failing": [str(row.get("output", "")) for row in checks],
            "draining": each.draining,
            "listening": inbound_listener_name(each.mtls_port) in listeners,
            "expired": self._is_ended(definition.name),
        }

    async def _endpoint(self, view: ProxyView, outbound: Outbound, endpoint: Endpoint) -> Data:
        row: Data = {"address": endpoint.address, "port": endpoint.port, "healthy": endpoint.healthy}
        world = self._operations.converger.world
        if endpoint not in outbound.endpoints or world is None or self._is_ended(outbound.source):
            said = await connected(endpoint.address, endpoint.port)
            return row | {"code": "connect" if said else "", "said": said}
        sni = server_name(outbound.source, outbound.upstream, view.trust_domain)
        pair = self._directory / "identities" / f"{outbound.source}.pem"
        roots, ids = world.bundle.pem(world.mesh.trust_domain), view.domains.ids(outbound.upstream)
        alpn = "h2" if outbound.protocol in HTTP_PROTOCOLS else ""
        code, said = await handshake(endpoint.address, endpoint.port, sni, pair, roots, ids, alpn)
        return row | {"code": code, "said": said}


def _outbound(view: ProxyView, source: str, destination: str) -> Outbound | None:
    called = (each for each in view.outbounds if (each.source, each.upstream) == (source, destination))
    return next((each for each in called if not each.subset), None)


async def _admin(envoy: EnvoyProcess) -> tuple[frozenset[str], list[Data]]:
    """The names of Envoy's listeners, and what it says of the hosts of its clusters; nothing while it does not answer."""
    try:
        listeners = json.loads(await envoy.admin.get("/listeners?format=json"))
        clusters = json.loads(await envoy.admin.get("/clusters?format=json"))
    except (EnvoyFailed, ValueError):
        return frozenset(), []
    names = frozenset(each["name"] for each in listeners.get("listener_statuses", ()))
    return names, list(clusters.get("cluster_statuses", ()))


def _told(clusters: list[Data], outbound: Outbound) -> dict[tuple[str, int], list[str]]:
    """Why Envoy leaves an endpoint out, by its address: the words of its flags."""
    names = {name for each in (outbound, *outbound.beyond) for name in (upstream_name(each), plain_name(each))}
    found: dict[tuple[str, int], list[str]] = {}
    for cluster in clusters:
        for host in cluster.get("host_statuses", ()) if cluster["name"] in names else ():
            where = host.get("address", {}).get("socket_address", {})
            said = [words for flag, words in _FLAGS.items() if host.get("health_status", {}).get(flag)]
            found.setdefault((where.get("address", ""), where.get("port_value", 0)), []).extend(said)
    return {where: sorted(set(said)) for where, said in found.items()}
