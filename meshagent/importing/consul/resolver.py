"""service-resolver -> subsets and settings of a service, and the end of its chain."""

from __future__ import annotations

import re
from collections.abc import Iterator

from meshagent.importing.consul.chain import Chain
from meshagent.importing.consul.failover import by_locality, resolver_failover
from meshagent.importing.consul.router import place_of
from meshagent.importing.failover import NEAREST
from meshagent.importing.fields import Fields
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.importing.rules import without_nothing

_TERM = re.compile(
    r"""Service\.Meta(?:\.([A-Za-z0-9_-]+)|\[\s*"([^"]+)"\s*\])\s*==\s*(?:"([^"]*)"|`([^`]*)`|([^\s"`()]+))"""
)
_POLICIES = {
    "": None,
    "least_request": "least_request",
    "round_robin": "round_robin",
    "random": "random",
    "ring_hash": "ring_hash",
    "maglev": "maglev",
}


def service_resolver(source: Source, names: Names, chain: Chain) -> Iterator[Part]:
    """Raises Misfit where a value is none that Consul takes."""
    if (name := names.service(source.whole, source.name, space=source.space)) is None:
        return
    body = source.body
    subsets = {}
    for label, subset in body.members("Subsets").items():
        meta = _meta(subset)
        if meta:
            subsets[label] = meta
        elif meta is not None:
            chain.wholes.add((name, label))
            subset.tell("changed", "is every instance that passes its checks: the service as a whole")
    _end(body, names, name, chain)
    near = list(NEAREST) if by_locality(body, "PrioritizeByLocality") else []
    data = without_nothing(
        {
            "subsets": subsets,
            "failover": near + resolver_failover(body, names, name),
            "load_balancer": _balancer(body.sub("LoadBalancer")),
            "connection_pool": without_nothing({"connect_timeout": body.span("ConnectTimeout")}),
        }
    )
    if data:
        yield Part("service", name, data, body)
    if timeout := body.span("RequestTimeout"):
        chain.defaults.append(Part("default", name, {"timeout": timeout}, body))


def _meta(subset: Fields) -> dict[str, str] | None:
    """The meta that a filter asks for; {} for all instances, None where a subset by meta cannot say it."""
    text = (subset.text("Filter") or "").strip()
    subset.flag("OnlyPassing")
    found: dict[str, str] = {}
    for term in re.split(r"\s+and\s+", text) if text else []:
        match = _TERM.fullmatch(term)
        key = match and (match[1] or match[2])
        if not match or not key or key in found:
            subset.tell(
                "left out", "a subset is of instances whose meta has these values: Service.Meta.KEY == VALUE", "Filter"
            )
            return None
        found[key] = next(each for each in match.groups()[2:] if each is not None)
    return found


def _end(body: Fields, names: Names, name: str, chain: Chain) -> None:
    redirect, subset = body.sub("Redirect"), body.text("DefaultSubset")
    if redirect:
        place = place_of(redirect, names, name)
        if place:
            chain.resolved[name] = (body, place)
    elif subset:
        chain.resolved[name] = (body, {"subset": subset})


def _balancer(found: Fields) -> Data:
    policy = _POLICIES.get(found.one_of("Policy", *_POLICIES) or "")
    ring, least = found.sub("RingHashConfig"), found.sub("LeastRequestConfig")
    ring.leave("the ring has Envoy's own size", "MinimumRingSize", "MaximumRingSize")
    least.leave("of two instances the less busy is called", "ChoiceCount")
    hashes = [data for each in found.each("HashPolicies") if (data := _hash(each))]
    if policy in ("ring_hash", "maglev") and not hashes:
        found.tell(
            "left out", "a hash needs something of the request: a header, a cookie or a query parameter", "Policy"
        )
        return {}
    if hashes and policy not in ("ring_hash", "maglev"):
        found.tell("mistake", "hash policies do nothing without ring_hash or maglev", "HashPolicies")
        hashes = []
    return without_nothing({"policy": policy, "hash_on": hashes})


def _hash(each: Fields) -> Data | None:
    each.leave("is of a connection, and hashes here are of a request", "SourceIP")
    each.leave("all of the hashes count together", "Terminal")
    kind, value = each.one_of("Field", "header", "cookie", "query_parameter"), each.text("FieldValue")
    cookie = each.sub("CookieConfig")
    ttl = cookie.span("TTL")
    cookie.leave("a cookie is for every path, and lives as long as cookie_ttl", "Path", "Session")
    if kind is None or not value:
        return None
    if kind == "cookie":
        return without_nothing({"cookie": value, "cookie_ttl": ttl})
    return {"header": value.lower()} if kind == "header" else {"query": value}
