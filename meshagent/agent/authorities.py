"""The CAs that this agent has opened, one a trust domain: opened when first needed, tended while it runs, closed with it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Never, Protocol, runtime_checkable

import structlog

from meshagent.ca.base import Authority
from meshagent.errors import MeshError
from meshagent.model.identity import TrustBundle
from meshagent.model.world import World

_log = structlog.get_logger(__name__)
TEND_SECONDS = 30.0
OWN = "(host)"  # the host's own certificate, among those of its services
_CHECKED = (45.0, 75.0)  # seconds between two questions whether the authority could sign


@runtime_checkable
class Tended(Protocol):
    """An authority that keeps credentials of its own."""

    async def tend(self, bundle: TrustBundle) -> None:
        """Renew what is due; `bundle` holds the roots that hosts believe now. Raises MeshError where a person must act."""


@runtime_checkable
class Timed(Protocol):
    """An authority that tells its time."""

    @property
    def skew(self) -> float | None:
        """Seconds that its clock is ahead of ours; None before it told."""


@runtime_checkable
class Known(Protocol):
    """An authority that knows this host by a certificate of its own."""

    @property
    def own_root(self) -> str:
        """Hex SHA-256 of the root that this certificate leads to; "" before it was looked at."""


class Authorities:
    """Opens authorities with `open_one` and keeps them; called with a trust domain, it gives that one's."""

    def __init__(self, open_one: Callable[[str], Authority]) -> None:
        self._open_one = open_one
        self._opened: dict[str, Authority] = {}
        self._world: World | None = None
        self._wake = asyncio.Event()
        self.problem = ""
        self._unwell: tuple[str, ...] = ()
        self.skew: float | None = None  # seconds that the authority's clock is ahead of ours, where it tells

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the authority, or with what this host has of it: roots that end, clocks that differ."""
        return (*((self.problem,) if self.problem else ()), *self._unwell)

    @property
    def own_roots(self) -> dict[str, str]:
        """As reports have it: what this host's own certificate leads to, where it has one."""
        known = [each.own_root for each in self._opened.values() if isinstance(each, Known) and each.own_root]
        return {OWN: known[-1]} if known else {}

    def __call__(self, trust_domain: str) -> Authority:
        """The authority of the trust domain. Raises UsageProblem."""
        if trust_domain not in self._opened:
            self._opened[trust_domain] = self._open_one(trust_domain)
        return self._opened[trust_domain]

    def world_changed(self, world: World) -> None:
        """The store has a new World; new roots are taken up at once."""
        if self._world is None or (world.mesh.trust_domain, world.bundle) != (
            self._world.mesh.trust_domain,
            self._world.bundle,
        ):
            self._wake.set()
        self._world = world

    async def run(self) -> Never:
        """Tend, for ever."""
        while True:
            try:
                async with asyncio.timeout(TEND_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if self._world is not None:
                await self._tend(self._world)

    async def run_checks(self) -> Never:
        """Ask now and then whether it could sign, for ever."""
        while True:
            await asyncio.sleep(random.uniform(*_CHECKED))  # noqa: S311 - jitter
            if self._world is not None:
                await self._check(self._world)

    async def close(self) -> None:
        """Let go of all."""
        for authority in self._opened.values():
            await authority.close()

    async def _check(self, world: World) -> None:
        try:
            authority = self(world.mesh.trust_domain)
            health = await authority.check()
            unwell = () if health.ok else health.problems
            if isinstance(authority, Timed):
                self.skew = authority.skew
        except MeshError as error:
            unwell = (error.advice,)
        for problem in unwell:
            if problem not in self._unwell:
                _log.warning("authority_unwell", problem=problem)
        self._unwell = unwell

    async def _tend(self, world: World) -> None:
        try:
            authority = self(world.mesh.trust_domain)
            if isinstance(authority, Tended):
                await authority.tend(world.bundle)
            problem = ""
        except MeshError as error:
            problem = error.advice
        if problem and problem != self.problem:
            _log.warning("authority_not_tended", problem=problem)
        self.problem = problem
