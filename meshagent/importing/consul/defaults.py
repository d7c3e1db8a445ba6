"""service-defaults, proxy-defaults and mesh: of a service what holds for all of its callers, of the mesh what is said."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.importing.consul.failover import by_locality
from meshagent.importing.fields import Fields
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.importing.rules import without_nothing

_CALLER = (
    "settings belong to the service that is called here, and hold for all callers: say it in that service's document"
)
_NEVER = "nothing like it is needed here: services are reached on the ports of their upstreams"
_ENVOY = "Envoy is not configured by hand here"
_PROTOCOLS = ("http", "http2", "grpc", "tcp")


def service_defaults(source: Source, names: Names) -> Iterator[Part]:
    """Raises Misfit where a value is none that Consul takes."""
    if (name := names.service(source.whole, source.name, space=source.space)) is None:
        return
    body = source.body
    body.leave(_CALLER, "UpstreamConfig")
    body.leave(_NEVER, "MeshGateway", "TransparentProxy", "Mode", "Expose", "ExternalSNI", "Destination")
    body.leave("the proxy's own limits are the agent's", "MaxInboundConnections", "BalanceInboundConnections")
    body.leave(
        "the app has no limit of its own here: set timeout in a route", "LocalConnectTimeoutMs", "LocalRequestTimeoutMs"
    )
    body.leave(_ENVOY, "EnvoyExtensions")
    data = without_nothing(
        {
            "protocol": _protocol(body),
            "mtls": _mutual(body),
            "rate_limit": _limit(body.sub("RateLimits").sub("InstanceLevel")),
        }
    )
    if data:
        yield Part("service", name, data, body)


def _protocol(body: Fields) -> str | None:
    given = body.text("Protocol")
    if given is None or given == "":
        return None
    if given.lower() not in _PROTOCOLS:
        body.tell("left out", f"the protocol {given} is not known here: connections of it are tcp", "Protocol")
        return "tcp"
    return given.lower()


def _mutual(body: Fields) -> str | None:
    mode = body.one_of("MutualTLSMode", "", "strict", "permissive")
    return mode or None


def _limit(found: Fields) -> Data:
    if not found:
        return {}
    rate, burst = found.number("RequestsPerSecond"), found.integer("RequestsMaxBurst")
    found.leave("limits by path are those of a route's rule (rate_limit)", "Routes")
    return without_nothing({"requests_per_second": rate, "burst": burst}) if rate else {}


def proxy_defaults(source: Source, names: Names) -> Iterator[Part]:
    """Nothing is written: a document of the mesh would replace all of yours. The report says what to set in it."""
    body, config = source.body, source.body.sub("Config")
    if protocol := config.text("protocol"):
        words = f"set protocol: {protocol} where a service is registered, or in its document: there is none for all"
        config.tell("left out", words, "protocol")
    for key in config.keys():  # noqa: SIM118 # Fields is no mapping
        if key.lower() == "protocol":
            continue
        config.leave(f"{_ENVOY}: the agent has its own setting, or none is needed", key)
    logs = body.sub("AccessLogs")
    if logs:
        wanted = "all" if logs.flag("Enabled") else "none"
        logs.tell(
            "left out", f"set access_log: {{only: {wanted}}} in the mesh document (meshagent policy get mesh mesh)"
        )
        logs.leave(
            "logs are JSON with the fields that docs/ lists",
            "DisableListenerLogs",
            "Type",
            "Path",
            "JSONFormat",
            "TextFormat",
        )
    if _mutual(body) == "permissive":
        body.tell("left out", "say mtls: permissive in the document of each service that is meant", "MutualTLSMode")
    body.leave(_NEVER, "MeshGateway", "TransparentProxy", "Mode", "Expose")
    body.leave(_ENVOY, "EnvoyExtensions")
    _nearest(body)
    del names
    yield from ()


def _nearest(body: Fields) -> None:
    """Where failovers of all services are ordered by place, each service has to say it here."""
    policy = body.sub("FailoverPolicy")
    policy.leave("regions are steps of a service's failover here: [{region: NAME}]", "Regions")
    words = "say failover: [{zone: any}, {region: any}] in the document of each service that is meant"
    if policy.one_of("Mode", "", "sequential", "order-by-locality") == "order-by-locality":
        policy.tell("left out", words, "Mode")
    if by_locality(body, "PrioritizeByLocality"):
        body.tell("left out", words, "PrioritizeByLocality")


def mesh_entry(source: Source, names: Names) -> Iterator[Part]:
    """Nothing is written, and each setting is reported."""
    body = source.body
    body.leave("a service reaches the upstreams that it declares, nothing else", "TransparentProxy")
    body.leave("who may be permissive is a right on the store's keys", "AllowEnablingPermissiveMutualTLS")
    body.leave("TLS between proxies is 1.3 alone", "TLS")
    body.leave("proxies here set x-forwarded-client-cert themselves", "HTTP")
    body.leave("there are no peers: one mesh is one store", "Peering")
    del names
    yield from ()
