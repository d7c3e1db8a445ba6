"""Whether applications of this host find the addresses that the agent gives out, and what it means where they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from meshagent.cli.diagnosis import Finding
from meshagent.model.virtual import virtual_addresses


@dataclass(frozen=True, slots=True)
class Lookup:
    """A name, the service's addresses, and those that applications find under it."""

    name: str
    ipv4: str
    ipv6: str
    found: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether they find the service: one of its addresses, and no other."""
        return bool(self.found) and set(self.found) <= {self.ipv4, self.ipv6}

    @property
    def verdict(self) -> str:
        """For a table: yes, no, or where it leads instead."""
        return "yes" if self.ok else f"elsewhere: {', '.join(self.found)}" if self.found else "no"


def look_up(service: str, zone: str, find: Callable[[str], frozenset[str]]) -> Lookup:
    """What `find` says of the service's name in the zone."""
    ipv4, ipv6 = virtual_addresses(service)
    name = f"{service}.{zone}"
    return Lookup(name, str(ipv4), str(ipv6), tuple(sorted(find(name))))


def names_finding(agent: Mapping[str, Any] | None, find: Callable[[str], frozenset[str]]) -> Finding | None:
    """What is to be said of names, from the agent's status and one lookup; None where the agent answers none."""
    told = (agent or {}).get("dns")
    if not told or not told["listening"]:  # why it does not listen is a problem of the agent
        return None
    where = f"{told['address']} answers for .{told['zone']}"
    if not told["names"]:
        return Finding("dns", "ok", f"{where}; no service here declares an upstream")
    seen = look_up(told["names"][0], told["zone"], find)
    if seen.ok:
        return Finding("dns", "ok", f"{where}, and applications find {seen.name}")
    if seen.found:
        what = f"another resolver answers {seen.name} with {', '.join(seen.found)}"
        return Finding("dns", "bad", what, "meshagent dns install; or set another dns_zone in agent.yaml")
    what = f"{where}, but applications do not find {seen.name}: their resolver does not ask there"
    return Finding("dns", "warning", what, "meshagent dns install")
