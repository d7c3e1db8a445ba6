"""What an HTTPRoute does with a request -> the rest of a rule."""

from __future__ import annotations

from collections.abc import Sequence

from meshagent.importing.fields import Fields
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Data
from meshagent.importing.rules import RETRY_REASONS, both_headers, header_changes, weights, without_nothing


def rule_of(http: Fields, names: Names, space: str) -> Data | None:
    """Everything of a rule but its match; None where it leads nowhere that is known here."""
    redirect, respond = http.sub("redirect"), http.sub("directResponse")
    routes = http.each("route")
    to = targets_of(http, routes, names, space)
    if routes and not to:
        http.drop("none of its destinations is a service here")
        return None
    if not (routes or redirect or respond):
        raise Misfit(http.path, "HTTP route, redirect or direct_response is required")
    if routes and (redirect or respond):
        raise Misfit(http.path, "HTTP route cannot contain both route and redirect or direct_response")
    return without_nothing(
        {
            "to": to,
            "redirect": _redirect(redirect),
            "respond": _respond(respond),
            "rewrite": _rewrite(http.sub("rewrite")),
            "timeout": http.span("timeout"),
            "retry": _retry(http),
            "fault": _fault(http.sub("fault")),
            "mirror": _mirrors(http, names, space),
            "cors": _cors(http.sub("corsPolicy")),
            "headers": _headers(http.sub("headers")),
        }
    )


def targets_of(http: Fields, routes: Sequence[Fields], names: Names, space: str) -> list[Data]:
    """Where a rule leads, with whole weights."""
    shares = weights(http, "route", [each.number("weight") for each in routes])
    found = []
    for each, share in zip(routes, shares, strict=True):
        if not each:
            each.tell("mistake", "names no destination")
            continue
        place = place_of(each.sub("destination"), names, space)
        headers = _headers(each.sub("headers"))
        if place is not None:
            more = without_nothing({"weight": share if len(routes) > 1 else None, "headers": headers})
            found.append({**place, **more})
    return found


def place_of(fields: Fields, names: Names, space: str) -> Data | None:
    """A host and a subset as a target; None, and a note, where there is no such service here."""
    host, subset = fields.text("host"), fields.text("subset")
    fields.leave("a service has one port here", "port")
    if not host:
        raise Misfit(fields.at("host"), "is missing")
    name = names.host(fields, host, space)
    return None if name is None else without_nothing({"service": name, "subset": subset})


def _redirect(found: Fields) -> Data:
    if not found:
        return {}
    found.leave("the port is named, or stays", "derivePort")
    path = found.text("uri")
    if path == "%PREFIX()%":
        path = None
    host, port = found.text("authority"), found.integer("port")
    if host and ":" in host and port is None:
        name, _, tail = host.rpartition(":")
        host, port = (name, int(tail)) if tail.isascii() and tail.isdigit() and len(tail) <= 5 else (host, None)
    status = found.integer("redirectCode")
    return without_nothing(
        {
            "status": 301 if status is None else status,
            "scheme": found.text("scheme"),
            "host": host,
            "port": port,
            "path": path,
        }
    )


def _respond(found: Fields) -> Data:
    if not found:
        return {}
    body = found.sub("body")
    body.leave("a body is text here", "bytes")
    return without_nothing({"status": found.integer("status"), "body": body.text("string")})


def _rewrite(found: Fields) -> Data:
    pattern = found.sub("uriRegexRewrite")
    regex = {"pattern": pattern.text("match"), "substitution": pattern.text("rewrite") or ""} if pattern else None
    return without_nothing({"path_prefix": found.text("uri"), "host": found.text("authority"), "path_regex": regex})


def _retry(http: Fields) -> Data:
    found = http.sub("retries")
    if not found:
        return {}
    found.leave("the balancer chooses", "retryRemoteLocalities", "retryIgnorePreviousHosts")
    attempts = found.integer("attempts")
    words = [each.strip() for each in (found.text("retryOn") or "").split(",") if each.strip()]
    statuses = [int(each) for each in words if each.isascii() and each.isdigit() and len(each) == 3]
    on = [each for each in words if each in RETRY_REASONS]
    for each in words:
        if each not in RETRY_REASONS and not (each.isascii() and each.isdigit()):
            found.tell("left out", f"{each} is no reason to retry here", "retryOn")
    backoff = found.span("backoff")
    return without_nothing(
        {
            "attempts": 2 if attempts is None else attempts,
            "per_try_timeout": found.span("perTryTimeout"),
            "on": on or (["connect-failure", "refused-stream", "unavailable", "cancelled"] if not statuses else ()),
            "statuses": statuses,
            "backoff": {"base": backoff, "max": backoff} if backoff else None,
        }
    )


def percent_of(fields: Fields, name: str, old: str) -> float | None:
    """`percentage.value`, or the older whole number."""
    inner = fields.sub(name)
    value, older = inner.number("value"), fields.number(old)
    return (value if value is not None else 0.0) if name in fields else older


def _fault(found: Fields) -> Data:
    if not found:
        return {}
    delay, abort = found.sub("delay"), found.sub("abort")
    delay.leave("a delay is a fixed time here", "exponentialDelay")
    grpc = abort.text("grpcStatus")
    data: Data = {}
    if (time := delay.span("fixedDelay")) is not None and (share := _share(delay)) is not None:
        data["delay"] = {"duration": time, "percent": share}
    status = abort.integer("httpStatus")
    if grpc is not None and (code := _GRPC.get(grpc.upper().replace("_", ""))) is None:
        abort.tell("left out", f"{grpc} is no gRPC status", "grpcStatus")
    elif (grpc is not None or status is not None) and (share := _share(abort)) is not None:
        data["abort"] = {**({"grpc_status": code} if grpc is not None else {"status": status}), "percent": share}
    return data


def _share(fields: Fields) -> float | None:
    """Percent of the requests. Istio injects nothing where none is given."""
    share = percent_of(fields, "percentage", "percent")
    if share is None:
        fields.tell("mistake", "has no percentage, so Istio injects nothing")
    return share


_GRPC = {
    name: number
    for number, name in enumerate(
        [
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALIDARGUMENT",
            "DEADLINEEXCEEDED",
            "NOTFOUND",
            "ALREADYEXISTS",
            "PERMISSIONDENIED",
            "RESOURCEEXHAUSTED",
            "FAILEDPRECONDITION",
            "ABORTED",
            "OUTOFRANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATALOSS",
            "UNAUTHENTICATED",
        ]
    )
}


def _mirrors(http: Fields, names: Names, space: str) -> list[Data]:
    found: list[Data] = []
    old = http.sub("mirror")
    share = percent_of(http, "mirrorPercentage", "mirrorPercent")
    if old and (place := place_of(old, names, space)) is not None:
        found.append(without_nothing({**place, "percent": share}))
    for each in http.each("mirrors"):
        if (place := place_of(each.sub("destination"), names, space)) is not None:
            inner = each.sub("percentage").number("value") if "percentage" in each else None
            found.append(without_nothing({**place, "percent": inner}))
    return found


def _cors(found: Fields) -> Data:
    if not found:
        return {}
    found.leave("Envoy's own way with preflights is kept", "unmatchedPreflights")
    origins = [
        without_nothing({"exact": each.text("exact"), "prefix": each.text("prefix"), "regex": each.text("regex")})
        for each in found.each("allowOrigins")
    ]
    origins += [{"regex": ".*"} if each == "*" else {"exact": each} for each in found.texts("allowOrigin")]
    return without_nothing(
        {
            "allow_origins": [{"regex": ".*"} if each == {"exact": "*"} else each for each in origins],
            "allow_methods": list(found.texts("allowMethods")),
            "allow_headers": [each.lower() for each in found.texts("allowHeaders")],
            "expose_headers": [each.lower() for each in found.texts("exposeHeaders")],
            "allow_credentials": found.flag("allowCredentials"),
            "max_age": found.span("maxAge"),
        }
    )


def _headers(found: Fields) -> Data:
    return both_headers(header_changes(found.sub("request")), header_changes(found.sub("response"))) or {}
