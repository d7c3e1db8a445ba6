"""What a Prometheus is asked about a mesh: the queries of the dashboards and alarms, and which have told something yet."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import yaml

from tests.servers.prometheus import Prometheus

DOCS = Path(__file__).parents[2] / "docs"
RULES = DOCS / "alerts/meshagent.rules.yaml"
# What takes days, a minute of silence, another CA, or an Envoy with a fault that none is known to have: asked with a bound
# that any mesh is beyond. That each goes off at its own and not before is tested with series that are made up
# (tests/conformance/test_alerts.py).
BEYOND = {
    "MeshagentRootEnding": ("< 30 * 86400", "< 1e9"),
    "MeshagentTrustBundlesDiffer": ("> 1", "> 0"),
    "MeshagentStoreSilent": ("> 60", "> 0"),
    "MeshagentSvidUnserved": ("== 1", "== 0"),
}
# What only an authority, or a gateway that orders its certificates, tells.
ELSEWHERE = {
    "MeshagentClocksApart",
    "MeshagentGatewayCertificateOverdue",
    "MeshagentGatewayCertificateEnding",
}


def alarms() -> dict[str, str]:
    """The expression of each alarm."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found = {rule["alert"]: rule["expr"] for rule in group["rules"] if rule["alert"] not in ELSEWHERE}
    for name, (bound, nearer) in BEYOND.items():
        assert bound in found[name]
        found[name] = found[name].replace(bound, nearer)
    return found


def panels() -> Iterator[tuple[str, str]]:
    """The queries of all dashboards, each with where it stands."""
    for file in sorted((DOCS / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield f"{file.stem}: {panel['title']} {target['refId']}", target["expr"]


@dataclass
class Asked:
    """Asks what has not told anything yet, again and again. `services` and `hosts` are what dashboards can be set to."""

    prometheus: Prometheus
    services: tuple[str, ...]
    hosts: tuple[str, ...]
    told: set[str] = field(default_factory=set)
    untold: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.untold = {name: [expression] for name, expression in alarms().items()}
        for name, expression in panels():
            choices = product(self.services, self.hosts)
            each = (expression.replace("$service", one).replace("$host", other) for one, other in choices)
            self.untold[name] = sorted({text.replace("$__rate_interval", "15s") for text in each})

    def ask(self) -> None:
        """Ask each once."""
        for name, expressions in list(self.untold.items()):
            if any(self._tells(expression) for expression in expressions):
                self.told.add(name)
                del self.untold[name]

    async def until(self, *names: str, wait: float = 30.0) -> None:
        """Wait until these have told something."""
        deadline = time.monotonic() + wait
        while not set(names) <= self.told:
            assert time.monotonic() < deadline, (
                f"nothing told by {sorted(set(names) - self.told)} of {sorted(self.untold)}"
            )
            await asyncio.to_thread(self.ask)
            await asyncio.sleep(0.5)

    def _tells(self, expression: str) -> bool:
        return any(not math.isnan(float(row["value"][1])) for row in self.prometheus.query(expression))
