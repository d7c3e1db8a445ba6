"""explain(guard, source, request) -> Verdict: which rule decides, and why. The same answer as the generated Envoy config."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from meshagent.model.intention import Action, HeaderMatch, HttpMatch
from meshagent.model.view import Guard, Rule
from meshagent.policy.request import Malformed, Request, judged_path, refused_header

Outcome = Literal["allow", "deny", "depends", "malformed"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`depends` is given only without a request: an L7 rule decides each request by itself."""

    outcome: Outcome
    rule: Rule | None
    permission: int | None  # index of the deciding permission of the rule
    why: str

    @property
    def allowed(self) -> bool:
        """Whether the call goes through."""
        return self.outcome == "allow"


def explain(guard: Guard, source: str, request: Request | None = None) -> Verdict:
    """The verdict on a call of `source` (a service's name, proven by its certificate) to the guard's destination."""
    rule = guard.rule_for(source)
    if request is not None and (fault := _malformed(request)):
        return Verdict(
            "malformed", rule, None, f"the request has {fault}: answered 400 before any intention is looked at"
        )
    if rule is None:
        return Verdict(
            guard.default,
            None,
            None,
            f"no intention names {source} -> {guard.destination}; the mesh's default is {default_words(guard)}",
        )
    if rule.action is not None:
        return Verdict(rule.action, rule, None, f"intention {rule.id} says {rule.action}")
    if request is None:
        return Verdict("depends", rule, None, f"intention {rule.id} decides by request: give a method and a path")
    return _by_permission(rule, request)


def doubted(guard: Guard, source: str, request: Request | None = None) -> Verdict | None:
    """How the shadow would refuse a call that passes; None where it would pass as well, or does not pass now."""
    if guard.shadow is None or explain(guard, source, request).outcome not in ("allow", "depends"):
        return None
    would = explain(guard.shadow, source, request)
    return None if would.allowed or would == explain(guard, source, request) else would


def default_words(guard: Guard) -> str:
    """The mesh's default as its document has it."""
    doubtful = guard.default == "allow" and guard.shadow is not None and guard.shadow.default == "deny"
    return "shadow-deny" if doubtful else guard.default


def matches(match: HttpMatch, request: Request, action: Action) -> bool:
    """Whether a well-formed request meets every condition of a permission with this action."""
    path = judged_path(request.path)
    if isinstance(path, Malformed):
        return False
    methods = not match.methods or request.method in match.methods
    return (
        methods and _path_matches(match, path) and all(_header_matches(each, request, action) for each in match.headers)
    )


def _malformed(request: Request) -> str | None:
    path = judged_path(request.path)
    if isinstance(path, Malformed):
        return path.reason
    name = refused_header(request)
    return f"a header name with an underscore ({name})" if name else None


def _by_permission(rule: Rule, request: Request) -> Verdict:
    for index, permission in enumerate(rule.permissions):
        if matches(permission.http, request, permission.action):
            return Verdict(
                permission.action, rule, index, f"permission {index} of intention {rule.id} says {permission.action}"
            )
    return Verdict("deny", rule, None, f"no permission of intention {rule.id} matches the request")


def _path_matches(match: HttpMatch, path: str) -> bool:
    flags = re.IGNORECASE if match.ignore_case else 0
    if match.path_regex is not None:
        return re.fullmatch(match.path_regex, path, flags) is not None
    wanted, seen = match.path_exact or match.path_prefix, path
    if wanted is None:
        return True
    if match.ignore_case:
        wanted, seen = wanted.lower(), seen.lower()
    return seen == wanted if match.path_exact is not None else _below(seen, wanted)


def _below(path: str, prefix: str) -> bool:
    """A prefix ends at a segment: /reports covers /reports and /reports/x, not /reportsx."""
    return path == prefix.rstrip("/") or path.startswith(prefix.rstrip("/") + "/")


def _header_matches(match: HeaderMatch, request: Request, action: Action) -> bool:
    """An allow needs every value, a deny one; inverted, it is the other way round. Either way more values open nothing."""
    values = request.values(match.name)
    if match.present is not None or not _has_text(match):
        return (bool(values) == (match.present is not False)) != match.invert
    every = bool(values) and all(_text_matches(match, value) and "," not in value for value in values)
    some = any(_text_matches(match, part.strip(" \t")) for value in values for part in value.split(","))
    wide = some if action == "deny" else every
    narrow = every if action == "deny" else some
    return not narrow if match.invert else wide


def _has_text(match: HeaderMatch) -> bool:
    return match.exact is not None or match.prefix is not None or match.suffix is not None


def _text_matches(match: HeaderMatch, value: str) -> bool:
    if match.exact is not None:
        return value == match.exact
    if match.prefix is not None:
        return value.startswith(match.prefix)
    return value.endswith(match.suffix or "")
