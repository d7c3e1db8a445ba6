"""Consul's discovery chain (router -> splitter -> resolver) laid flat: our routes lead to services and subsets at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from meshagent.importing.fields import Fields
from meshagent.importing.parts import Data, Part

_DEPTH = 8  # Consul refuses loops; a file may hold one


@dataclass(slots=True)
class Chain:
    """What the entries say, by the service that is called. `wholes`: subsets that are all of their service."""

    rules: dict[str, list[tuple[Fields, Data]]] = field(default_factory=dict)
    splits: dict[str, tuple[Fields, list[Data]]] = field(default_factory=dict)
    resolved: dict[str, tuple[Fields, Data]] = field(default_factory=dict)
    defaults: list[Part] = field(default_factory=list)
    wholes: set[tuple[str, str]] = field(default_factory=set)

    def parts(self) -> list[Part]:
        """All rules of all routes; each route ends in where its service's other requests go."""
        found = []
        for name in sorted({*self.rules, *self.splits, *self.resolved}):
            for fields, rule in self.rules.get(name, []):
                to = self._targets(rule.get("to") or [{}], name)
                found.append(Part("rule", name, {**rule, **({"to": to} if to != [{}] else {"to": []})}, fields))
            end = self._targets([{}], name)
            if end != [{}]:
                where = (self.splits.get(name) or self.resolved.get(name) or self.rules[name][0])[0]
                found.append(Part("rule", name, {"to": end}, where))
        return found + self.defaults

    def _targets(self, targets: list[Data], name: str) -> list[Data]:
        """The targets with what splitters and resolvers of their services say, equal ones together."""
        flat: list[Data] = []
        for target in targets:
            flat += self._flat(target, name, 0)
        merged: dict[tuple[str, str], Data] = {}
        for each in flat:
            service = str(each.get("service", name))
            key = (service, str(each.get("subset", "")))
            plain = {item: value for item, value in each.items() if item != "service" or value != name}
            if key in merged:
                plain = {**plain, "weight": merged[key].get("weight", 1) + plain.get("weight", 1)}
            merged[key] = plain
        return list(merged.values())

    def _flat(self, target: Data, home: str, depth: int) -> Iterator[Data]:
        service = str(target.get("service", home))
        if (service, target.get("subset")) in self.wholes:
            yield {key: value for key, value in target.items() if key != "subset"}
        elif "subset" in target or depth == _DEPTH:
            yield target
        elif service in self.splits:
            yield from self._split(target, service, depth)
        elif service in self.resolved:
            further = {**target, "service": service, **self.resolved[service][1]}
            yield from self._flat(further, home, depth + 1) if further != target else [further]
        else:
            yield target

    def _split(self, target: Data, service: str, depth: int) -> Iterator[Data]:
        weight = target.get("weight", 1)
        total = sum(each["weight"] for each in self.splits[service][1]) or 1
        for each in self.splits[service][1]:
            share = each["weight"] * weight if depth or "weight" in target else each["weight"]
            named = {**target, "service": service, **each, "weight": share}
            leads = {
                "service": each.get("service", service),
                **({"subset": each["subset"]} if "subset" in each else {}),
            }
            if leads == {"service": service}:
                resolved = self.resolved.get(service, (None, {}))[1]
                yield {**named, **resolved}
            else:
                yield from self._flat({**named, **leads}, service, depth + 1)
        if total != 100 and depth:
            self.splits[service][0].tell("changed", "a split inside of another keeps its weights as they are")
