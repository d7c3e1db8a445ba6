"""What gateways of this host show to outside, from files and by ACME, and what they answer a CA that asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from meshagent.agent.answers import SharedAnswers
from meshagent.agent.converge import Converger
from meshagent.agent.key_pairs import KeyPairs
from meshagent.agent.orders import Orders
from meshagent.errors import AuthorityUnavailable
from meshagent.model.gateway import Gateway
from meshagent.model.world import World
from meshagent.translate.gateway import gateway_listener_name
from meshagent.xds.server import XdsServer

_APPLIED_SECONDS = 5.0
_STEP = "meshagent proxy status"


class Certificates:
    """Joins `KeyPairs`, `Orders` and `SharedAnswers` to the converger. `directory`: where orders are kept."""

    def __init__(
        self,
        directory: Path,
        roots: str,
        clock: Callable[[], datetime],
        converger: Converger,
        xds: XdsServer,
        shared: SharedAnswers,
    ) -> None:
        self._converger = converger
        self._xds = xds
        self._ordering: frozenset[str] = frozenset()
        self._own: Mapping[str, str] = {}
        self._told: frozenset[str] = frozenset()  # gateways whose other hosts were told of our answers
        self.shared = shared
        shared.changed = self._answer
        self.files = KeyPairs(clock, lambda _: self._offer())
        self.orders = Orders(directory, roots, clock, self._offer, self._show)

    def want(self, gateways: Iterable[Gateway], world: World) -> None:
        """Say which gateways this host serves, and who vouches for them."""
        served = tuple(gateways)
        self._ordering = frozenset(gateway.name for gateway in served if gateway.orders)
        self.shared.want(self._ordering, world.mesh.trust_domain, world.bundle)
        self.files.want(each for gateway in served for each in gateway.files)
        self.orders.want(each for gateway in served for each in gateway.orders)

    async def run(self) -> None:
        """Read and order, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.files.run())
            group.create_task(self.orders.run())
            group.create_task(self.shared.run())

    @property
    def problems(self) -> Iterator[tuple[str, str]]:
        """(certificate, what is wrong with it)."""
        yield from self.files.problems.items()
        yield from self.orders.problems.items()
        if self.shared.problem:
            yield "answers", self.shared.problem

    def rows(self) -> dict[str, dict[str, Any]]:
        """What there is, by file or first name, as plain data."""
        files = {
            file: {"expires_at": ends.isoformat(), "ordered": False, "overdue": False, "failures": 0}
            for file, ends in self.files.ends.items()
        }
        return files | self.orders.rows()

    def _offer(self) -> None:
        self._converger.offer(key_pairs={**self.files.pairs, **self.orders.pairs})

    def _answer(self) -> None:
        self._converger.offer(challenges={**self.shared.others, **self._own})

    async def _show(self, challenges: Mapping[str, str]) -> None:
        """Have the gateways answer these, here and on other hosts.

        Raises AuthorityUnavailable where Envoy does not: then no CA is asked in vain.
        """
        self._own = challenges
        self._answer()
        if not challenges:
            told, self._told = self._told, frozenset()
            if told:
                await self.shared.withdraw(told)
            return
        world = self._converger.world
        applied = world is not None and await self._xds.wait_applied(self._converger.serve(world), _APPLIED_SECONDS)
        if not applied:
            raise AuthorityUnavailable("Envoy has not taken the answers that the CA asks for", next_step=_STEP)
        if not self._asked_at():
            words = "no port is open on which the CA could ask: each one without tls is refused, or another's"
            raise AuthorityUnavailable(words, next_step=_STEP)
        thumbprints = {token: answer.partition(".")[2] for token, answer in challenges.items()}
        if await self.shared.publish(self._ordering, thumbprints, self._converger.svids):
            self._told = self._ordering

    def _asked_at(self) -> set[str]:
        """The listeners without TLS that are open, of gateways that order."""
        view = self._converger.view
        plain = {
            gateway_listener_name(gateway, listener)
            for gateway in (view.gateways if view else ())
            if gateway.orders
            for listener in gateway.listeners
            if listener.tls is None
        }
        types = (status for stream in self._xds.streams for status in stream.types.values())
        return plain.difference(*(status.rejected for status in types))
