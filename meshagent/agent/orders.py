"""Certificates that gateways order by ACME: by this host, with keys that never leave it, renewed in good time."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import structlog

from meshagent.agent.attempts import Attempts, digest_of, keep_attempts, kept_attempts
from meshagent.ca.ordering import late, next_order, pause
from meshagent.ca.rotation import Keep
from meshagent.errors import MeshError, NotFound, OrderRefused, UnsafeFile
from meshagent.model.certificate import Acme, KeyPair
from meshagent.private import private_dir, read_private, write_private

if TYPE_CHECKING:
    from meshagent.ca.acme import Ordering
    from meshagent.ca.outside import Outside

_log = structlog.get_logger(__name__)
_LONGEST_SLEEP = timedelta(seconds=60)
_SHORTEST_SLEEP = 0.05  # seconds
_UNCLEAR = "two gateways here order it in different ways, and the first counts: let `hosts` begin with different names"
Show = Callable[[Mapping[str, str]], Awaitable[None]]


class Orders:
    """Keeps one certificate for each order, by its place. `changed` is called after every change.

    One order is made at a time. What failed, and until when the CA is left alone, is kept over restarts. `roots`: the file
    with those that a CA's address must prove itself by. `show`: makes the gateway answer the CA.
    """

    def __init__(
        self, directory: Path, roots: str, clock: Callable[[], datetime], changed: Callable[[], None], show: Show
    ) -> None:
        self._directory = directory
        self._roots = roots
        self._clock = clock
        self._changed = changed
        self._show = show
        self._wanted: dict[str, Acme] = {}
        self._unclear: set[str] = set()
        self._attempts: dict[str, Attempts] = {}
        self._at: dict[str, float] = {}  # where in the renewal window each is renewed, drawn once for each certificate
        self._wake = asyncio.Event()
        self.held: dict[str, Outside] = {}
        self.problems: dict[str, str] = {}
        self.failures: Counter[str] = Counter()

    @property
    def pairs(self) -> dict[str, KeyPair]:
        """All that are there, by place."""
        return {place: KeyPair(each.chain_pem, each.key_pem) for place, each in self.held.items()}

    def rows(self) -> dict[str, dict[str, Any]]:
        """When each that is wanted ends, whether it should have been renewed long ago, and how often an order failed."""
        lives = {place: self.held[place].life if place in self.held else None for place in sorted(self._wanted)}
        return {
            place: {
                "expires_at": life.expires_at.isoformat() if life else None,
                "ordered": True,
                "overdue": life is not None and late(self._clock(), life),
                "failures": self.failures[place],
            }
            for place, life in lives.items()
        }

    def want(self, orders: Iterable[Acme]) -> None:
        """Say which are needed. What an earlier agent got is taken up at once, so that no listener has to wait for it.

        Of two orders with the same first name, of two gateways, the first counts.
        """
        wanted: dict[str, Acme] = {}
        unclear = {each.place for each in orders if wanted.setdefault(each.place, each) != each}
        if (wanted, unclear) == (self._wanted, self._unclear):
            return
        before, self._wanted, self._unclear = self.held, wanted, unclear
        self.held = {place: each for place, each in before.items() if place in wanted}
        self._attempts = {place: each for place, each in self._attempts.items() if place in wanted}
        for place in wanted.keys() - self._attempts.keys():
            self._take_up(place)
        self.problems = {f"{place}, twice": _UNCLEAR for place in sorted(unclear)}
        for place in wanted:
            self._tell(place)
        if self.held != before:
            self._changed()
        self._wake.set()

    async def run(self) -> Never:
        """Order and renew, for ever."""
        while True:
            self._wake.clear()
            until = await self.step()
            try:
                async with asyncio.timeout(max((until - self._clock()).total_seconds(), _SHORTEST_SLEEP)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def step(self) -> datetime:
        """Do what is due now. Returns when something may be due again."""
        until = self._clock() + _LONGEST_SLEEP
        for place in sorted(self._wanted):
            if asked := self._wanted.get(place):  # not withdrawn while another was ordered
                until = min(until, await self._tend(place, asked))
        return until

    async def _tend(self, place: str, asked: Acme) -> datetime:
        now, held, attempts = self._clock(), self.held.get(place), self._attempts[place]
        at = self._at.setdefault(place, random.random())  # noqa: S311 - spreads load, hides nothing
        as_asked = attempts.got == digest_of(asked)
        decision = next_order(now, held.life if held else None, at, as_asked=as_asked)
        if isinstance(decision, Keep):
            return decision.until
        if put_off := attempts.wait(asked, now):
            self._tell(place)
            return put_off
        return await self._order(place, asked, decision.reason)

    async def _order(self, place: str, asked: Acme, reason: str) -> datetime:
        """Order it. Returns when to look again."""
        from meshagent.ca.acme import Ordering
        from meshagent.ca.keys import kept_key, new_key
        from meshagent.ca.outside import accept_outside, packed, request_for

        ordering: Ordering | None = None
        try:
            account = hashlib.sha256(f"{asked.directory} {asked.email}".encode()).hexdigest()[:16]
            private_dir(self._directory)
            ordering = Ordering(
                asked, kept_key(self._directory / f"account-{account}.key", _unusable), self._roots, self._show
            )
            key = new_key()
            chain = await ordering.obtain(request_for(key, asked.hosts))
            found = accept_outside(chain, key, asked.hosts, self._clock())
            write_private(self._file(place, "pem"), packed(found))
            self._keep(place, Attempts(got=digest_of(asked)))
        except MeshError as error:
            return self._put_off(place, asked, error, ordering)
        self._at[place] = random.random()  # noqa: S311
        if self._wanted.get(place) == asked:
            self.held = {**self.held, place: found}
            _log.info(
                "gateway_certificate_issued",
                hosts=asked.hosts,
                ca=asked.directory,
                expires_at=found.life.expires_at.isoformat(),
                reason=reason,
            )
            self._tell(place)
            self._changed()
        return self._clock()

    def _put_off(self, place: str, asked: Acme, error: MeshError, ordering: Ordering | None) -> datetime:
        self.failures[place] += 1
        attempts, held, now = self._attempts[place], self.held.get(place), self._clock()
        failures = attempts.failed_at(asked)
        wait = pause(
            failures,
            random.random(),  # noqa: S311
            held.life if held else None,
            now,
            refused=isinstance(error, OrderRefused),
            wish=ordering.wish if ordering else timedelta(),
        )
        told = {"failed": digest_of(asked), "failures": failures + 1, "not_before": now + wait, "problem": str(error)}
        _log.warning(
            "gateway_certificate_not_issued",
            hosts=asked.hosts,
            problem=str(error),
            code=error.code,
            again_in_s=round(wait.total_seconds(), 1),
        )
        try:
            self._keep(place, attempts.model_copy(update=told))
        except MeshError as trouble:
            _log.warning("gateway_attempts_unusable", path=str(self._file(place, "json")), problem=str(trouble))
        self._tell(place)
        return now + wait

    def _keep(self, place: str, attempts: Attempts) -> None:
        self._attempts[place] = attempts
        keep_attempts(self._file(place, "json"), attempts)

    def _take_up(self, place: str) -> None:
        """What an earlier agent kept."""
        from meshagent.ca.outside import unpacked

        self._attempts[place] = kept_attempts(self._file(place, "json"))
        path = self._file(place, "pem")
        try:
            self.held = {**self.held, place: unpacked(read_private(path))}
        except NotFound:
            pass
        except MeshError as error:
            _log.warning("gateway_certificate_unusable", file=str(path), problem=str(error))

    def _tell(self, place: str) -> None:
        """Say what is wrong with one, if something is."""
        held, attempts = self.held.get(place), self._attempts[place]
        why = attempts.problem or "it is being ordered"
        if held is None:
            self.problems[place] = f"there is no certificate yet, so nothing is shown for it: {why}"
        elif held.life.expires_at <= self._clock():
            self.problems[place] = f"ended at {held.life.expires_at:%Y-%m-%dT%H:%M:%SZ}, clients refuse it: {why}"
        elif attempts.problem:
            self.problems[place] = f"{why}: the last good certificate stays in use"
        else:
            self.problems.pop(place, None)

    def _file(self, place: str, kind: str) -> Path:
        return self._directory / f"{place.removeprefix('acme/')}.{kind}"


def _unusable(what: str) -> UnsafeFile:
    return UnsafeFile(f"the key of the account {what}", next_step="remove it: the next order makes a new account")
