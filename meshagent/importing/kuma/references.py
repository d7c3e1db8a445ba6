"""Kuma's targetRef -> a service here."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.importing.fields import Fields
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.model.names import ANY

_LABELS = ("kuma.io/display-name", "kuma.io/service", "kuma.io/service-name", "kuma.io/workload", "app")
_KINDS = ("Mesh", "MeshSubset", "MeshService", "MeshServiceSubset", "MeshGateway", "MeshHTTPRoute", "Dataplane",
          "MeshExternalService", "MeshMultiZoneService")  # fmt: skip


def referred(fields: Fields, names: Names, *, caller: bool = False) -> str | None:
    """The service that a targetRef means, `*` for the whole mesh; None, and a note, where it is neither.

    Without a targetRef it is the mesh. Raises Misfit for a kind that Kuma does not know.
    """
    if not fields:
        return ANY
    kind = fields.one_of("kind", *_KINDS)
    fields.ignore("proxyTypes", "namespace")
    if fields.leave("a service has one port here", "sectionName") and kind == "Mesh":
        return None
    tags = {**fields.table("labels"), **fields.table("tags")}
    name = fields.text("name") or next((tags[label] for label in _LABELS if label in tags), None)
    narrower = sorted(set(tags) - set(_LABELS))
    if kind is None:
        raise Misfit(fields.at("kind"), "is missing")
    if kind in ("MeshHTTPRoute", "MeshGateway", "MeshExternalService"):
        fields.tell("left out", f"a {kind} is nothing that settings are made for here")
        return None
    if narrower:
        fields.tell(
            "left out", f"{' and '.join(narrower)}: a part of a service's instances has no settings of its own here"
        )
        return None
    if name is None:
        if kind in ("Mesh", "MeshSubset", "Dataplane"):
            return ANY
        raise Misfit(fields.path, "needs a name or labels")
    return names.service(fields, plain_name(name), caller=caller)


def plain_name(text: str) -> str:
    """`backend` of Kuma's `backend_kuma-demo_svc_3001`, which is how Kubernetes' services are written in tags."""
    parts = text.split("_")
    return parts[0] if len(parts) >= 3 and parts[2] == "svc" else text


def outbound(body: Fields, names: Names, for_all: str) -> Iterator[tuple[str, Fields, Fields]]:
    """Of each entry of `to`: the service, the entry, and its `default`. Settings hold for all callers here."""
    callers = body.sub("targetRef")
    some = referred(callers, names, caller=True) != ANY
    body.leave("is for what comes in, and here the callers' proxies do it", "from", "rules")
    for each in body.each("to"):
        target = each.sub("targetRef")
        service = referred(target, names)
        if some:
            each.drop("settings hold for all callers of a service here, and this is for some")
        elif service == ANY:
            each.drop(f"is for every service, and {for_all}")
        elif service is None:
            each.drop("it is not known here what it is for")
        else:
            yield service, each, each.sub("default")


def inbound(body: Fields, names: Names) -> Iterator[tuple[str, Fields, Fields]]:
    """Of each entry of `from` and `rules`: the service that it protects, the entry, and its `default`."""
    service = referred(body.sub("targetRef"), names)
    for each in (*body.each("from"), *body.each("rules")):
        caller = referred(each.sub("targetRef"), names, caller=True)
        if service is None or service == ANY:
            each.drop("is for every service: write it into the documents of those that are meant")
        elif caller != ANY or each.leave("all callers are meant here", "matches"):
            each.drop("is for some callers: this setting holds for all of them here")
        else:
            yield service, each, each.sub("default")
    body.leave("is for what the service calls, and here it is for what calls it", "to")
