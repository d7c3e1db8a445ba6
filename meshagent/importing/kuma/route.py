"""MeshHTTPRoute -> rules. Kuma tries the most exact match first, whatever the order; ours are written in that order."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.importing.fields import Fields
from meshagent.importing.kuma.references import plain_name, referred
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.importing.rules import both_headers, weights, without_nothing
from meshagent.model.names import ANY

_ORDER = {"path_exact": 0, "path_prefix": 1, "path_regex": 2}


def http_route(source: Source, names: Names) -> Iterator[Part]:
    """Raises Misfit for what Kuma refuses."""
    body = source.body
    caller = referred(body.sub("targetRef"), names, caller=True)
    for each in body.each("to"):
        service = referred(each.sub("targetRef"), names)
        each.leave("a route is of one service, whatever host a request names", "hostnames")
        if service is None or service == ANY or caller is None:
            each.drop("a route is of one service here")
            continue
        found: list[tuple[Data, Data, Fields]] = []
        for rule in each.each("rules"):
            matches = [_match(match) for match in rule.each("matches")] or [{}]
            data = _action(rule.sub("default"), names, service)
            if data is None:
                rule.drop("none of its back ends is a service here")
            else:
                found += [(match, data, rule) for match in matches]
        for match, data, rule in sorted(found, key=lambda item: _precedence(item[0])):
            sources = {"sources": [caller]} if caller != ANY else {}
            whole = {**match, **sources}
            yield Part("rule", service, {**({"match": whole} if whole else {}), **data}, rule)


def _precedence(match: Data) -> tuple[int, int, int, int, int]:
    """As kumahq/kuma meshhttproute compare.go: path by kind and length, then method, headers and query parameters."""
    kind = next((each for each in _ORDER if each in match), None)
    length = len(match[kind]) if kind not in (None, "path_exact") else 0
    place = 3 if kind is None else _ORDER[kind]
    counts = (len(match.get("headers", ())), len(match.get("query", ())))
    return (place, -length, 0 if "methods" in match else 1, -counts[0], -counts[1])


def _match(fields: Fields) -> Data:
    path = fields.sub("path")
    kind, value = path.one_of("type", "Exact", "PathPrefix", "RegularExpression"), path.text("value")
    if path and (kind is None or not value):
        raise Misfit(path.path, "must have a type and a value")
    names = {"Exact": "path_exact", "PathPrefix": "path_prefix", "RegularExpression": "path_regex"}
    method = fields.text("method")
    return without_nothing(
        {
            **({names[kind]: value} if kind else {}),
            "methods": [method] if method else None,
            "headers": [_value(each, lower=True) for each in fields.each("headers")],
            "query": [_value(each) for each in fields.each("queryParams")],
        }
    )


def _value(each: Fields, *, lower: bool = False) -> Data:
    kind = each.one_of("type", "Exact", "RegularExpression", "Prefix", "Present", "Absent") or "Exact"
    name, value = each.text("name") or "", each.text("value") or ""
    found: Data = {"name": name.lower() if lower else name}
    if kind == "Absent":
        return {**found, "present": True, "invert": True}
    names = {"Exact": "exact", "RegularExpression": "regex", "Prefix": "prefix", "Present": "present"}
    return {**found, names[kind]: True if kind == "Present" else value}


def _action(default: Fields, names: Names, home: str) -> Data | None:
    data: Data = {}
    request: Data = {}
    response: Data = {}
    for each in default.each("filters"):
        kind = each.text("type")
        if kind == "RequestHeaderModifier":
            _changes(each.sub("requestHeaderModifier"), request)
        elif kind == "ResponseHeaderModifier":
            _changes(each.sub("responseHeaderModifier"), response)
        elif kind == "RequestRedirect":
            data["redirect"] = _redirect(each.sub("requestRedirect"))
        elif kind == "URLRewrite":
            data["rewrite"] = _rewrite(each.sub("urlRewrite"))
        elif kind == "RequestMirror":
            _mirror(each.sub("requestMirror"), names, home, data)
        else:
            raise Misfit(each.at("type"), f"is no filter that Kuma knows: {kind}")
    given = default.each("backendRefs")
    to = _backends(default, given, names, home)
    if given and not to:
        return None
    if to != [{}] and "redirect" not in data:
        data["to"] = to
    return without_nothing({**data, "headers": both_headers(request, response)})


def _backends(default: Fields, given: tuple[Fields, ...], names: Names, home: str) -> list[Data]:
    shares = weights(default, "backendRefs", [_weight(each) for each in given], whole=0)
    found = []
    for each, share in zip(given, shares, strict=True):
        place = _place(each, names, home)
        if place is not None:
            found.append({**place, **({"weight": share} if len(given) > 1 else {})})
    return found


def _weight(each: Fields) -> float:
    given = each.number("weight")
    return 1.0 if given is None else given


def _place(fields: Fields, names: Names, home: str) -> Data | None:
    """A back end as a target. One by tags or labels beside its service's would need a subset of that name."""
    fields.leave("a service has one port here", "port", "sectionName")
    fields.ignore("kind", "namespace")
    name = fields.text("name")
    labels = {**fields.table("labels"), **fields.table("tags")}
    name = name or labels.pop("kuma.io/display-name", None) or labels.pop("kuma.io/service", None)
    if name is None:
        fields.tell("left out", "names no service")
        return None
    if labels and not {"kuma.io/zone", "kuma.io/display-name", "k8s.kuma.io/namespace"} >= set(labels):
        wanted = ", ".join(f"{key}: {value}" for key, value in sorted(labels.items()))
        fields.tell("left out", f"is a part of {name}: give its document a subset ({wanted}) and name that in the rule")
        return None
    service = names.service(fields, plain_name(name))
    return None if service is None else {} if service == home else {"service": service}


def _changes(found: Fields, into: Data) -> None:
    for kind in ("set", "add"):
        values = {(each.text("name") or "").lower(): each.text("value") or "" for each in found.each(kind)}
        if values:
            into[kind] = {**into.get(kind, {}), **values}
    if removed := [each.lower() for each in found.texts("remove")]:
        into["remove"] = [*into.get("remove", []), *removed]


def _path(path: Fields) -> Data:
    kind = path.one_of("type", "ReplaceFullPath", "ReplacePrefixMatch")
    full, prefix = path.text("replaceFullPath"), path.text("replacePrefixMatch")
    return without_nothing({"path": full if kind == "ReplaceFullPath" else None, "path_prefix": prefix or None})


def _redirect(found: Fields) -> Data:
    status = found.integer("statusCode")
    return without_nothing(
        {
            "status": 302 if status is None else status,
            "scheme": found.text("scheme"),
            "host": found.text("hostname"),
            "port": found.integer("port"),
            **_path(found.sub("path")),
        }
    )


def _rewrite(found: Fields) -> Data:
    found.leave("the host stays as it was asked for", "hostToBackendHostname")
    return without_nothing({"host": found.text("hostname"), **_path(found.sub("path"))})


def _mirror(found: Fields, names: Names, home: str, data: Data) -> None:
    place = _place(found.sub("backendRef"), names, home)
    if place is not None:
        copy = without_nothing({**place, "percent": found.number("percentage")})
        data.setdefault("mirror", []).append(copy)
