"""The way of a call as plain data and as words: which rule of a route decides, where requests go, as what they arrive."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from meshagent.cli.rules import Data, origin_data
from meshagent.model.route import RouteRule, Target
from meshagent.model.service import Instance
from meshagent.model.view import Outbound, Way
from meshagent.model.world import World
from meshagent.policy.request import Malformed, Request, judged_path
from meshagent.policy.routing import arriving, way_of
from meshagent.policy.ways import place


@dataclass(frozen=True, slots=True)
class Journey:
    """Where a call goes: the way (None: to the destination itself), and each target with the request it gets.

    No targets: the caller's proxy answers by itself. `undecided`: a route decides by request, and none is given.
    """

    way: Way | None
    targets: tuple[tuple[Target, Request | None], ...]
    undecided: bool = False


def journey(outbound: Outbound, request: Request | None) -> Journey:
    """The way of a request, or of a TCP connection."""
    itself = ((Target(service=outbound.upstream), request),)
    if outbound.by_request and (request is None or isinstance(judged_path(request.path), Malformed)):
        return Journey(None, itself, undecided=request is None and bool(outbound.ways))
    way = way_of(outbound.ways, request) if request else next(iter(outbound.ways), None)
    if way is None:
        return Journey(None, itself)
    rule = way.rule
    if rule.redirect or rule.respond or way.nowhere:
        return Journey(way, ())
    named = (_full(target, outbound.upstream) for target in way.to or (Target(),))
    return Journey(way, tuple((target, request and _sent(request, rule, target)) for target in named))


def way_data(found: Journey, upstream: str) -> Data | None:
    """The deciding rule; None where no route has a say."""
    if found.way is None:
        return {"undecided": True} if found.undecided else None
    whole = sum(target.weight for target, _ in found.targets) or 1
    shares = [
        {
            "service": target.service,
            "subset": target.subset,
            "percent": round(100 * target.weight / whole, 4),
            "path": request.path if request else None,
        }
        for target, request in found.targets
    ]
    dropped = [_full(target, upstream) for target in found.way.rule.to if target not in found.way.to and target.weight]
    return {
        "rule": found.way.index,
        "name": found.way.rule.name,
        "answer": _answer(found.way),
        "targets": shares,
        "left_out": [{"service": target.service, "subset": target.subset} for target in dropped],
        "origin": origin_data(found.way.origin),
    }


def way_words(found: Journey, upstream: str) -> str:
    """The same for a person; empty where no route has a say."""
    if found.undecided:
        return "  route    decides by request: give a method and a path"
    data = way_data(found, upstream)
    if data is None or found.way is None:
        return ""
    name = f" ({data['name']})" if data["name"] else ""
    towards = ", ".join(_share_words(each, len(data["targets"])) for each in data["targets"]) or data["answer"]
    lines = [f"  route    rule {data['rule']}{name} of route {upstream}: {towards}"]
    if data["left_out"]:
        lines.append(f"  without  {', '.join(map(_place_words, data['left_out']))}: no instance in service")
    lines.append(f"           from {found.way.origin}")
    return "\n".join(lines)


def called(found: Journey, world: World) -> tuple[tuple[Instance, bool], ...]:
    """The instances of the services that the way leads to, and whether each is called."""
    wanted: dict[str, list[str | None]] = {}
    for target, _ in found.targets:
        wanted.setdefault(target.service or "", []).append(target.subset)
    return tuple(
        (each, each.health == "passing" and _chosen(subsets, _subsets(world, each)))
        for service, subsets in wanted.items()
        for each in world.instances.get(service, ())
    )


def region_of(world: World, source: str) -> str:
    """Where the source's instances stand, when they all stand in one region; else nothing is known."""
    regions = {each.region for each in world.instances.get(source, ())}
    return regions.pop() if len(regions) == 1 else ""


def _full(target: Target, upstream: str) -> Target:
    return target.model_copy(update={"service": place(target, upstream)})


def _sent(request: Request, rule: RouteRule, target: Target) -> Request:
    changes = (target.headers.request, rule.headers.request)
    return arriving(request, rule.rewrite, rule.match, changes)


def _answer(way: Way) -> str:
    """What the caller's proxy answers by itself, in words."""
    if way.rule.redirect:
        return f"answered {way.rule.redirect.status}, a redirect, by the caller's proxy"
    if way.rule.respond:
        return f"answered {way.rule.respond.status} by the caller's proxy"
    return "answered 503 by the caller's proxy: none of its targets can be called" if way.nowhere else ""


def _share_words(share: Data, count: int) -> str:
    percent = f"{share['percent']:g} % to " if count > 1 else "to "
    return percent + _place_words(share) + (f" as {share['path']}" if share["path"] else "")


def _place_words(data: Data) -> str:
    return f"{data['service']} (subset {data['subset']})" if data["subset"] else str(data["service"])


def _chosen(wanted: Iterable[str | None], subsets: Collection[str]) -> bool:
    return any(name is None or name in subsets for name in wanted)


def _subsets(world: World, instance: Instance) -> tuple[str, ...]:
    stated = world.services.get(instance.service)
    return stated.thing.subsets_of(instance.meta) if stated else ()
