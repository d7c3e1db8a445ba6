"""Conditions of routes -> Envoy's route matchers. policy/routing.py judges by the same rules."""

from __future__ import annotations

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.config.route.v3.route_components_pb2 import RouteMatch as EnvoyMatch
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from meshagent.model.matching import Cookie, GrpcCall, QueryParameter, RouteHeader, RouteMatch

_ANY_VALUE = "[^;]*"


def choose_by(match: EnvoyMatch, asked: RouteMatch) -> None:
    """Fill in what a request must look like. Who calls and from where was decided before."""
    _path(match, asked)
    if asked.methods:
        match.headers.append(_method(asked.methods))
    match.headers.extend(header_condition(each) for each in asked.headers)
    match.headers.extend(_cookie(each) for each in asked.cookies)
    for parameter in asked.query:
        condition = match.query_parameters.add(name=parameter.name)
        if text := _text(parameter):
            condition.string_match.CopyFrom(text)
        else:
            condition.present_match = parameter.present is not False


def header_condition(asked: RouteHeader) -> HeaderMatcher:
    """A condition on a header. Any of several values may meet it, each by itself (Envoy 1.40)."""
    condition = HeaderMatcher(name=asked.name)
    if text := _text(asked):
        condition.string_match.CopyFrom(text)
        condition.invert_match = condition.treat_missing_header_as_empty = asked.invert
    else:
        condition.present_match = (asked.present is not False) != asked.invert
    return condition


def quoted(text: str) -> str:
    """The text as a pattern that means only itself."""
    return "".join(letter if letter.isalnum() else f"\\x{{{ord(letter):X}}}" for letter in text)


def prefix_pattern(prefix: str, *, ignore_case: bool) -> str:
    """What a prefix matches, and the slashes behind it."""
    return f"^{'(?i)' if ignore_case else ''}{quoted(prefix.rstrip('/'))}/*"


def _path(match: EnvoyMatch, asked: RouteMatch) -> None:
    """A prefix ends at a segment, as in intentions: /reports covers /reports and /reports/x, not /reportsx."""
    if asked.grpc:
        _call(match, asked.grpc)
    elif asked.path_exact is not None:
        match.path = asked.path_exact
    elif asked.path_regex is not None:
        match.safe_regex.regex = asked.path_regex
    elif asked.path_prefix is not None and (bare := asked.path_prefix.rstrip("/")):
        match.path_separated_prefix = bare
    else:
        match.prefix = "/"
    if asked.ignore_case:
        match.case_sensitive.value = False


def _call(match: EnvoyMatch, call: GrpcCall) -> None:
    match.grpc.SetInParent()
    if call.method:
        match.path = f"/{call.service}/{call.method}"
    else:
        match.prefix = f"/{call.service}/"


def _method(methods: tuple[str, ...]) -> HeaderMatcher:
    condition = HeaderMatcher(name=":method")
    if len(methods) == 1:
        condition.string_match.exact = methods[0]
    else:
        condition.string_match.safe_regex.regex = "|".join(map(quoted, methods))
    return condition


def _cookie(asked: Cookie) -> HeaderMatcher:
    """Envoy 1.40 knows no cookies in routes: a pattern for a header that has such a cookie among others."""
    value = _ANY_VALUE
    if asked.exact is not None:
        value = quoted(asked.exact)
    elif asked.prefix is not None:
        value = quoted(asked.prefix) + _ANY_VALUE
    elif asked.suffix is not None:
        value = _ANY_VALUE + quoted(asked.suffix)
    condition = HeaderMatcher(name="cookie")
    condition.string_match.safe_regex.regex = f"(?:.*;)?[ \\t]*{quoted(asked.name)}={value}[ \\t]*(?:;.*)?"
    condition.invert_match = condition.treat_missing_header_as_empty = asked.present is False
    return condition


def _text(asked: RouteHeader | QueryParameter) -> StringMatcher | None:
    """What the value must look like; None where it is only asked whether there is one."""
    text = StringMatcher()
    if asked.exact is not None:
        text.exact = asked.exact
    elif asked.prefix is not None:
        text.prefix = asked.prefix
    elif asked.suffix is not None:
        text.suffix = asked.suffix
    elif asked.regex is not None:
        text.safe_regex.regex = asked.regex
    else:
        return None
    return text
