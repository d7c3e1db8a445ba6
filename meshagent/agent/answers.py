"""What the hosts of one gateway answer a CA for each other: shared in the store, believed where the gateway vouches for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Never

import structlog

from meshagent.agent.interrupt import until_set
from meshagent.errors import CertificateRefused, MeshError, StoreDenied, StoreUnavailable
from meshagent.model.identity import Svid, TrustBundle
from meshagent.model.names import spiffe_id
from meshagent.state.answers import Answers, AnswersRecord
from meshagent.state.keys import Keys
from meshagent.state.records import UnreadableRecord, decode, encode
from meshagent.store.base import Changes, Delete, Entry, Put, Store

_log = structlog.get_logger(__name__)
_HOLD = timedelta(minutes=10)  # longer than an order takes
_AGAIN_SECONDS = 5.0
_ANSWER_SECONDS = 3.0  # for the store: neither an order nor the end of an agent waits longer for it
_SILENT = "the store does not answer"
_SPREAD_SECONDS = 1.0  # until other hosts have heard and their Envoys answer; 0.1 s is usual
_MOST = 256  # hosts whose answers are looked at


class SharedAnswers:
    """Follows the answers of the gateways that are wanted. `changed` is called when `others` did.

    `others`: answers of other hosts, by token. This host's own are given out by `publish`, and end with its `lease`.
    """

    def __init__(
        self, store: Store, keys: Keys, host: str, lease: Callable[[], str], clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._keys = keys
        self._host = host
        self._clock = clock
        self._lease = lease
        self.changed: Callable[[], None] = lambda: None
        self._wanted: tuple[frozenset[str], str, TrustBundle] = (frozenset(), "", TrustBundle())
        self._entries: dict[str, Entry] = {}
        self._refused: dict[str, int] = {}
        self._moved = asyncio.Event()
        self.others: dict[str, str] = {}
        self.problem = ""

    def want(self, gateways: Collection[str], trust_domain: str, bundle: TrustBundle) -> None:
        """Say whose answers count here, and by which roots they vouch for them."""
        wanted = (frozenset(gateways), trust_domain, bundle)
        if wanted == self._wanted:
            return
        if wanted[0] != self._wanted[0]:
            self._moved.set()
        self._wanted = wanted
        self._judge()

    async def run(self) -> Never:
        """Follow, for ever, while there is something to follow."""
        while True:
            self._moved.clear()
            try:
                await until_set(self._moved, self._follow())
            except (StoreUnavailable, StoreDenied) as error:
                self._tell(f"what other hosts of the gateway are asked by a CA is not known: {error}")
                await asyncio.sleep(_AGAIN_SECONDS)

    async def publish(self, gateways: Collection[str], answers: Mapping[str, str], svids: Mapping[str, Svid]) -> bool:
        """Have the other hosts answer these, thumbprints by token. Returns whether they are told, when they heard of it.

        That they are not is no error: a CA may ask this host all the same.
        """
        from meshagent.ca.vouching import vouch

        try:
            puts = []
            for gateway in sorted(gateways):
                told = Answers(gateway=gateway, host=self._host, answers=dict(answers), until=self._clock() + _HOLD)
                svid = svids[gateway]
                vouched = {"chain": svid.chain_pem.decode(), "signature": vouch(svid, told.content)}
                record = AnswersRecord.model_validate({**told.model_dump(), **vouched})
                puts.append(Put(self._keys.answer(gateway, self._host), encode(record), self._lease() or None))
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._store.commit(puts)
        except (MeshError, KeyError, TimeoutError) as error:
            words = f"no certificate of {error}" if isinstance(error, KeyError) else str(error) or _SILENT
            self._tell(f"other hosts of the gateway do not answer a CA for this one: {words}")
            return False
        self.problem = ""
        await asyncio.sleep(_SPREAD_SECONDS)
        return True

    async def withdraw(self, gateways: Collection[str]) -> None:
        """Take this host's answers back. What stays does no harm: it ends by itself."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._store.commit([Delete(self._keys.answer(each, self._host)) for each in sorted(gateways)])
        except (MeshError, TimeoutError) as error:
            self._tell(
                f"what other hosts of the gateway answer for this one is not taken back: {str(error) or _SILENT}"
            )

    async def _follow(self) -> None:
        prefixes = [self._keys.answers_of(gateway) for gateway in sorted(self._wanted[0])]
        if not prefixes:
            await asyncio.Event().wait()
        found = await self._store.read(*prefixes)
        self._take(Changes(found.revision, tuple(found.entries.values()), full=True))
        self.problem = ""
        async for changes in self._store.watch(prefixes, after=found.revision):
            self._take(changes)

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            _log.warning("gateway_answers_not_shared", problem=problem)
        self.problem = problem

    def _take(self, changes: Changes) -> None:
        kept = (
            {} if changes.full else {key: entry for key, entry in self._entries.items() if key not in changes.deleted}
        )
        self._entries = kept | {entry.key: entry for entry in changes.entries}
        self._judge()

    def _judge(self) -> None:
        """Take up what counts now."""
        found: dict[str, str] = {}
        for key in sorted(self._entries)[:_MOST]:
            record = self._believed(self._entries[key])
            if record:
                found |= {token: f"{token}.{thumbprint}" for token, thumbprint in record.answers.items()}
        if found != self.others:
            self.others = found
            self.changed()

    def _believed(self, entry: Entry) -> AnswersRecord | None:
        """The record, where a gateway that is wanted vouches for it, and for this place, and it has not ended."""
        from meshagent.ca.vouching import check_vouched

        gateways, trust_domain, bundle = self._wanted
        try:
            record = decode(AnswersRecord, entry.value)
            if record.gateway not in gateways or self._keys.answer(record.gateway, record.host) != entry.key:
                raise UnreadableRecord("is of another gateway or host than its place says")
            now = self._clock()
            if record.host == self._host or not now < record.until <= now + 2 * _HOLD:
                return None
            name = spiffe_id(trust_domain, record.gateway)
            check_vouched(record.content, record.signature, record.chain.encode(), name, bundle, now)
        except (UnreadableRecord, CertificateRefused) as error:
            if self._refused.get(entry.key) != entry.revision:
                self._refused[entry.key] = entry.revision
                _log.error("gateway_answers_refused", key=entry.key, problem=str(error))
            return None
        return record
