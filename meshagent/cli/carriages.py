"""How a call is carried, as data and as words: whether proxies see requests or only bytes (`data_path: l4`), and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from meshagent.model.names import HTTP_PROTOCOLS, DataPath
from meshagent.model.view import Guard, Outbound
from meshagent.model.world import World
from meshagent.policy.carriage import sees_requests
from meshagent.policy.cuts import MAX_CHAINS

_MEANS = "no proxy sees requests: no retry, header or status of the mesh's, and a deny ends connections that are open"


@dataclass(frozen=True, slots=True)
class Carriage:
    """`data_path`: what holds for this call; None of a TCP service. `words` are empty where the service does not ask for l4."""

    data_path: DataPath | None
    words: str = ""


def carriage_of(world: World, outbound: Outbound, guard: Guard) -> Carriage:
    """How calls of the outbound's source are carried to the guard's service."""
    if outbound.protocol not in HTTP_PROTOCOLS:
        return Carriage(None)
    stated = world.services.get(outbound.upstream)
    if stated is None or stated.thing.data_path != "l4":
        return Carriage("l7")
    if outbound.by_request:
        return Carriage("l7", "  carried  as requests, though the service says l4: something is asked of its requests")
    if not sees_requests(world, outbound, guard):
        return Carriage("l4", f"  carried  as bytes (data_path l4): {_MEANS}")
    words = f"  carried  as bytes by the caller's proxy, read as requests by the proxy of {guard.destination}"
    return Carriage("l7", f"{words}, {_why_read(guard, outbound.source)}")


def _why_read(guard: Guard, source: str) -> str:
    rule = guard.rule_for(source)
    if (guard.default if rule is None else rule.action) == "deny":
        return "so that the refusal is answered with its reason"
    if rule and rule.permissions:
        return "since permissions decide by request"
    return f"since {source} is not among the (at most {MAX_CHAINS}) sources that are allowed there by name"
