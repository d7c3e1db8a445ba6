"""DestinationRule -> a service document (istio/api networking/v1alpha3/destination_rule.proto)."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.importing.failover import locality_failover
from meshagent.importing.fields import Fields
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.importing.rules import without_nothing

_SIMPLE = {
    "ROUND_ROBIN": "round_robin",
    "LEAST_REQUEST": "least_request",
    "LEAST_CONN": "least_request",
    "RANDOM": "random",
    "UNSPECIFIED": "least_request",
}
_NO_SUCH = "has no field in a service document"


def destination_rule(source: Source, names: Names) -> Iterator[Part]:
    """Raises Misfit for what Istio refuses."""
    body = source.body
    host = body.text("host")
    if not host:
        raise Misfit(body.at("host"), "is missing")
    if body.leave("settings hold for all callers here, so nothing of a rule for some is taken", "workloadSelector"):
        body.drop("it is for some callers alone", "not imported")
        return
    name = names.host(body, host, source.space)
    data = traffic_policy(body.sub("trafficPolicy"))
    subsets = {}
    for subset in body.each("subsets"):
        subset_name, labels = subset.text("name"), subset.table("labels")
        subset.leave("settings hold for the whole service here", "trafficPolicy")
        if not subset_name:
            raise Misfit(subset.at("name"), "is missing")
        if labels:
            subsets[subset_name] = labels
        else:
            subset.tell("left out", "a subset needs a label: without one it is the whole service")
    body.leave("every service may read these settings", "exportTo")
    if name is not None:
        yield Part("service", name, {**data, **({"subsets": subsets} if subsets else {})}, body)


def traffic_policy(policy: Fields) -> Data:
    """The fields of a service document that a traffic policy sets."""
    policy.leave("a service has one port here", "portLevelSettings")
    policy.leave(_NO_SUCH, "tunnel", "proxyProtocol", "retryBudget")
    _tls(policy.sub("tls"))
    balancer, outliers = policy.sub("loadBalancer"), policy.sub("outlierDetection")
    return without_nothing(
        {
            "load_balancer": _load_balancer(balancer),
            "connection_pool": _pool(policy.sub("connectionPool")),
            "outlier_detection": _outliers(outliers),
            "failover": locality_failover(balancer.sub("localityLbSetting"), ejects=bool(outliers)),
        }
    )


def _tls(tls: Fields) -> None:
    mode = tls.text("mode")
    if mode in (None, "ISTIO_MUTUAL"):
        return
    words = "proxies of the mesh always speak mTLS to each other, with the mesh's own certificates"
    tls.drop(f"{words} (mode {mode})")


def _load_balancer(found: Fields) -> Data:
    data: Data = {}
    simple = found.text("simple")
    if simple == "PASSTHROUGH":
        found.tell("left out", "calls always go to an instance of the service", "simple")
    elif simple is not None:
        if simple not in _SIMPLE:
            raise Misfit(found.at("simple"), f"must be one of {', '.join(_SIMPLE)}, PASSTHROUGH, not {simple!r}")
        data["policy"] = _SIMPLE[simple]
    _hash(found.sub("consistentHash"), data)
    slow_start = _warmup(found) or found.span("warmupDurationSecs")
    if slow_start and data.get("policy", "least_request") in ("least_request", "round_robin"):
        data["slow_start"] = slow_start
    elif slow_start:
        found.tell("left out", "a slow start needs round robin or least request")
    return data


def _hash(found: Fields, data: Data) -> None:
    if not found:
        return
    policy = "maglev" if found.take("maglev") is not None else "ring_hash"
    ring = found.sub("ringHash")
    for each in (found, ring):
        each.leave("the ring has Envoy's own size", "minimumRingSize")
    header, query, cookie = found.text("httpHeaderName"), found.text("httpQueryParameterName"), found.sub("httpCookie")
    cookie.leave("a cookie is for every path", "path")
    hash_on = without_nothing(
        {
            "header": header.lower() if header else None,
            "query": query,
            "cookie": cookie.text("name"),
            "cookie_ttl": cookie.span("ttl"),
        }
    )
    found.leave("is of a connection, and hashes here are of a request", "useSourceIp")
    if hash_on:
        data |= {"policy": policy, "hash_on": [hash_on]}


def _warmup(found: Fields) -> str | None:
    if "warmup" not in found:
        return None
    warmup = found.sub("warmup")
    duration, least, aggression = warmup.span("duration"), warmup.number("minimumPercent"), warmup.number("aggression")
    if duration is None:
        raise Misfit(warmup.at("duration"), "Required value")
    if least is not None and not 0 <= least <= 100:
        raise Misfit(warmup.at("minimumPercent"), "Invalid value: must be 0 to 100")
    if aggression is not None and aggression < 1:
        raise Misfit(warmup.at("aggression"), "Invalid value: must be at least 1")
    warmup.leave("a slow start is linear from a tenth here", "minimumPercent", "aggression")
    return duration


def _pool(found: Fields) -> Data:
    tcp, http = found.sub("tcp"), found.sub("http")
    tcp.leave(_NO_SUCH, "tcpKeepalive", "maxConnectionDuration")
    http.leave("retries are limited by the mesh's retry budget", "maxRetries")
    http.leave("proxies of the mesh speak as the service's protocol says: set protocol: http2", "h2UpgradePolicy")
    http.leave(_NO_SUCH, "useClientProtocol", "maxConcurrentStreams")
    return without_nothing(
        {
            "max_connections": tcp.integer("maxConnections"),
            "connect_timeout": tcp.span("connectTimeout"),
            "max_pending_requests": http.integer("http1MaxPendingRequests"),
            "max_requests": http.integer("http2MaxRequests"),
            "max_requests_per_connection": http.integer("maxRequestsPerConnection") or None,
            "idle_timeout": http.span("idleTimeout") or tcp.span("idleTimeout"),
        }
    )


def _outliers(found: Fields) -> Data:
    if not found:
        return {}
    found.leave("the panic threshold is Envoy's own", "minHealthPercent")
    split = found.flag("splitExternalLocalOriginErrors")
    local = found.integer("consecutiveLocalOriginFailures")
    if local is not None and not split:
        words = "counts only with splitExternalLocalOriginErrors: true, also in Istio"
        found.tell("mistake", words, "consecutiveLocalOriginFailures")
        local = None
    old = found.integer("consecutiveErrors")
    if old is not None:
        found.tell("mistake", "is deprecated in Istio: read as consecutive5xxErrors", "consecutiveErrors")
    count = found.integer("consecutive5xxErrors")
    return without_nothing(
        {
            "consecutive_5xx": old if count is None else count,
            "consecutive_gateway_failure": found.integer("consecutiveGatewayErrors"),
            "consecutive_local_origin_failure": local,
            "interval": found.span("interval"),
            "base_ejection_time": found.span("baseEjectionTime"),
            "max_ejection_percent": _share(found),
        }
    ) or {"max_ejection_percent": 10}


def _share(found: Fields) -> int:
    """Istio's default is 10; ours, which would count without it, is 50."""
    given = found.integer("maxEjectionPercent")
    return 10 if given is None else given
