"""Carrying a change of roots through its stages: what is in the store, in the root's directory, and what hosts report.

Every step first brings the directory up to what the record says, so whoever goes on after a crash, or after somebody
else, finds nothing to mend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from meshagent.ca.issuance import to_pem, trust_domain_of
from meshagent.ca.root_files import (
    depth_of,
    destroy_spare,
    digest_of,
    load_root,
    make_active,
    prepare_next,
    spare_digests,
)
from meshagent.ca.rotation import root_digests
from meshagent.cli.intermediates import sign_again
from meshagent.errors import RotationRefused
from meshagent.model.identity import TrustBundle
from meshagent.state.catalog import read_reports
from meshagent.state.records import ReportRecord
from meshagent.state.roots import Roots, Vault, activate, begin, end, keep, read_roots, retire, turn_back
from meshagent.state.rotation import Go, RotationRecord, Wait, judge

LOOK_SECONDS = 0.5
_STATUS = "meshagent ca rotate --status shows it; --abort turns it back"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a rotation is. Without `record` there is none."""

    record: RotationRecord | None
    decision: Wait | Go | None = None
    live: int = 0


class Rotating:
    """One change of roots. `root` is the directory of the mesh's root, where this machine holds it."""

    def __init__(self, vault: Vault, root: Path | None, clock: Callable[[], datetime], by: str) -> None:
        self._vault = vault
        self._root = root
        self._clock = clock
        self._by = by

    async def look(self) -> Standing:
        """How it stands. Raises NotFound, SignatureRefused, StoreUnavailable, StoreDenied."""
        roots, reports = await self._roots(), await self._reports()
        if roots.rotation is None:
            return Standing(None, live=len(reports))
        decision = judge(roots.rotation, roots.bundle.bundle(), reports, self._clock())
        return Standing(roots.rotation, decision, len(reports))

    async def replace_root(self, ttl: timedelta) -> RotationRecord:
        """Begin to replace the root in the directory by a new one, made beside it. Raises RotationRefused and others."""
        roots = await self._idle()
        directory = self._directory()
        new = prepare_next(directory, self._clock(), frozenset(roots.bundle.retired))
        current = load_root(directory)
        old, domain = digest_of(current.certificate) if current else "", trust_domain_of(new)
        if old not in root_digests(roots.bundle.bundle(), domain):
            raise RotationRefused(
                f"the root in {directory} is not in the mesh's trust bundle, so nobody believes it",
                next_step="name the directory of the mesh's own root with --root",
            )
        added = TrustBundle(((domain, (to_pem(new).decode(),)),))
        record = self._record("root", domain, [old], [digest_of(new)], await self._life(ttl))
        return await begin(self._vault, record, added)

    async def change_provider(self, added: TrustBundle, trust_domain: str, ttl: timedelta) -> RotationRecord:
        """Begin to go over from every root of the mesh to these ones, of another CA."""
        roots = await self._idle()
        new = root_digests(added)
        old = root_digests(roots.bundle.bundle()) - new
        if not old:
            raise RotationRefused(
                "the mesh's trust bundle holds no other roots than these", next_step="there is nothing to do"
            )
        record = self._record("provider", trust_domain, sorted(old), sorted(new), await self._life(ttl))
        return await begin(self._vault, record, added)

    async def step(self, record: RotationRecord, go: Go) -> RotationRecord | None:
        """Begin the next stage. Gives the record as it is then; None: the rotation is over."""
        if go.stage == "activate":
            self._switch(record)
            await self._sign_again(record)
            return await activate(self._vault, record, self._clock())
        self._settle(record)
        if go.stage == "retire":
            return await retire(self._vault, record)
        if record.kind == "root":
            for digest in record.old:
                destroy_spare(self._directory(), digest)
        await end(self._vault, record)
        return None

    def _settle(self, record: RotationRecord) -> None:
        """Once the new root signs, the directory must say so too: a crash may have come in between."""
        if record.stage != "distribute":
            self._switch(record)

    async def turn_back(self, record: RotationRecord) -> RotationRecord:
        """Go back. Raises RotationRefused once the old root is retired."""
        if record.stage == "retire":
            raise RotationRefused(
                "the old root is retired already", next_step="meshagent ca rotate ends it; then rotate once more"
            )
        if record.stage == "distribute" and record.kind == "root" and not self._unused(record):
            record = await activate(self._vault, record, self._clock())  # an interrupted step: something may be signed
        after = await turn_back(self._vault, record, self._clock())
        self._settle(after)
        await self._sign_again(after)
        return after

    async def leave_out(self, record: RotationRecord, hosts: Iterable[str]) -> RotationRecord:
        """Wait for these hosts no more."""
        without = sorted({*record.without, *hosts})
        if without == record.without:
            return record
        return await keep(self._vault, record, record.model_copy(update={"without": without}))

    async def wait(self, told: Callable[[Standing], None]) -> Standing:
        """Until the next stage may begin. `told` hears how it stands whenever that changes."""
        last: Standing | None = None
        while True:
            standing = await self.look()
            if standing.record is None or isinstance(standing.decision, Go):
                return standing
            self._settle(standing.record)
            if standing.record.stage == "activate":
                await self._sign_again(
                    standing.record
                )  # one that wrote its record at the same moment lost what we gave it
            if standing != last:
                told(standing)
            last = standing
            await asyncio.sleep(LOOK_SECONDS)

    async def _sign_again(self, record: RotationRecord) -> None:
        """Authorities on other machines go on below the root that signs now, before hosts are told of it."""
        if record.kind != "root":
            return
        root, held = load_root(self._directory()), await self._roots()
        pems = "".join(held.bundle.roots.get(record.trust_domain, ())).encode()
        if root is not None and depth_of(root.certificate) > 0 and pems:
            known = [each for each in x509.load_pem_x509_certificates(pems) if digest_of(each) in record.old]
            store, keys = self._vault.store, self._vault.keys
            await sign_again(store, keys, record.trust_domain, root, known, self._clock())

    def _switch(self, record: RotationRecord) -> None:
        if record.kind == "root":
            make_active(self._directory(), record.new[0])

    def _unused(self, record: RotationRecord) -> bool:
        """Whether the new root in the directory does not sign."""
        return record.new[0] in spare_digests(self._directory())

    def _directory(self) -> Path:
        if self._root is None or load_root(self._root) is None:
            raise RotationRefused(
                f"this machine does not hold the mesh's root{f' in {self._root}' if self._root else ''}",
                next_step="run this where the root is, or name its directory with --root",
            )
        return self._root

    async def _idle(self) -> Roots:
        roots = await self._roots()
        if roots.rotation is not None:
            raise RotationRefused("another change of roots is under way", next_step=_STATUS)
        return roots

    async def _life(self, ttl: timedelta) -> timedelta:
        """How long a certificate may live: as told, or longer where a host reports one that does."""
        now = self._clock()
        ends = (end - now for report in await self._reports() for end in report.svids.values())
        return max(ttl, *ends, timedelta(seconds=1))

    def _record(self, kind: str, domain: str, old: list[str], new: list[str], life: timedelta) -> RotationRecord:
        return RotationRecord.model_validate(
            {
                "kind": kind,
                "trust_domain": domain,
                "stage": "distribute",
                "old": old,
                "new": new,
                "ttl_seconds": life.total_seconds(),
                "began_at": self._clock(),
                "by": self._by,
            }
        )

    async def _roots(self) -> Roots:
        return await read_roots(self._vault.store, self._vault.keys, self._vault.signing.trust)

    async def _reports(self) -> tuple[ReportRecord, ...]:
        return await read_reports(self._vault.store, self._vault.keys)
