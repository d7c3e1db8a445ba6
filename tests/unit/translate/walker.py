"""Judges a call by walking the generated Envoy RBAC filter, knowing nothing of our policy model.

It reads the messages as Envoy's documentation defines them (config.rbac.v3, type.matcher.v3), for the fields that we use,
and fails on any other.
"""

from __future__ import annotations

import re

from envoy.extensions.rbac.principals.mtls_authenticated.v3.mtls_authenticated_pb2 import Config as MtlsAuthenticated

JOIN = False  # whether several values of a header are compared as one, joined by commas


def allowed(rules, uri_sans, request, path) -> bool:
    """`path` is the normalised path; an ALLOW list lets through what any policy matches."""
    assert rules.action == rules.ALLOW
    return any(
        any(_permission(permission, request, path) for permission in policy.permissions)
        and any(_principal(principal, uri_sans) for principal in policy.principals)
        for policy in rules.policies.values()
    )


def _permission(permission, request, path) -> bool:
    kind = permission.WhichOneof("rule")
    if kind == "any":
        return permission.any
    if kind == "and_rules":
        return all(_permission(each, request, path) for each in permission.and_rules.rules)
    if kind == "or_rules":
        return any(_permission(each, request, path) for each in permission.or_rules.rules)
    if kind == "not_rule":
        return not _permission(permission.not_rule, request, path)
    if kind == "url_path":
        return _string(permission.url_path.path, path)
    assert kind == "header", kind
    return _header(permission.header, request)


def _header(matcher, request) -> bool:
    values = (request.method,) if matcher.name == ":method" else request.values(matcher.name)
    assert not matcher.invert_match and not matcher.treat_missing_header_as_empty
    if matcher.WhichOneof("header_match_specifier") == "present_match":
        return bool(values) == matcher.present_match
    assert matcher.WhichOneof("header_match_specifier") == "string_match"
    # Envoy 1.40 asks each value by itself, earlier ones joined them: what we generate must mean the same to both.
    joined = bool(values) and _string(matcher.string_match, ",".join(values))
    return joined if JOIN else any(_string(matcher.string_match, value) for value in values)


def _string(matcher, value) -> bool:
    kind = matcher.WhichOneof("match_pattern")
    if kind == "safe_regex":
        return re.fullmatch(_python(matcher.safe_regex.regex), value) is not None
    wanted = getattr(matcher, kind)
    if matcher.ignore_case:
        wanted, value = wanted.lower(), value.lower()
    found = {"exact": value == wanted, "prefix": value.startswith(wanted), "suffix": value.endswith(wanted)}
    return found.get(kind, wanted in value)


def _python(pattern) -> str:
    """RE2's spelling of a character by its number, in Python's."""
    return re.sub(r"\\x\{([0-9A-F]+)\}", lambda match: f"\\U{int(match[1], 16):08x}", pattern)


def _principal(principal, uri_sans) -> bool:
    kind = principal.WhichOneof("identifier")
    if kind == "any":
        return principal.any
    if kind == "and_ids":
        return all(_principal(each, uri_sans) for each in principal.and_ids.ids)
    if kind == "or_ids":
        return any(_principal(each, uri_sans) for each in principal.or_ids.ids)
    if kind == "not_id":
        return not _principal(principal.not_id, uri_sans)
    assert kind == "custom", kind
    config = MtlsAuthenticated()
    assert principal.custom.typed_config.Unpack(config)
    return any(_string(config.san_matcher.matcher, uri) for uri in uri_sans)
