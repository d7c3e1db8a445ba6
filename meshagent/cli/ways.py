"""The way of a call as plain data and as words: which rule of a route decides, where requests go, as what they arrive.

A target that has no instance in service is told as what it fails over to.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshagent.cli.rules import Data, origin_data
from meshagent.model.route import RouteRule, Target
from meshagent.model.service import Instance
from meshagent.model.view import Outbound, Tier, Way
from meshagent.model.world import World
from meshagent.policy.failover import Landing, landing
from meshagent.policy.request import Malformed, Request, judged_path
from meshagent.policy.routing import arriving, way_of
from meshagent.policy.tiers import tier_of
from meshagent.policy.ways import place


@dataclass(frozen=True, slots=True)
class Journey:
    """Where a call goes: the way (None: to the destination itself), and each target with the request it gets.

    No targets: the caller's proxy answers by itself. `undecided`: a route decides by request, and none is given.
    `landings` says of each target which instances of it are called, and in whose place.
    """

    way: Way | None
    targets: tuple[tuple[Target, Request | None], ...]
    landings: tuple[Landing, ...] = ()
    undecided: bool = False


def journey(outbound: Outbound, request: Request | None) -> Journey:
    """The way of a request, or of a TCP connection."""
    itself = ((Target(service=outbound.upstream), request),)
    if outbound.by_request and (request is None or isinstance(judged_path(request.path), Malformed)):
        return _landed(outbound, None, itself, undecided=request is None and bool(outbound.ways))
    way = way_of(outbound.ways, request) if request else next(iter(outbound.ways), None)
    if way is None:
        return _landed(outbound, None, itself)
    rule = way.rule
    if rule.redirect or rule.respond or way.nowhere:
        return Journey(way, ())
    named = (_full(target, outbound.upstream) for target in way.to or (Target(),))
    return _landed(outbound, way, tuple((target, request and _sent(request, rule, target)) for target in named))


def _landed(
    outbound: Outbound, way: Way | None, named: tuple[tuple[Target, Request | None], ...], *, undecided: bool = False
) -> Journey:
    found = tuple(landing(outbound, target.service or outbound.upstream, target.subset) for target, _ in named)
    targets = (
        (target.model_copy(update={"service": where.service, "subset": where.subset}), request)
        for (target, request), where in zip(named, found, strict=True)
    )
    return Journey(way, tuple(targets), found, undecided)


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
        "answers": bool(found.way.rule.redirect or found.way.rule.respond),
        "fault": found.way.rule.fault is not None,
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


def failover_data(found: Journey) -> list[Data]:
    """What of the calls goes elsewhere than to what is called first, or would: one entry for each service with a failover."""
    rows = [
        {
            "service": each.service,
            "instead_of": list(each.passed),
            "tier": each.tier if each.tiers and each.served else None,
            "tiers": [{"region": tier.region, "zone": tier.zone} for tier in each.tiers],
        }
        for each in found.landings
        if each.tiers or each.passed
    ]
    return [row for number, row in enumerate(rows) if row not in rows[:number]]


def failover_words(found: Journey) -> str:
    """The same for a person; empty where no failover has a say."""
    told = (_landing_words(each) for each in found.landings if each.tiers or each.passed)
    return "\n".join(f"  failover {words}" for words in dict.fromkeys(told))


def _landing_words(found: Landing) -> str:
    if not found.served:
        return f"{found.service}: none of its tiers has an instance in service, nor has what it fails over to"
    passed = f"no instance of {', nor of '.join(found.passed)} is in service" if found.passed else ""
    if not found.tiers:
        return f"{found.service}: {passed}"
    before = f"; none in service in {', '.join(map(tier_words, found.tiers[: found.tier]))}" if found.tier else ""
    here = f"instances in {tier_words(found.tiers[found.tier])} (tier {found.tier + 1} of {len(found.tiers)}){before}"
    return f"{found.service}: " + "; ".join(filter(None, (passed, here)))


def tier_words(tier: Tier) -> str:
    """`zone eu-1a of region eu`, `region eu`, `any place`."""
    region = f"region {tier.region or '(none said)'}"
    if tier.zone is not None:
        return f"zone {tier.zone or '(none said)'}" + (f" of {region}" if tier.region else "")
    return region if tier.region is not None else "any place"


def called(found: Journey, world: World) -> tuple[tuple[Instance, bool], ...]:
    """The instances of the services that the way leads to, and whether each is called."""
    wanted: dict[str, list[Landing]] = {}
    for each in found.landings:
        for service in (*each.passed, each.service):
            wanted.setdefault(service, []).append(each)
    return tuple(
        (instance, instance.health == "passing" and any(_is_called(instance, where, world) for where in landings))
        for service, landings in wanted.items()
        for instance in world.instances.get(service, ())
    )


def _is_called(instance: Instance, where: Landing, world: World) -> bool:
    if instance.service != where.service or where.subset not in (None, *_subsets(world, instance)):
        return False
    return not where.tiers or tier_of(where.tiers, instance.region, instance.zone) == where.tier


def standing(world: World, source: str) -> tuple[str, str]:
    """The region and zone of the source's instances, as far as they all stand in one; else nothing is known."""
    instances = world.instances.get(source, ())
    zones = {(each.region, each.zone) for each in instances}
    return region_of(world, source), zones.pop()[1] if len(zones) == 1 else ""


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


def _subsets(world: World, instance: Instance) -> tuple[str, ...]:
    stated = world.services.get(instance.service)
    return stated.thing.subsets_of(instance.meta) if stated else ()
