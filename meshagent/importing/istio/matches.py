"""HTTPMatchRequest -> the match of a rule. An alternative with a condition that cannot be kept is left out, not widened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshagent.importing.fields import Fields
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Data
from meshagent.importing.rules import path_prefix, without_nothing

_UNSEEN = "a rule here does not look at that, so the whole alternative is left out"


def matches(given: Sequence[Fields], names: Names, space: str) -> Iterator[tuple[Fields, Data]]:
    """The alternatives that can be kept, each with where it stands."""
    for each in given:
        gateways = each.texts("gateways")
        if gateways and "mesh" not in gateways:
            each.drop("it is for gateways alone, and calls within the mesh never meet it")
            continue
        each.ignore("name", "statPrefix")
        if each.leave(_UNSEEN, "scheme", "authority", "port", "sourceNamespace"):
            each.drop("one of its conditions cannot be kept")
        elif (match := _match(each, names, space)) is not None:
            yield each, match
        else:
            each.drop("one of its conditions cannot be kept")


def _match(fields: Fields, names: Names, space: str) -> Data | None:
    path, method = fields.sub("uri"), fields.sub("method")
    ignore_case = fields.flag("ignoreUriCase")
    sources = _sources(fields, names, space)
    method_name = method.text("exact")
    if sources is None or (method and method_name is None):
        if method and method_name is None:
            method.tell("left out", "a method is matched exactly here")
        return None
    headers = [_text(value, name.lower()) for name, value in fields.members("headers").items()]
    without = [
        {**_text(value, name.lower()), "invert": True} for name, value in fields.members("withoutHeaders").items()
    ]
    query = [_text(value, name) for name, value in fields.members("queryParams").items()]
    if any(each["name"].startswith(":") for each in headers + without):
        fields.tell("left out", "pseudo-headers are not matched as headers here", "headers")
        return None
    data = without_nothing(
        {
            **_path(path),
            "methods": [method_name] if method_name else None,
            "headers": headers + without,
            "query": query,
            "sources": sources,
        }
    )
    if ignore_case and "path_regex" in data:
        data["path_regex"] = f"(?i){data['path_regex']}"
    elif ignore_case and path:
        data["ignore_case"] = True
    return data


def _path(path: Fields) -> Data:
    exact, prefix, regex = path.text("exact"), path.text("prefix"), path.text("regex")
    if sum(each is not None for each in (exact, prefix, regex)) > 1:
        raise Misfit(path.path, "takes one of exact, prefix and regex")
    if prefix is not None:
        prefix = path_prefix(path, prefix, "prefix")
    return without_nothing({"path_exact": exact, "path_prefix": prefix, "path_regex": regex})


def _text(value: Fields, name: str) -> Data:
    """A condition on a named value; without a matcher it must be there. An empty prefix says nothing more than that."""
    exact, prefix, regex = value.text("exact"), value.text("prefix"), value.text("regex")
    found = without_nothing({"exact": exact, "prefix": prefix or None, "regex": regex})
    return {"name": name, **(found or {"present": True})}


def _sources(fields: Fields, names: Names, space: str) -> list[str] | None:
    """The caller by its label app; None where other labels would be needed."""
    labels = fields.table("sourceLabels")
    if not labels:
        return []
    app = labels.get("app") or labels.get("app.kubernetes.io/name")
    if app is None or len(labels) > 1:
        fields.tell("left out", "callers are told apart by their service (label app) alone", "sourceLabels")
        return None
    name = names.service(fields, app, space=space)
    return None if name is None else [name]
