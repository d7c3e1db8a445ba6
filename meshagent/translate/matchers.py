"""Conditions on a request -> Envoy matchers."""

from __future__ import annotations

from envoy.config.rbac.v3.rbac_pb2 import Permission as RbacPermission
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from meshagent.model.intention import HeaderMatch, HttpMatch


def request_permission(match: HttpMatch) -> RbacPermission:
    """An RBAC permission that holds when every condition does."""
    conditions = [*_methods(match), *_path(match), *(_header(header) for header in match.headers)]
    if len(conditions) == 1:
        return conditions[0]
    every = RbacPermission()
    every.and_rules.rules.extend(conditions)
    return every


def _methods(match: HttpMatch) -> list[RbacPermission]:
    if not match.methods:
        return []
    return [_any([_header_permission(":method", StringMatcher(exact=method)) for method in match.methods])]


def _path(match: HttpMatch) -> list[RbacPermission]:
    """`url_path` looks at the normalised path without query and fragment."""
    ignore_case = match.ignore_case
    if match.path_exact is not None:
        return [_url_path(StringMatcher(exact=match.path_exact, ignore_case=ignore_case))]
    if match.path_prefix is not None:
        # A prefix ends at a segment: /reports covers /reports and /reports/x, not /reportsx.
        bare = match.path_prefix.rstrip("/")
        below = _url_path(StringMatcher(prefix=bare + "/", ignore_case=ignore_case))
        return [_any([_url_path(StringMatcher(exact=bare, ignore_case=ignore_case)), below]) if bare else below]
    if match.path_regex is not None:
        return [_url_path(_regex(f"(?i:{match.path_regex})" if ignore_case else match.path_regex))]
    return []


def _header(match: HeaderMatch) -> RbacPermission:
    condition = _header_condition(match)
    if not match.invert:
        return condition
    # Not `invert_match`: that does not match an absent header, while "not fin" should.
    inverted = RbacPermission()
    inverted.not_rule.CopyFrom(condition)
    return inverted


def _header_condition(match: HeaderMatch) -> RbacPermission:
    if match.exact is not None:
        return _header_permission(match.name, StringMatcher(exact=match.exact))
    if match.prefix is not None:
        return _header_permission(match.name, StringMatcher(prefix=match.prefix))
    if match.suffix is not None:
        return _header_permission(match.name, StringMatcher(suffix=match.suffix))
    if match.regex is not None:
        return _header_permission(match.name, _regex(match.regex))
    permission = RbacPermission()
    permission.header.name = match.name
    permission.header.present_match = match.present is not False
    return permission


def _header_permission(name: str, value: StringMatcher) -> RbacPermission:
    permission = RbacPermission()
    permission.header.name = name
    permission.header.string_match.CopyFrom(value)
    return permission


def _url_path(value: StringMatcher) -> RbacPermission:
    permission = RbacPermission()
    permission.url_path.path.CopyFrom(value)
    return permission


def _regex(pattern: str) -> StringMatcher:
    matcher = StringMatcher()
    matcher.safe_regex.regex = pattern
    return matcher


def _any(conditions: list[RbacPermission]) -> RbacPermission:
    if len(conditions) == 1:
        return conditions[0]
    either = RbacPermission()
    either.or_rules.rules.extend(conditions)
    return either
