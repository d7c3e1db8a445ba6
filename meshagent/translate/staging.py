"""In which order a change reaches Envoy where the order of xDS is not enough. Pure.

Envoy answers 503 for a route to a cluster that it does not have yet, and a new cluster waits for its endpoints: so routes
to new clusters follow when these are in force. And a split leaves a target before its last endpoint goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

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
    """Whether some way leads to less than before, and none to anything else."""
    pairs = list(zip(before.ways, after.ways, strict=False))
    if (before.source, before.upstream) != (after.source, after.upstream):
        return False
    same = len(before.ways) == len(after.ways) and all(old.rule == new.rule for old, new in pairs)
    within = same and all(target in old.to for old, new in pairs for target in new.to)
    return within and any(len(new.to) < len(old.to) for old, new in pairs)


def leaving(before: Iterable[object], after: Iterable[Outbound]) -> list[Outbound]:
    """The outbounds that lead to less than they did, compared place by place."""
    pairs = ((old, new) for old, new in zip(before, after, strict=False) if old is not new)
    return [new for old, new in pairs if isinstance(old, Outbound) and old.ways and leaves(old, new)]
