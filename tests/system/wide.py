"""A mesh of 200 services as it is read: documents and instances in its store, of which one agent alone lives."""

from __future__ import annotations

from meshagent.model.service import Instance
from meshagent.state.catalog import commit_all, put_instance
from tests.system.live import KEYS, LiveMesh

TEAMS = ("cart", "search", "billing", "stock", "login", "media", "mail", "fraud", "ship", "price")
PARTS = ("api", "worker", "cache", "sync", "report", "admin", "feed", "rules", "index", "store")


def names(count: int = 200) -> list[str]:
    """Of services: of ten teams, ten parts each, and once more."""
    every = [f"{team}-{part}{more}" for more in ("", "-2") for part in PARTS for team in TEAMS]
    return every[:count]


def documents(count: int = 200) -> list[dict]:
    """Each service is called by three that come before it; some by request, some have a route with a split."""
    found: list[dict] = []
    every = names(count)
    for number, name in enumerate(every):
        callers = {every[(number * step) // 7] for step in (2, 3, 5) if number} - {name}
        sources: list[dict] = [{"name": each, "action": "allow"} for each in sorted(callers)]
        if number % 7 == 3:
            by_path = {"action": "allow", "http": {"path_prefix": "/reports", "methods": ["GET"]}}
            sources.append({"name": every[(number + 11) % count], "permissions": [by_path]})
        if number % 11 == 4:
            sources.append({"name": "*", "action": "deny", "reason": "closed by its team"})
        if sources:
            found.append({"kind": "intention", "name": name, "sources": sources})
        if number % 10 == 0:
            subsets = {"v1": {"version": "1"}, "v2": {"version": "2"}}
            split = [{"subset": "v1", "weight": 90}, {"subset": "v2", "weight": 10}]
            found.append({"kind": "service", "name": name, "protocol": "http", "subsets": subsets})
            found.append({"kind": "route", "name": name, "rules": [{"to": split}]})
    return found


async def widen(mesh: LiveMesh, count: int = 200) -> int:
    """Write it all into the mesh's store. Returns the revision."""
    puts = []
    for number, name in enumerate(names(count)):
        for copy in range(1 + number % 3):
            instance = Instance(
                service=name,
                host=f"vm-{10 + (number + copy * 13) % 40}",
                id=f"{name}-{copy}",
                address=f"10.0.{number % 200}.{copy + 1}",
                port=21000,
                protocol="http",
                health="failing" if (number + copy) % 17 == 5 else "passing",
                meta={"version": str(1 + copy % 2)},
            )
            puts.append(put_instance(KEYS, instance, None))
    await commit_all(mesh.store, puts)
    return await mesh.apply(*documents(count))
