"""VirtualService -> routes (istio/api networking/v1alpha3/virtual_service.proto)."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.importing.fields import Fields
from meshagent.importing.istio.actions import rule_of, targets_of
from meshagent.importing.istio.matches import matches
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.importing.rules import without_nothing

MESH = "mesh"


def virtual_service(source: Source, names: Names) -> Iterator[Part]:
    """One route for each host, with a rule for each alternative of each match. Raises Misfit for what Istio refuses."""
    body = source.body
    gateways = body.texts("gateways")
    if gateways and MESH not in gateways:
        body.drop("it is for gateways alone, and calls within the mesh never meet it", "not imported")
        return
    if gateways:
        body.tell("left out", "calls within the mesh alone are routed here, those of a gateway are not", "gateways")
    body.leave("every service of the mesh that calls the host meets the route", "exportTo")
    hosts = body.texts("hosts")
    if not hosts:
        raise Misfit(body.at("hosts"), "virtual service must have at least one host")
    rules = list(_http(source, names)) + list(_tcp(source, names))
    body.leave("TLS connections are not looked into: the mesh's own mTLS is all there is", "tls")
    for host in hosts:
        if name := names.host(body, host, source.space):
            for fields, data in rules:
                yield Part("rule", name, _at_home(data, name), fields)


def _http(source: Source, names: Names) -> Iterator[tuple[Fields, Data]]:
    for http in source.body.each("http"):
        if http.leave("the rules of another VirtualService are not taken over: write them here", "delegate"):
            http.drop("the rule has its routes elsewhere")
            continue
        given = http.each("match")
        alternatives = list(matches(given, names, source.space))
        data = rule_of(http, names, source.space)
        title = http.text("name")
        if data is None:
            continue
        for fields, match in alternatives if given else [(http, {})]:
            name = title if len(given) < 2 else None
            yield fields, {**without_nothing({"name": name, "match": match}), **_fitted(fields, data, match)}


def _fitted(fields: Fields, data: Data, match: Data) -> Data:
    """`uri` of a rewrite replaces what was matched: all of an exact path, the prefix of a prefix, else the path."""
    rewrite = data.get("rewrite", {})
    if "path_prefix" not in rewrite or "path_prefix" in match:
        return data
    fitted = {key: value for key, value in rewrite.items() if key != "path_prefix"}
    if "path_exact" in match:
        fitted["path"] = rewrite["path_prefix"]
    elif not match:
        fitted["path_prefix"] = rewrite["path_prefix"]
    else:
        fields.tell("left out", "rewrite.uri needs a match of uri by exact or prefix: that is what it replaces")
    return {**{key: value for key, value in data.items() if key != "rewrite"}, **without_nothing({"rewrite": fitted})}


def _tcp(source: Source, names: Names) -> Iterator[tuple[Fields, Data]]:
    """Of a TCP rule the weights. A condition on addresses and ports cannot be kept, so such a rule is left out."""
    for tcp in source.body.each("tcp"):
        given = tcp.each("match")
        narrow = any(set(each.keys()) - {"port"} for each in given)
        for each in given:
            each.drop("ports, addresses and labels of a connection are not looked at")
        to = targets_of(tcp, tcp.each("route"), names, source.space)
        if narrow:
            tcp.drop("the rule is for some connections alone")
        elif to:
            yield tcp, {"to": to}


def _at_home(data: Data, name: str) -> Data:
    """The route's own service is not named in its targets; a rule to that alone needs no target."""

    def own(place: Data) -> Data:
        return {key: value for key, value in place.items() if key != "service" or value != name}

    moved: Data = {key: [own(each) for each in data[key]] for key in ("to", "mirror") if key in data}
    if moved.get("to") == [{}]:
        del moved["to"]
        data = {key: value for key, value in data.items() if key != "to"}
    return {**data, **moved}
