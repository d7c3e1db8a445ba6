"""MeshRateLimit and MeshFaultInjection: what a service does with those who call it."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.documents.scalars import resolve
from meshagent.importing.fields import Fields
from meshagent.importing.kuma.references import inbound
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.importing.rules import without_nothing


def rate_limit(source: Source, names: Names) -> Iterator[Part]:
    """Requests in an interval become requests a second, with the interval's number as the burst."""
    for service, each, default in inbound(source.body, names):
        local = default.sub("local")
        local.leave("connections are not limited by their rate here", "tcp")
        http = local.sub("http")
        http.leave("beyond the limit the answer is 429, with x-ratelimit headers", "onRateLimit")
        rate = http.sub("requestRate")
        number, interval = rate.integer("num"), rate.span("interval")
        if http.flag("disabled") or number is None or interval is None:
            each.tell("left out", "names no rate of requests")
            continue
        if number <= 0 or (seconds := _seconds(interval)) <= 0:
            raise Misfit(rate.path, "must be more than 0")
        limit = {"requests_per_second": round(number / seconds, 6), "burst": number}
        yield Part("service", service, {"rate_limit": limit}, each)


def _seconds(span: str) -> float:
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        number = span.removesuffix(unit)
        if number != span and isinstance(value := resolve(number), int | float):
            return float(value) * factor
    return 0.0


def fault_injection(source: Source, names: Names) -> Iterator[Part]:
    """The callers' proxies inject the fault here; for a caller it is the same."""
    for service, each, default in inbound(source.body, names):
        faults = default.each("http")
        for index, fault in enumerate(faults):
            fault.leave("the speed of answers is not limited here", "responseBandwidth")
            data = _fault(fault)
            if index:
                fault.drop("a route injects one delay and one abort: those of the first are taken")
            elif data:
                yield Part("default", service, {"fault": data}, each)


def _fault(fault: Fields) -> Data:
    abort, delay = fault.sub("abort"), fault.sub("delay")
    data: Data = {}
    if abort:
        data["abort"] = without_nothing({"status": abort.integer("httpStatus"), "percent": abort.number("percentage")})
    if delay:
        data["delay"] = without_nothing({"duration": delay.span("value"), "percent": delay.number("percentage")})
    return data
