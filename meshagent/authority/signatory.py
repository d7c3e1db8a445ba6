"""The act of signing: what was decided becomes a certificate and an audit line, or neither."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from meshagent.authority.intermediate import Intermediate
from meshagent.ca.audit import AuditLine, write_audit
from meshagent.ca.issuance import BOTH_ENDS, CLIENT_ONLY, granted_ttl, issue, to_pem
from meshagent.ca.x509 import key_der
from meshagent.errors import AuthorityUnavailable, DataDirUnusable, UnsafeFile
from meshagent.private import append_private

AUDIT_FILE = "audit.jsonl"
Kind = Literal["service", "host"]


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, as the audit log names it, and from which address."""

    by: str = ""
    address: str = ""


class Signatory:
    """Signs with the intermediate in force. Without an audit line there is no signature."""

    def __init__(self, directory: Path, clock: Callable[[], datetime]) -> None:
        self._path = directory / AUDIT_FILE
        self._clock = clock
        self.intermediate: Intermediate | None = None

    def ready(self) -> Intermediate:
        """What signs now. Raises AuthorityUnavailable when nothing can."""
        current = self.intermediate
        if current is None or current.ends <= self._clock():
            raise AuthorityUnavailable(
                "this authority has no certificate of its own that is in force",
                next_step="meshagent ca root sign NAME, where the mesh's root is; or ask another authority",
            )
        return current

    async def sign(
        self, key: CertificatePublicKeyTypes, identity: str, kind: Kind, asked: timedelta, cap: timedelta, asker: Asker
    ) -> bytes:
        """The chain (PEM, leaf first, without the root) for a key and a name that were checked. Raises AuthorityUnavailable."""
        current, now = self.ready(), self._clock()
        ttl = granted_ttl(asked, cap, now, current.ends)
        uses = BOTH_ENDS if kind == "service" else CLIENT_ONLY
        certificate = issue(key, identity, ttl, current.issuer, now, uses)
        line = AuditLine(
            when=now,
            spiffe_id=identity,
            verdict="signed",
            serial=format(certificate.serial_number, "x"),
            key_sha256=key_digest(key),
            ttl_seconds=ttl.total_seconds(),
            by=asker.by,
            address=asker.address,
        )
        await self._write(line)
        return to_pem(certificate) + current.chain_pem

    async def refuse(self, identity: str, reason: str, asker: Asker) -> None:
        """Write down that something was refused. Raises AuthorityUnavailable."""
        await self._write(
            AuditLine(
                when=self._clock(),
                spiffe_id=identity,
                verdict="refused",
                reason=reason,
                by=asker.by,
                address=asker.address,
            )
        )

    async def grant(self, identity: str, services: tuple[str, ...], key_sha256: str, asker: Asker) -> None:
        """Write down what a host may be from now on. Raises AuthorityUnavailable."""
        await self._write(
            AuditLine(
                when=self._clock(),
                spiffe_id=identity,
                verdict="granted",
                key_sha256=key_sha256,
                reason=f"services: {', '.join(services)}",
                by=asker.by,
                address=asker.address,
            )
        )

    def audit_problem(self) -> str:
        """Why the audit log cannot be written, "" when it can."""
        try:
            append_private(self._path, b"")
        except (DataDirUnusable, UnsafeFile) as error:
            return error.advice
        return ""

    async def _write(self, line: AuditLine) -> None:
        try:
            await asyncio.to_thread(write_audit, self._path, line)
        except (DataDirUnusable, UnsafeFile) as error:
            raise AuthorityUnavailable(
                f"nothing is signed while the audit log cannot be written: {error}", next_step=error.next_step
            ) from error


def key_digest(key: CertificatePublicKeyTypes) -> str:
    """Hex SHA-256 of the public key (DER): what a grant knows a host by."""
    return hashlib.sha256(key_der(key)).hexdigest()
