"""Upstreams outside the mesh -> what the callers' own proxy does with calls of them. Pure.

There is no proxy at the other end, so the caller's judges by itself: by the intentions on the external's name, with the
same precedence and default as for any destination. The operators' document wins over what anybody registers under the
name: a registration can neither take over calls that are meant for the outside, nor open a way there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from meshagent.model.external import External
from meshagent.model.service import Upstream
from meshagent.model.view import Egress, Guard, ProxyView
from meshagent.model.world import Local, World
from meshagent.policy.cuts import stricter
from meshagent.policy.precedence import guard

Egresses = tuple[Egress, ...]
Key = tuple[str, str, int, str]


def egresses_of(world: World, locals_: tuple[Local, ...], previous: ProxyView | None, now: datetime) -> Egresses:
    """Every declared upstream that is a name outside the mesh, in order. Those of `previous` where they are the same."""
    if not world.externals:
        return ()
    before = {_key(each): each for each in previous.egresses} if previous else {}
    found: dict[Key, Egress] = {}
    for local, upstream, external in _declared(world, locals_):
        new = _egress(world, local.definition.name, upstream, external, now)
        old = before.get(_key(new))
        if old:
            new = replace(new, cut=old.cut + int(stricter(old.guard, new.guard, new.source)))
        found.setdefault(_key(new), old if old == new else new)
    return tuple(found[key] for key in sorted(found))


def called_outside(world: World, locals_: tuple[Local, ...]) -> frozenset[str]:
    """The names outside the mesh that services here declare to call."""
    return frozenset(external.name for _, _, external in _declared(world, locals_))


def egress_guard(world: World, source: str, external: External, now: datetime) -> Guard:
    """What decides calls of this source. What others may do is none of its proxy's business."""
    whole = guard(external.name, external.protocol, world.mesh, world.intentions, now)
    shadow = _of(whole.shadow, source) if whole.shadow and whole.doubts(source) else None
    return replace(_of(whole, source), shadow=shadow)


def _of(whole: Guard, source: str) -> Guard:
    rule = whole.rule_for(source)
    return replace(whole, rules=(rule,) if rule else ())


def _declared(world: World, locals_: tuple[Local, ...]) -> Iterator[tuple[Local, Upstream, External]]:
    for local in locals_:
        for upstream in local.definition.upstreams:
            if stated := world.externals.get(upstream.service):
                yield local, upstream, stated.thing


def _egress(world: World, source: str, upstream: Upstream, external: External, now: datetime) -> Egress:
    return Egress(
        source=source,
        external=external,
        guard=egress_guard(world, source, external, now),
        local_port=upstream.local_port or 0,
        local_socket=upstream.local_socket or "",
        socket_mode=upstream.mode,
    )


def _key(egress: Egress) -> Key:
    return (egress.source, egress.upstream, egress.local_port, egress.local_socket)
