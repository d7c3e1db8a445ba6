"""The settings in force for a call as plain data and as words, each with where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshagent.cli.mesh import Seen
from meshagent.cli.output import Table
from meshagent.cli.rules import Data, origin_data
from meshagent.cli.ways import Journey
from meshagent.model.view import Outbound
from meshagent.model.world import Stated
from meshagent.policy.defaults import Call, Setting, settings


def settings_of(seen: Seen, way: Journey, outbound: Outbound) -> tuple[Setting, ...]:
    """What holds for calls by the outbound that go this way; nothing where the caller's proxy answers by itself."""
    reached = tuple(dict.fromkeys(target.service or outbound.upstream for target, _ in way.targets))
    if not reached or way.undecided:
        return ()
    world = seen.world()
    held = seen.documents.get(("mesh", "mesh"))
    mesh = Stated(world.mesh, held.origins if held else {})
    seen_as = outbound.protocol if outbound.by_request else "tcp"
    return settings(mesh, world.services, outbound.upstream, Call(way.way, reached, seen_as))


def settings_data(found: Iterable[Setting]) -> list[Data]:
    """As JSON has it: `level` is route, service, mesh or built-in."""
    return [
        {"name": each.name, "value": each.value, "level": each.level, "origin": origin_data(each.origin)}
        for each in found
    ]


def settings_words(found: Sequence[Setting]) -> list[Table]:
    """As a table; none where there is nothing to tell."""
    rows = [(each.name, each.words, each.level, "" if each.level == "built-in" else each.origin) for each in found]
    return [Table(("SETTING", "VALUE", "SAID BY", "FROM"), rows)] if rows else []
