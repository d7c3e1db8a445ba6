"""MeshRetry, MeshTimeout and MeshCircuitBreaker -> settings of a service and of all rules of its route."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.importing.fields import Fields
from meshagent.importing.kuma.references import outbound
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.importing.rules import without_nothing

_NONE = "has no field in a document"
_ON = {
    "5xx": "5xx",
    "gatewayerror": "gateway-error",
    "reset": "reset",
    "connectfailure": "connect-failure",
    "refusedstream": "refused-stream",
    "retriable4xx": "retriable-4xx",
    "resetbeforerequest": "reset-before-request",
    "canceled": "cancelled",
    "deadlineexceeded": "deadline-exceeded",
    "internal": "internal",
    "resourceexhausted": "resource-exhausted",
    "unavailable": "unavailable",
}
_FOR_ALL = "there are no settings for all: write it into the documents of those that are meant"


def retry(source: Source, names: Names) -> Iterator[Part]:
    """A retry for all rules of the route."""
    for service, each, default in outbound(source.body, names, _FOR_ALL):
        default.leave("a TCP connection is tried once", "tcp")
        http, grpc = default.sub("http"), default.sub("grpc")
        if http and grpc:
            grpc.drop("a route has one retry: that of http is taken")
        found = http or grpc
        if data := _retry(found):
            yield Part("default", service, {"retry": data}, each)


def _retry(found: Fields) -> Data:
    found.leave("the pause doubles at random, whatever the answer says", "rateLimitedBackOff")
    found.leave("the balancer chooses", "hostSelection", "hostSelectionMaxAttempts")
    found.leave("headers are not looked at for a retry", "retriableResponseHeaders", "retriableRequestHeaders")
    words = found.texts("retryOn")
    methods = [each.removeprefix("HttpMethod").upper() for each in words if each.startswith("HttpMethod")]
    statuses = [int(each) for each in words if each.isascii() and each.isdigit() and len(each) == 3]
    on = []
    for each in words:
        known = _ON.get(each.replace("-", "").replace("_", "").lower())
        if known:
            on.append(known)
        elif not each.startswith("HttpMethod") and not each.isdigit():
            found.tell("left out", f"{each} is no reason to retry here", "retryOn")
    back = found.sub("backOff")
    base, longest = back.span("baseInterval"), back.span("maxInterval")
    reasons = on or (["gateway-error", "connect-failure", "refused-stream"] if found and not statuses else [])
    attempts = found.integer("numRetries")
    return without_nothing(
        {
            "attempts": attempts,
            "per_try_timeout": found.span("perTryTimeout"),
            "on": reasons,
            "statuses": statuses,
            "methods": methods,
            "backoff": without_nothing({"base": base, "max": longest}),
        }
    )


def timeout(source: Source, names: Names) -> Iterator[Part]:
    """Times of connections for the service, times of requests for all rules of its route."""
    for service, each, default in outbound(source.body, names, _FOR_ALL):
        http = default.sub("http")
        http.leave(_NONE, "maxConnectionDuration", "requestHeadersTimeout")
        pool = {"connect_timeout": default.span("connectionTimeout"), "idle_timeout": default.span("idleTimeout")}
        rule = {
            "timeout": http.span("requestTimeout"),
            "idle_timeout": http.span("streamIdleTimeout"),
            "max_stream_duration": http.span("maxStreamDuration"),
        }
        if without_nothing(pool):
            yield Part("service", service, {"connection_pool": without_nothing(pool)}, each)
        if without_nothing(rule):
            yield Part("default", service, without_nothing(rule), each)


def circuit_breaker(source: Source, names: Names) -> Iterator[Part]:
    """Limits and outlier detection of the service."""
    for service, each, default in outbound(source.body, names, _FOR_ALL):
        limits = default.sub("connectionLimits")
        limits.leave("retries are limited by the mesh's retry budget", "maxRetries")
        limits.leave(_NONE, "maxConnectionPools")
        pool = without_nothing(
            {
                "max_connections": limits.integer("maxConnections"),
                "max_pending_requests": limits.integer("maxPendingRequests"),
                "max_requests": limits.integer("maxRequests"),
            }
        )
        outliers = _outliers(default.sub("outlierDetection"))
        data = without_nothing({"connection_pool": pool, "outlier_detection": outliers})
        if data:
            yield Part("service", service, data, each)


def _outliers(found: Fields) -> Data:
    if not found:
        return {}
    if found.flag("disabled"):
        found.drop("is off, as it is here unless a document asks for it", "changed")
        return {}
    detectors = found.sub("detectors")
    detectors.leave("instances are not compared by their rate of success here", "successRate")
    found.leave("the panic threshold is Envoy's own", "healthyPanicThreshold")
    local = detectors.sub("localOriginFailures").integer("consecutive")
    if not found.flag("splitExternalAndLocalErrors") and local is not None:
        detectors.tell(
            "mistake", "counts only with splitExternalAndLocalErrors: true, also in Kuma", "localOriginFailures"
        )
        local = None
    failures = detectors.sub("failurePercentage")
    failures.leave("hosts and requests are counted from Envoy's own minimum", "requestVolume", "minimumHosts")
    return without_nothing(
        {
            "consecutive_5xx": detectors.sub("totalFailures").integer("consecutive") or 0,
            "consecutive_gateway_failure": detectors.sub("gatewayFailures").integer("consecutive"),
            "consecutive_local_origin_failure": local,
            "failure_percentage": failures.integer("threshold"),
            "interval": found.span("interval"),
            "base_ejection_time": found.span("baseEjectionTime"),
            "max_ejection_percent": found.integer("maxEjectionPercent") or 10,
        }
    )
