"""What the agent says of itself, as plain data."""

from __future__ import annotations

import os
from typing import Any

from meshagent.agent.operations import Operations
from meshagent.agent.roster import Registered
from meshagent.envoy.process import EnvoyProcess
from meshagent.errors import EnvoyFailed
from meshagent.host.responder import Responder
from meshagent.xds.types import short_name


def agent_status(operations: Operations, envoy: EnvoyProcess, facts: dict[str, str]) -> dict[str, Any]:
    """GET /v1/status."""
    world, here, watching = operations.converger.world, operations.here, operations.watching
    return {
        "host": here.name,
        "uid": os.geteuid(),
        "address": here.address,
        "agent_version": here.agent_version,
        "envoy_version": here.envoy_version,
        **facts,
        "store_ok": watching.stale_since is None,
        "stale_since": watching.stale_since.isoformat() if watching.stale_since else None,
        "heard_at": watching.heard_at.isoformat() if watching.heard_at else None,
        "revision": world.revision if world else 0,
        "applied_revision": operations.applied_revision,
        "trust_domain": world.mesh.trust_domain if world else "",
        "default_action": world.mesh.default_action if world else "deny",
        "problems": operations.problems(),
        "rejected": operations.rejected(),
        "services": sorted({name for name, _ in operations.roster.registered}),
        "captured": sorted({name for (name, _), each in operations.roster.registered.items() if each.capture_port}),
        "svids": _svids(operations),
        "gateway_certificates": operations.certificates.rows(),
        "bundle": operations.applied_bundle,
        "roots": _roots(operations),
        "ca_skew_seconds": operations.authorities.skew,
        "envoy": {"pid": envoy.pid, "ready": bool(operations.xds.streams), "restarts": envoy.restarts},
        "sent": _sent(operations),
        "propagation": {
            "buckets": operations.propagation.buckets,
            "seconds": operations.propagation.seconds,
            "rejections": operations.propagation.rejections,
        },
        "dns": _dns(operations.dns),
        "rollouts": operations.rollouts.rows() if operations.rollouts else [],
    }


def _svids(operations: Operations) -> dict[str, dict[str, Any]]:
    held, unserved = operations.identities, operations.served.unserved
    return {
        service: {
            "spiffe_id": svid.spiffe_id,
            "expires_at": svid.expires_at.isoformat(),
            "serial": svid.serial,
            "root": svid.root_digest,
            "served": service not in unserved,
            "overdue": service in held.overdue,
            "renewals": held.renewals[service],
            "failures": held.refusals[service],
        }
        for service, svid in sorted(held.svids.items())
    }


def _roots(operations: Operations) -> list[dict[str, Any]]:
    """The roots of this mesh's own trust domain; none before the first certificate, which brings the parser with it."""
    world = operations.converger.world
    if world is None or not operations.identities.svids:
        return []
    from meshagent.ca.roots import ends_of

    found = ends_of(world.bundle.of(world.mesh.trust_domain))
    leaving = world.bundle.leaving
    return [{"digest": root, "expires_at": end.isoformat(), "leaving": root in leaving} for root, end in found]


def _dns(responder: Responder | None) -> dict[str, Any] | None:
    """Where names are answered, which, and how queries ended; None: nowhere."""
    if responder is None:
        return None
    return {
        "address": responder.where,
        "zone": responder.origin,
        "listening": responder.listening,
        "names": sorted(responder.services()),
        "queries": dict(responder.counts),
    }


def service_rows(operations: Operations) -> list[dict[str, Any]]:
    """GET /v1/services."""
    view = operations.converger.view
    outbounds = {(out.source, out.upstream): out for out in view.outbounds} if view else {}
    outside = {(out.source, out.upstream): out.external for out in view.egresses} if view else {}
    plain = {(each.service, each.instance): each.plain_port for each in view.inbounds} if view else {}
    rows = []
    for place, each in sorted(operations.roster.registered.items()):
        definition = each.definition
        upstreams = []
        for upstream in definition.upstreams:
            outbound = outbounds.get((definition.name, upstream.service))
            external = outside.get((definition.name, upstream.service))
            endpoints = outbound.reached if outbound else ()
            upstreams.append(
                {
                    "service": upstream.service,
                    "local_port": upstream.local_port,
                    "local_socket": upstream.local_socket,
                    "protocol": outbound.protocol if outbound else external.protocol if external else "tcp",
                    "outside": list(external.hosts) if external else [],
                    "endpoints": len(endpoints),
                    "healthy": sum(endpoint.healthy for endpoint in endpoints),
                }
            )
        rows.append(
            {
                "name": definition.name,
                "id": definition.instance_id,
                "port": definition.port,
                "address": definition.address,
                "protocol": definition.protocol,
                "mtls_port": each.mtls_port,
                "health": "draining" if each.draining else "passing" if each.healthy else "failing",
                "checks": operations.health.rows(place),
                "upstreams": upstreams,
                "source": each.source,
                "capture": _capture(each, plain.get(place, 0)),
            }
        )
    return rows


def _capture(each: Registered, plain_port: int) -> dict[str, Any] | None:
    """Whose connections are the service's and where Envoy takes them, as `meshagent redirect` needs it."""
    capture = each.definition.capture
    if capture is None:
        return None
    closes = capture.inbound == "strict" and plain_port != each.definition.port  # that port is then Envoy's own
    return {"user": capture.user, "cgroup": capture.cgroup, "port": each.capture_port, "closes": closes}


async def proxy_status(operations: Operations, envoy: EnvoyProcess) -> dict[str, Any]:
    """GET /v1/proxy/status."""
    types: dict[str, dict[str, Any]] = {}
    for stream in operations.xds.streams:
        for name, status in stream.types.items():
            types[short_name(name)] = {
                "subscribed": status.subscribed,
                "applied": status.applied,
                "rejected": dict(status.rejected),
                "sent": status.resources_sent,
                "bytes_sent": status.bytes_sent,
            }
    try:
        info = await envoy.admin.server_info()
    except EnvoyFailed:
        info = {}
    return {
        "pid": envoy.pid,
        "version": operations.here.envoy_version,
        "ready": info.get("state") == "LIVE",
        "uptime_s": float(str(info.get("uptime_current_epoch", "0s")).rstrip("s") or 0),
        "adopted": envoy.adopted,
        "connected": bool(operations.xds.streams),
        "types": types,
        "restarts": envoy.restarts,
    }


def _sent(operations: Operations) -> dict[str, int]:
    total: dict[str, int] = {}
    for stream in operations.xds.streams:
        for name, status in stream.types.items():
            total[short_name(name)] = total.get(short_name(name), 0) + status.resources_sent
    return total
