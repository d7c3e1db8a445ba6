"""Conditions on a request -> Envoy matchers."""

from __future__ import annotations

from envoy.config.rbac.v3.rbac_pb2 import Permission as RbacPermission
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from meshagent.model.intention import Action, HeaderMatch, HttpMatch


def request_permission(match: HttpMatch, action: Action) -> RbacPermission:
    """An RBAC permission that holds when every condition of a permission with this action does."""
    conditions = [*_methods(match), *_path(match), *(_header(header, action) for header in match.headers)]
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


def _header(match: HeaderMatch, action: Action) -> RbacPermission:
    """An allow needs every value of the header, a deny one; inverted, it is the other way round."""
    if match.exact is None and match.prefix is None and match.suffix is None:
        permission = RbacPermission()
        permission.header.name = match.name
        permission.header.present_match = match.present is not False
        return _not(permission) if match.invert else permission
    if match.invert:
        return _not(_every_value(match) if action == "deny" else _some_value(match))
    return _some_value(match) if action == "deny" else _every_value(match)


def _every_value(match: HeaderMatch) -> RbacPermission:
    """One value matches, none does not, and none is a list.

    Envoy 1.40 asks each value by itself and takes one that matches; before, it joined them with commas (CVE-2026-26308). There
    is no "all of them" (`invert_match` says "none"), so what must not be there is spelled out as a pattern. This way both agree.
    """
    every = RbacPermission()
    every.and_rules.rules.append(_header_permission(match.name, _plain_text(match)))
    every.and_rules.rules.append(_not(_header_permission(match.name, StringMatcher(contains=","))))
    every.and_rules.rules.append(_not(_header_permission(match.name, _regex(_unlike(match)))))
    return every


def _some_value(match: HeaderMatch) -> RbacPermission:
    """One value matches, or one element of a list."""
    return _header_permission(match.name, _regex(_element(match)))


def _plain_text(match: HeaderMatch) -> StringMatcher:
    if match.exact is not None:
        return StringMatcher(exact=match.exact)
    if match.prefix is not None:
        return StringMatcher(prefix=match.prefix)
    return StringMatcher(suffix=match.suffix or "")


def _element(match: HeaderMatch) -> str:
    before, after = "(?:.*,)?[ \\t]*", "[ \\t]*(?:,.*)?"
    if match.exact is not None:
        return f"{before}{_quoted(match.exact)}{after}"
    if match.prefix is not None:
        return f"{before}{_quoted(match.prefix)}.*"
    return f".*{_quoted(match.suffix or '')}{after}"


def _unlike(match: HeaderMatch) -> str:
    """A pattern for every text that does not match: it differs at some letter, or ends too soon, or goes on too long."""
    if match.exact is not None:
        return _leaves(match.exact, ".+")
    if match.prefix is not None:
        return _leaves(match.prefix, "")
    text = match.suffix or " "
    pattern = f"(?:.*{_other(text[0])})?"
    for letter in text[1:]:
        pattern = f"(?:(?:.*{_other(letter)})?|{pattern}{_quoted(letter)})"
    return pattern


def _leaves(text: str, more: str) -> str:
    """Every text that leaves `text` at some letter or ends within it, or goes on after it with `more`, where that is given."""
    pattern = more
    for letter in reversed(text):
        further = f"|{_quoted(letter)}{pattern}" if pattern else ""
        pattern = f"(?:{_other(letter)}.*{further})?"
    return pattern


def _other(letter: str) -> str:
    return f"[^\\x{{{ord(letter):X}}}]"


def _quoted(text: str) -> str:
    return "".join(letter if letter.isalnum() else f"\\x{{{ord(letter):X}}}" for letter in text)


def _not(permission: RbacPermission) -> RbacPermission:
    inverted = RbacPermission()
    inverted.not_rule.CopyFrom(permission)
    return inverted


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
