"""Callers behind Consul's own proxies, which name nobody when they connect: who of them is let in, and where.

Measured on 1.8.7: `consul connect proxy` sends no server name, so the port alone says which service is meant.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from meshagent.model.identity import Domains
from meshagent.model.names import ANY
from meshagent.model.view import Guard, Inbound


@dataclass(frozen=True, slots=True)
class Natives:
    """Those who may call one service; `sources`: None for anyone. Another `rules` ends the connections made under the old."""

    service: str
    sources: tuple[str, ...] | None
    rules: str


def natives(members: tuple[Inbound, ...], domains: Domains) -> Natives | None:
    """Whom the listener of these instances takes without a server name; None: nobody.

    Nobody, where a port has several services. Nobody either, where anyone but some may call a TCP service: those would be
    told apart from the rest only by what they send, and a server that speaks first would have been heard by then.
    """
    if len({each.service for each in members}) != 1 or not domains.consul.forms or members[0].shut_out:
        return None
    guard = members[0].guard
    stranger = guard.rule_for("")
    everybody = guard.default == "allow" if stranger is None else stranger.action != "deny"
    named = tuple(sorted(rule.source for rule in guard.rules if rule.source != ANY and rule.action != "deny"))
    if not named and not everybody:
        return None
    return Natives(guard.destination, None if everybody else named, _digest(guard))


def _digest(guard: Guard) -> str:
    """16 hex digits that name what the guard says, whoever wrote it."""
    said = [(rule.source, rule.action, [each.model_dump_json() for each in rule.permissions]) for rule in guard.rules]
    return hashlib.blake2b(repr((said, guard.default)).encode(), digest_size=8).hexdigest()
