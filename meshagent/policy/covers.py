"""covers(wide, narrow): whether every request of one match is one of another, as far as that can be told for certain. Pure."""

from __future__ import annotations

from meshagent.model.intention import HttpMatch
from meshagent.model.matching import RouteMatch


def covers(wide: HttpMatch, narrow: HttpMatch) -> bool:
    """Whether every request that `narrow` matches is matched by `wide`."""
    return _of_each(wide.methods, narrow.methods) and set(wide.headers) <= set(narrow.headers) and _path(wide, narrow)


def covers_route(wide: RouteMatch, narrow: RouteMatch) -> bool:
    """The same for routes: of a call from every source and region that `narrow` names."""
    return (
        all(_of_each(getattr(wide, name), getattr(narrow, name)) for name in ("methods", "sources", "regions"))
        and all(set(getattr(wide, name)) <= set(getattr(narrow, name)) for name in ("headers", "query", "cookies"))
        and _grpc(wide, narrow)
        and _path(wide, narrow)
    )


def _of_each(wide: tuple[str, ...], narrow: tuple[str, ...]) -> bool:
    """Nothing named is everything."""
    return not wide or (bool(narrow) and set(narrow) <= set(wide))


def _grpc(wide: RouteMatch, narrow: RouteMatch) -> bool:
    if wide.grpc is None:
        return True
    if narrow.grpc is None or narrow.grpc.service != wide.grpc.service:
        return False
    return wide.grpc.method in (None, narrow.grpc.method)


def _path(wide: HttpMatch | RouteMatch, narrow: HttpMatch | RouteMatch) -> bool:
    if wide.path_exact is None and wide.path_prefix is None and wide.path_regex is None:
        return True
    if narrow.ignore_case and not wide.ignore_case:
        return False
    if wide.path_regex is not None:
        return wide.path_regex == narrow.path_regex
    if wide.path_exact is not None:
        return narrow.path_exact is not None and _folded(wide, wide.path_exact) == _folded(wide, narrow.path_exact)
    path = narrow.path_exact or narrow.path_prefix
    prefix = _folded(wide, wide.path_prefix or "").rstrip("/")
    if path is None:
        return not prefix  # every path is below /
    return (_folded(wide, path).rstrip("/") + "/").startswith(prefix + "/")


def _folded(match: HttpMatch | RouteMatch, path: str) -> str:
    return path.lower() if match.ignore_case else path
