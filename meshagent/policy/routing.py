"""Which way a request takes, and as what it arrives. The same answer as the generated route configuration. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from meshagent.model.matching import Cookie, QueryParameter, RouteHeader, RouteMatch
from meshagent.model.route import HeaderChanges, Rewrite
from meshagent.model.view import Way
from meshagent.policy.request import Malformed, Request, judged_path

_GRPC = re.compile(r"application/grpc(\+.*)?", re.IGNORECASE)


def way_of(ways: Iterable[Way], request: Request) -> Way | None:
    """The first way that the request meets; None: to the upstream itself. The request must not be malformed."""
    return next((way for way in ways if matches(way.rule.match, request)), None)


def matches(match: RouteMatch, request: Request) -> bool:
    """Whether a well-formed request meets every condition. Who calls and from where was decided before."""
    path = judged_path(request.path)
    if isinstance(path, Malformed) or (match.methods and request.method not in match.methods):
        return False
    return (
        _path_matches(match, path, request)
        and all(_header_matches(each, request.values(each.name)) for each in match.headers)
        and all(_parameter_matches(each, request.path) for each in match.query)
        and all(_cookie_matches(each, request.values("cookie")) for each in match.cookies)
    )


def arriving(request: Request, rewrite: Rewrite | None, match: RouteMatch, changes: Iterable[HeaderChanges]) -> Request:
    """The request as the destination's proxy gets it."""
    for each in changes:
        request = _changed(request, each)
    path, question, query = request.path.partition("?")
    judged = judged_path(path)
    if rewrite is None or isinstance(judged, Malformed):
        return request
    return replace(request, path=_rewritten(judged, rewrite, match) + question + query)


def _path_matches(match: RouteMatch, path: str, request: Request) -> bool:
    if match.grpc:
        spoken = any(_GRPC.fullmatch(value) for value in request.values("content-type"))
        service = f"/{match.grpc.service}/"
        return spoken and (path == service + match.grpc.method if match.grpc.method else path.startswith(service))
    if match.path_regex is not None:
        return re.fullmatch(match.path_regex, path) is not None
    wanted, seen = match.path_exact or match.path_prefix, path
    if wanted is None:
        return True
    if match.ignore_case:
        wanted, seen = wanted.lower(), seen.lower()
    bare = wanted.rstrip("/")
    return seen == wanted if match.path_exact is not None else seen == bare or seen.startswith(bare + "/")


def _header_matches(asked: RouteHeader, values: tuple[str, ...]) -> bool:
    if _bare(asked):
        return bool(values) == ((asked.present is not False) != asked.invert)
    found = values or (("",) if asked.invert else ())
    return any(_text_matches(asked, asked.regex, value) for value in found) != asked.invert


def _parameter_matches(asked: QueryParameter, path: str) -> bool:
    value = _parameters(path).get(asked.name)
    if _bare(asked):
        return (value is not None) == (asked.present is not False)
    return value is not None and _text_matches(asked, asked.regex, value)


def _parameters(path: str) -> dict[str, str]:
    """The first value of each, as it is written."""
    found: dict[str, str] = {}
    _, question, query = path.partition("?")
    for part in query.split("&") if question else ():
        name, _, value = part.partition("=")
        found.setdefault(name, value)
    return found


def _cookie_matches(asked: Cookie, values: tuple[str, ...]) -> bool:
    pairs = (each.strip(" \t").partition("=") for value in values for each in value.split(";"))
    found = [value for name, equals, value in pairs if equals and name == asked.name]
    if asked.exact is None and asked.prefix is None and asked.suffix is None:
        return bool(found) == (asked.present is not False)
    return any(_text_matches(asked, None, value) for value in found)


def _bare(asked: RouteHeader | QueryParameter) -> bool:
    return all(each is None for each in (asked.exact, asked.prefix, asked.suffix, asked.regex))


def _text_matches(asked: RouteHeader | QueryParameter | Cookie, regex: str | None, value: str) -> bool:
    if asked.exact is not None:
        return value == asked.exact
    if asked.prefix is not None:
        return value.startswith(asked.prefix)
    if asked.suffix is not None:
        return value.endswith(asked.suffix)
    return regex is None or re.fullmatch(regex, value) is not None


def _changed(request: Request, changes: HeaderChanges) -> Request:
    """Removed first, then set, then added."""
    gone = {*changes.remove, *changes.set}
    kept = tuple(each for each in request.headers if each[0] not in gone)
    return replace(request, headers=(*kept, *changes.set.items(), *changes.add.items()))


def _rewritten(path: str, rewrite: Rewrite, match: RouteMatch) -> str:
    if rewrite.path is not None:
        return rewrite.path
    if rewrite.path_regex is not None:
        written = rewrite.path_regex.substitution
        return re.sub(rewrite.path_regex.pattern, lambda found: _filled_in(written, found), path)
    if rewrite.path_prefix is None:
        return path
    bare, matched = rewrite.path_prefix.rstrip("/"), (match.path_prefix or "/").rstrip("/")
    rest = path[len(matched) :]
    return bare + rest if bare else "/" + rest.lstrip("/")


def _filled_in(written: str, found: re.Match[str]) -> str:
    return re.sub(r"\\(\d|\\)", lambda part: "\\" if part[1] == "\\" else found[int(part[1])] or "", written)
