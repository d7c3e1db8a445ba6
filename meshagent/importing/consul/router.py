"""service-router and service-splitter -> rules of a route."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.importing.consul.chain import Chain
from meshagent.importing.fields import Fields
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.importing.rules import RETRY_REASONS, both_headers, header_changes, path_prefix, weights, without_nothing

ELSEWHERE = "services of other namespaces, partitions and data centres are not known to a mesh here"


def foreign(fields: Fields, *names: str) -> bool:
    """Whether a place is beyond this mesh: a namespace or partition that is not `default`, a data centre, a peer."""
    found = False
    for name in names:
        value = fields.text(name)
        if value and not (value == "default" and name in ("Namespace", "Partition")):
            fields.tell("left out", ELSEWHERE, name)
            found = True
    return found


def service_router(source: Source, names: Names, chain: Chain) -> Iterator[Part]:
    """Puts the rules into the chain. What no rule matches goes to the service, as in Consul."""
    if (name := names.service(source.whole, source.name, space=source.space)) is None:
        return
    found = []
    for each in source.body.each("Routes"):
        match = _match(each)
        data = _action(each.sub("Destination"), names, name, match or {})
        if match is None or data is None:
            each.drop("a rule with a condition or a destination that is not known here is left out as a whole")
        else:
            found.append((each, {**without_nothing({"match": match}), **data}))
    chain.rules.setdefault(name, []).extend(found)
    yield from ()


def _match(route: Fields) -> Data | None:
    http = route.sub("Match").sub("HTTP")
    prefix = http.text("PathPrefix")
    if prefix:
        prefix = path_prefix(http, prefix, "PathPrefix")
    data = without_nothing(
        {
            "path_exact": http.text("PathExact") or None,
            "path_prefix": prefix or None,
            "path_regex": http.text("PathRegex") or None,
            "methods": [each.upper() for each in http.texts("Methods")],
            "headers": [_value(each, lower=True) for each in http.each("Header")],
            "query": [_value(each) for each in http.each("QueryParam")],
        }
    )
    if http.flag("CaseInsensitive"):
        if "path_regex" in data:
            data["path_regex"] = f"(?i){data['path_regex']}"
        elif "path_exact" in data or "path_prefix" in data:
            data["ignore_case"] = True
    return data


def _value(each: Fields, *, lower: bool = False) -> Data:
    name = each.text("Name") or ""
    found = without_nothing({key.lower(): each.text(key) or None for key in ("Exact", "Prefix", "Suffix", "Regex")})
    if each.flag("Present") or not found:
        found = found or {"present": True}
    return {"name": name.lower() if lower else name, **found, **({"invert": True} if each.flag("Invert") else {})}


def _action(to: Fields, names: Names, home: str, match: Data) -> Data | None:
    place = place_of(to, names, home)
    if place is None:
        return None
    headers = both_headers(header_changes(to.sub("RequestHeaders")), header_changes(to.sub("ResponseHeaders")))
    return without_nothing(
        {
            "to": [place] if place else None,
            "rewrite": _rewrite(to, match),
            "timeout": to.span("RequestTimeout"),
            "idle_timeout": to.span("IdleTimeout"),
            "retry": _retry(to),
            "headers": headers,
        }
    )


def place_of(to: Fields, names: Names, home: str) -> Data | None:
    """A service and a subset as a target (`{}`: the service itself); None where it is beyond this mesh."""
    beyond = foreign(to, "Namespace", "Partition", "Datacenter", "Peer", "SamenessGroup")
    service, subset = to.text("Service") or home, to.text("ServiceSubset") or None
    name = names.service(to, service)
    if beyond or name is None:
        return None
    return without_nothing({"service": name if name != home else None, "subset": subset})


def _rewrite(to: Fields, match: Data) -> Data:
    prefix = to.text("PrefixRewrite")
    if not prefix:
        return {}
    if "path_exact" in match:
        return {"path": prefix}
    if "path_regex" in match:
        to.tell("left out", "a prefix is rewritten where a path or a prefix is matched", "PrefixRewrite")
        return {}
    return {"path_prefix": prefix}


def _retry(to: Fields) -> Data:
    """Consul tries once more where only the reasons are given; ours are the same words, as both are Envoy's."""
    attempts = to.integer("NumRetries") or 0
    statuses = [int(each) for each in to.texts("RetryOnStatusCodes") if each.isascii() and each.isdigit()]
    on = list(to.texts("RetryOn"))
    for each in on:
        if each not in RETRY_REASONS:
            to.tell("left out", f"{each} is no reason to retry here", "RetryOn")
    on = [each for each in on if each in RETRY_REASONS]
    if to.flag("RetryOnConnectFailure"):
        on.append("connect-failure")
    if not (attempts or statuses or on):
        return {}
    if not (statuses or on):
        to.tell("mistake", "there is no reason to retry, so Consul never does", "NumRetries")
        return {}
    return {"attempts": attempts or 1, "on": on, **without_nothing({"statuses": statuses})}


def service_splitter(source: Source, names: Names, chain: Chain) -> Iterator[Part]:
    """Puts the split into the chain."""
    if (name := names.service(source.whole, source.name, space=source.space)) is None:
        return
    splits = source.body.each("Splits")
    shares = weights(source.body, "Splits", [each.number("Weight") or 0.0 for each in splits])
    found = []
    for each, share in zip(splits, shares, strict=True):
        place = place_of(each, names, name)
        headers = both_headers(header_changes(each.sub("RequestHeaders")), header_changes(each.sub("ResponseHeaders")))
        if place is not None:
            found.append(without_nothing({**place, "weight": share, "headers": headers}))
    if found:
        chain.splits[name] = (source.body, found)
    yield from ()
