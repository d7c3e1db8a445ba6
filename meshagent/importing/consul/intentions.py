"""service-intentions -> an intention document. The precedence is the same: ours was taken from Consul."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.importing.conditions import PathIs
from meshagent.importing.consul.router import ELSEWHERE
from meshagent.importing.fields import Fields
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.importing.rules import without_nothing
from meshagent.model.names import ANY


def service_intentions(source: Source, names: Names) -> Iterator[Part]:
    """Raises Misfit for what Consul refuses. A source beyond this mesh is allowed nothing, and its deny is kept."""
    body = source.body
    target = body.sub("Destination")
    target.ignore("namespace")
    service = target.text("name") or source.name
    destination = ANY if service == ANY else names.service(source.whole, service, space=source.space)
    body.leave("tokens of end users are not checked here: the application, or a gateway, does that", "JWT")
    guarded = "JWT" in body
    for each in body.each("Sources"):
        each.ignore("Precedence", "Type", "LegacyID", "LegacyMeta", "LegacyCreateTime", "LegacyUpdateTime")
        data = _source(each, guarded)
        caller = each.text("Name")
        if not caller:
            raise Misfit(each.at("Name"), "is missing")
        name = ANY if caller == ANY else names.service(each, caller, caller=True)
        if destination is not None and name is not None and data is not None:
            yield Part("source", destination, {"name": name, **data}, each)


def _source(each: Fields, guarded: bool) -> Data | None:
    foreign = False
    for name in ("Namespace", "Partition", "Peer", "SamenessGroup"):
        value = each.text(name)
        foreign = foreign or (bool(value) and not (value == "default" and name in ("Namespace", "Partition")))
    action = each.one_of("Action", "allow", "deny")
    permissions = each.each("Permissions")
    if (action is None) == (not permissions):
        raise Misfit(each.path, "must have either an Action or Permissions")
    kept = [data for permission in permissions if (data := _permission(permission, guarded))]
    if foreign and action != "deny":
        each.drop(ELSEWHERE)
        return None
    if foreign:
        each.tell("changed", f"{ELSEWHERE}: the deny holds for the service of that name here")
    if guarded and action == "allow":
        each.tell("left out", "is allowed with a token alone, which is not checked here: it is denied", "Action")
        action = "deny"
    reason = each.text("Description")
    ends = {"action": action} if action else {"permissions": kept} if kept else {"action": "deny"}
    return {**ends, **without_nothing({"reason": reason[:512] if reason else None})}


def _permission(permission: Fields, guarded: bool) -> Data | None:
    """A permission; of one that cannot be said, an allow is left out, and a deny is of more requests."""
    action = permission.one_of("Action", "allow", "deny")
    if action is None:
        raise Misfit(permission.at("Action"), "is missing")
    http = permission.sub("HTTP")
    if not http:
        raise Misfit(permission.path, "must have HTTP")
    lost = [name for name in ("JWT",) if name in permission] + (["JWT"] if guarded else [])
    permission.ignore("JWT")
    headers = [_header(each) for each in http.each("Header")]
    data = without_nothing(
        {
            **_path(http),
            "methods": [each.upper() for each in http.texts("Methods")],
            "headers": [each for each in headers if each],
        }
    )
    if http.flag("CaseInsensitive") and any(key.startswith("path") for key in data):
        data["ignore_case"] = True
    if (lost or None in headers) and action == "allow":
        permission.tell("left out", "one of its conditions cannot be said here, so what needs it is not allowed")
        return None
    if lost or None in headers:
        permission.tell("changed", "one of its conditions cannot be said here: more is denied without it")
    return {"action": action, "http": data or {"path_prefix": "/"}}


def _path(http: Fields) -> Data:
    exact, prefix, regex = (http.text(name) or None for name in ("PathExact", "PathPrefix", "PathRegex"))
    if sum(each is not None for each in (exact, prefix, regex)) > 1:
        raise Misfit(http.path, "takes one of PathExact, PathPrefix and PathRegex")
    return without_nothing(
        {"path_exact": exact, "path_regex": regex, **(PathIs("prefix", prefix).data() if prefix else {})}
    )


def _header(each: Fields) -> Data | None:
    """A condition on a header; None where an intention has none such (a regex, `contains`, the host)."""
    name = (each.text("Name") or "").lower()
    if each.leave("an intention looks at a header exactly, by prefix, by suffix, or whether it is there",
                  "Regex", "Contains", "IgnoreCase"):  # fmt: skip
        return None
    if name in ("host", "authority") or name.startswith(":"):
        each.tell("left out", "is not decided on: clients write it in many ways", "Name")
        return None
    found = without_nothing({key.lower(): each.text(key) or None for key in ("Exact", "Prefix", "Suffix")})
    each.flag("Present")
    return {"name": name, **(found or {"present": True}), **({"invert": True} if each.flag("Invert") else {})}
