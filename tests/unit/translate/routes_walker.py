"""Finds the way of a request by walking a generated route configuration, knowing nothing of our policy model.

It reads the messages as Envoy's documentation defines them (config.route.v3, type.matcher.v3), for the fields that we
use, and fails on any other.
"""

from __future__ import annotations

import re

from tests.unit.translate.walker import _python, _string

READ = {
    "prefix", "path", "safe_regex", "path_separated_prefix", "case_sensitive", "headers", "query_parameters", "grpc",
}  # fmt: skip


def route_of(configuration, request, path):
    """The first route that the request meets. `path` is the normalised path."""
    (host,) = configuration.virtual_hosts
    return next(route for route in host.routes if _meets(route.match, request, path))


def _meets(match, request, path):
    assert {field.name for field, _ in match.ListFields()} <= READ
    return (
        _path(match, path)
        and all(_header(each, request) for each in match.headers)
        and all(_parameter(each, request.path) for each in match.query_parameters)
        and (not match.HasField("grpc") or any(_grpc(value) for value in request.values("content-type")))
    )


def _path(match, path):
    kind = match.WhichOneof("path_specifier")
    if kind == "safe_regex":
        return re.fullmatch(_python(match.safe_regex.regex), path) is not None
    wanted = getattr(match, kind)
    if match.HasField("case_sensitive") and not match.case_sensitive.value:
        wanted, path = wanted.lower(), path.lower()
    if kind == "path":
        return path == wanted
    return path == wanted or path.startswith(wanted if kind == "prefix" else wanted + "/")


def _header(matcher, request):
    values = (request.method,) if matcher.name == ":method" else request.values(matcher.name)
    kind = matcher.WhichOneof("header_match_specifier")
    if kind == "present_match":
        assert not matcher.invert_match
        return bool(values) == matcher.present_match
    assert kind == "string_match"
    if not values:
        if not matcher.treat_missing_header_as_empty:
            return False
        values = ("",)
    return any(_string(matcher.string_match, value) for value in values) != matcher.invert_match


def _parameter(matcher, path):
    parts = [each.partition("=") for each in path.partition("?")[2].split("&")] if "?" in path else []
    values = [value for name, _, value in parts if name == matcher.name]
    if matcher.WhichOneof("query_parameter_match_specifier") == "present_match":
        return bool(values) == matcher.present_match
    return bool(values) and _string(matcher.string_match, values[0])


def _grpc(value):
    return value == "application/grpc" or value.startswith("application/grpc+")
