"""What the destination sees in place of the path and the host. Envoy keeps the query."""

from __future__ import annotations

from envoy.config.route.v3.route_components_pb2 import RedirectAction, RouteAction

from meshagent.model.matching import RouteMatch
from meshagent.model.route import Rewrite
from meshagent.translate.choosing import prefix_pattern


def rewritten(action: RouteAction, asked: Rewrite, match: RouteMatch) -> None:
    """Another path, another host, or both."""
    if asked.host is not None:
        action.host_rewrite_literal = asked.host
    if asked.path is not None:
        _replace(action, "^.*$", asked.path.replace("\\", "\\\\"))
    elif asked.path_regex is not None:
        _replace(action, asked.path_regex.pattern, asked.path_regex.substitution)
    elif asked.path_prefix is not None:
        move_prefix(action, match, asked.path_prefix)


def move_prefix(action: RouteAction | RedirectAction, match: RouteMatch, to: str) -> None:
    """Put another prefix in the place of the matched one: /a -> /b makes /b of /a and /b/x of /a/x.

    Envoy puts texts together as they are, which makes //x of /a/x when `to` is / (measured), so / is reached by a pattern.
    """
    bare, matched = to.rstrip("/"), (match.path_prefix or "/").rstrip("/")
    if not matched:
        action.prefix_rewrite = f"{bare}/"
    elif bare:
        action.prefix_rewrite = bare
    else:
        _replace(action, prefix_pattern(matched, ignore_case=match.ignore_case), "/")


def _replace(action: RouteAction | RedirectAction, pattern: str, substitution: str) -> None:
    action.regex_rewrite.pattern.regex = pattern
    action.regex_rewrite.substitution = substitution
