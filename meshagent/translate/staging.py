"""In which order a change reaches Envoy where the order of xDS is not enough. Pure.

Envoy answers 503 for a route to a cluster that it does not have yet, and a new cluster waits for its endpoints: so routes
to new clusters follow when these are in force. And a split leaves a target before its last endpoint goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from meshagent.model.route import RouteRule, Target
from meshagent.model.view import Outbound
from meshagent.xds.types import CDS, ECDS, RDS

Key = tuple[str, str]
_WAYS = ("out/", "gateway/")
_LED_TO = ("out/", "plain/")  # clusters: of the mesh's instances, and of those that take plain text


def staged(
    changed: Mapping[Key, bytes], is_new: Callable[[str], bool]
) -> tuple[Mapping[Key, bytes], Mapping[Key, bytes]]:
    """What goes at once, and what goes when that is in force: nothing, unless a cluster is new that a way may lead to."""
    if not any(kind == CDS and name.startswith(_LED_TO) and is_new(name) for kind, name in changed):
        return changed, {}
    ways = {key: value for key, value in changed.items() if key[0] in (RDS, ECDS) and key[1].startswith(_WAYS)}
    return {key: value for key, value in changed.items() if key not in ways}, ways


def leaves(before: Outbound, after: Outbound) -> bool:
    """Whether some way leads to a place no more, and none to anything else but what could be called before."""
    pairs = list(zip(before.ways, after.ways, strict=False))
    if (before.source, before.upstream) != (after.source, after.upstream):
        return False
    same = len(before.ways) == len(after.ways) and all(_alike(old.rule, new.rule) for old, new in pairs)
    within = same and all(target in old.to or _was_there(target, before) for old, new in pairs for target in new.to)
    return within and any(_places(old.to) - _places(new.to) for old, new in pairs)


def _alike(old: RouteRule, new: RouteRule) -> bool:
    """Whether two rules say the same but for where they lead."""
    return old == new or all(
        getattr(old, each) == getattr(new, each) for each in RouteRule.model_fields if each != "to"
    )


def _places(targets: Iterable[Target]) -> set[tuple[str | None, str | None]]:
    return {(target.service, target.subset) for target in targets}


def _was_there(target: Target, before: Outbound) -> bool:
    """Whether a target had an instance in service that this caller knew."""
    known = {before.upstream: before} | {each.upstream: each for each in before.beyond if not each.subset}
    place = known.get(target.service or before.upstream)
    return place is not None and place.serves(target.subset)


def leaving(before: Iterable[object], after: Iterable[Outbound]) -> list[Outbound]:
    """The outbounds that lead to less than they did, compared place by place."""
    pairs = ((old, new) for old, new in zip(before, after, strict=False) if old is not new)
    return [new for old, new in pairs if isinstance(old, Outbound) and old.ways and leaves(old, new)]
