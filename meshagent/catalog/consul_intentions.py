"""Consul's own intentions for our services, which count beside ours where Consul's CA says who is who.

Measured on 1.8.7: `intentions/match` gives those for one destination, the most precise first, and blocks by index; what
holds where none matches follows Consul's ACL default, which only `intentions/check` tells. Both need `service = "read"`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.model.names import ANY, check_service_name
from meshagent.model.veto import NOBODY_MAY, Veto
from meshagent.wire.consul import DEADLINE, WAIT, Answer, Consul, deadline_of

_OK = 200
_SHORTEST_ROUND = 0.05
_ROUND_WITHOUT_INDEX = 1.0  # while there is no intention at all, 1.8 gives no index to wait for (measured)
_DEFAULT = ("", "default")  # the only namespace of Consul's that our services can be in


class ConsulIntentions:
    """Follows them by blocking queries. Belongs to the event loop that it is first used on."""

    def __init__(self, opener: Callable[[], Consul]) -> None:
        self._opener = opener
        self._consul: Consul | None = None

    async def follow(self, service: str) -> AsyncIterator[Veto]:
        """Who may call the service, now and after each change, for ever. Raises StoreDenied and StoreUnavailable."""
        asked = {"by": "destination", "name": service}
        index, told = 0, None
        while True:
            waits = {"index": str(index), "wait": f"{WAIT:g}s"} if index else {}
            deadline = deadline_of(WAIT) if index else DEADLINE
            answer = await self._opened().get("/v1/connect/intentions/match", asked | waits, deadline=deadline)
            veto = veto_of(_listed(answer, service), default=await self._default(service))
            if veto != told:
                told = veto
                yield veto
            index = answer.index if answer.index >= index else 0
            await asyncio.sleep(_SHORTEST_ROUND if index else _ROUND_WITHOUT_INDEX)

    async def close(self) -> None:
        """Let go of connections."""
        if self._consul:
            await self._consul.close()

    async def _default(self, service: str) -> bool:
        """What holds for a source that nobody has heard of."""
        asked = {"source": f"nobody-{secrets.token_hex(8)}", "destination": service}
        told = _required(await self._opened().get("/v1/connect/intentions/check", asked), service).json()
        return isinstance(told, dict) and told.get("Allowed") is True

    def _opened(self) -> Consul:
        self._consul = self._consul or self._opener()
        return self._consul


def veto_of(intentions: list[Mapping[str, Any]], *, default: bool) -> Veto:
    """Consul's intentions for one destination as a veto. Pure.

    `default` is what holds for a stranger. An intention that is not a plain allow denies: what it permits by request
    cannot be judged here. One that denies a name that no service of ours can have denies strangers.
    """
    named: dict[str, bool] = {}
    others = default
    ordered = sorted(intentions, key=lambda each: -int(each.get("Precedence") or 0))
    for each in ordered:
        source, allowed = each.get("SourceName"), each.get("Action") == "allow"
        if each.get("SourceNS", "") not in _DEFAULT:
            others = others and allowed
        elif source == ANY:
            others = others and allowed
            break
        elif _is_ours(source):
            named.setdefault(str(source), allowed)
        else:
            others = others and allowed
    return Veto(named, others) if named or others else NOBODY_MAY


def _is_ours(source: object) -> bool:
    try:
        return isinstance(source, str) and bool(check_service_name(source))
    except ValueError:
        return False


def _listed(answer: Answer, service: str) -> list[Mapping[str, Any]]:
    told = _required(answer, service).json()
    found = told.get(service) if isinstance(told, dict) else None
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise StoreUnavailable(
            f"Consul's intentions for {service} are not a list.", next_step="See what answers there."
        )
    return found


def _required(answer: Answer, service: str) -> Answer:
    if answer.status != _OK:
        raise StoreDenied(
            f"Consul does not say its intentions for {service}: {answer.status}", next_step="See Consul's log."
        )
    return answer
