"""The built-in CA: a root key in a private directory, for one machine. Several agents on it may share the directory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from meshagent.ca.audit import AuditLine, write_audit
from meshagent.ca.base import AuthorityHealth
from meshagent.ca.issuance import (
    DEFAULT_TTL,
    LONGEST_TTL,
    Issuer,
    check_identity,
    granted_ttl,
    issue,
    public_key_of,
    to_pem,
    trust_domain_of,
)
from meshagent.ca.root_files import ROOT_FILE, create_root, load_root
from meshagent.ca.x509 import key_der
from meshagent.errors import AuthorityUnavailable, CertificateRefused, DataDirUnusable, UnsafeFile, UsageProblem
from meshagent.model.identity import TrustBundle
from meshagent.model.names import format_duration, parse_duration
from meshagent.private import append_private, private_dir

AUDIT_FILE = "audit.jsonl"
SETTINGS = frozenset({"path", "max_ttl"})
WARN_BEFORE_END = timedelta(days=30)

Clock = Callable[[], datetime]


class BuiltinAuthority:
    """Signs with a root of its own. Every verdict leaves an audit line; without a line there is no signature.

    The directory is read again when the root in it changes, as a rotation makes it: all that share it go over at once.
    """

    def __init__(self, path: Path, trust_domain: str, issuer: Issuer, *, clock: Clock, max_ttl: timedelta) -> None:
        self._path = path
        self._audit_path = path / AUDIT_FILE
        self._trust_domain = trust_domain
        self._issuer = issuer
        self._stamp: tuple[int, ...] = ()  # of the file that the issuer was read from; looked at before the first use
        self._clock = clock
        self._max_ttl = max_ttl

    async def sign(self, csr_pem: bytes, spiffe_id: str, ttl: timedelta) -> bytes:
        """See Authority.sign. In a thread, since the audit line waits for the disk."""
        return await asyncio.to_thread(self._sign, csr_pem, spiffe_id, ttl)

    async def bundle(self) -> TrustBundle:
        """The one root that signs."""
        issuer = await asyncio.to_thread(self._current)
        return TrustBundle(((self._trust_domain, (to_pem(issuer.certificate).decode(),)),))

    async def check(self) -> AuthorityHealth:
        """Not ok when the audit log cannot be written or the root has ended or is about to."""
        problems = [*self._root_problems(), *await asyncio.to_thread(self._audit_problems)]
        return AuthorityHealth(ok=not problems, problems=tuple(problems))

    async def close(self) -> None:
        """Nothing is held open."""

    def _sign(self, csr_pem: bytes, identity: str, ttl: timedelta) -> bytes:
        now = self._clock()
        key_hash = ""
        try:
            key = public_key_of(csr_pem)
            key_hash = hashlib.sha256(key_der(key)).hexdigest()
            check_identity(identity, self._trust_domain)
            issuer = self._current()
            granted = granted_ttl(ttl, self._max_ttl, now, issuer.certificate.not_valid_after_utc)
        except (CertificateRefused, AuthorityUnavailable) as refusal:
            reason = refusal.message
            self._audit(AuditLine(when=now, spiffe_id=identity, verdict="refused", key_sha256=key_hash, reason=reason))
            raise
        certificate = issue(key, identity, granted, issuer, now)
        self._audit(
            AuditLine(
                when=now,
                spiffe_id=identity,
                verdict="signed",
                serial=format(certificate.serial_number, "x"),
                key_sha256=key_hash,
                ttl_seconds=granted.total_seconds(),
            )
        )
        return to_pem(certificate)

    def _current(self) -> Issuer:
        """The root as it is on disk now. Raises AuthorityUnavailable."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return self._issuer
        try:
            issuer = load_root(self._path)
        except (DataDirUnusable, UnsafeFile) as error:
            raise AuthorityUnavailable(f"the CA's root cannot be read: {error}", next_step=error.next_step) from error
        if issuer is None or trust_domain_of(issuer.certificate) != self._trust_domain:
            raise AuthorityUnavailable(
                f"the CA in {self._path} has no root of {self._trust_domain} any more",
                next_step=f"put back {ROOT_FILE} and its key",
            )
        self._issuer, self._stamp = issuer, stamp
        return issuer

    def _audit(self, line: AuditLine) -> None:
        try:
            write_audit(self._audit_path, line)
        except (DataDirUnusable, UnsafeFile) as error:
            raise AuthorityUnavailable(
                f"nothing is signed while the audit log cannot be written: {error}", next_step=error.next_step
            ) from error

    def _root_problems(self) -> list[str]:
        ends = self._issuer.certificate.not_valid_after_utc
        if ends - self._clock() > WARN_BEFORE_END:
            return []
        return [f"the root ends at {ends:%Y-%m-%dT%H:%M:%SZ}: give the CA a new root"]

    def _audit_problems(self) -> list[str]:
        try:
            append_private(self._audit_path, b"")
        except (DataDirUnusable, UnsafeFile) as error:
            return [error.advice]
        return []


def open_builtin(path: Path, trust_domain: str, *, clock: Clock, max_ttl: timedelta = DEFAULT_TTL) -> BuiltinAuthority:
    """The CA in the directory `path`, made there with a new root when there is none. `clock` gives UTC.

    `max_ttl` caps every certificate's life (1 h, at most 24 h). Raises UsageProblem when the directory belongs to
    another trust domain, AuthorityUnavailable when a part of it is missing or broken, and what private files raise.
    """
    if not timedelta(0) < max_ttl <= LONGEST_TTL:
        raise UsageProblem(
            f"ca.max_ttl is {format_duration(max_ttl)}",
            next_step=f"set more than 0 and at most {format_duration(LONGEST_TTL)}",
        )
    private_dir(path)
    issuer = load_root(path) or create_root(path, trust_domain, clock())
    if (owner := trust_domain_of(issuer.certificate)) != trust_domain:
        raise UsageProblem(
            f"the CA in {path} is for the trust domain {owner or '(none)'}, not {trust_domain}",
            next_step="set ca.path to another directory, or the mesh's trust_domain to the CA's",
        )
    return BuiltinAuthority(path, trust_domain, issuer, clock=clock, max_ttl=max_ttl)


def open_authority(
    settings: Mapping[str, object], *, trust_domain: str, data_dir: Path, clock: Clock
) -> BuiltinAuthority:
    """Opens it from the agent's configuration: `path` (default: `ca` in the data directory) and `max_ttl`."""
    if unknown := settings.keys() - SETTINGS:
        raise UsageProblem(
            f"ca: builtin does not know {', '.join(sorted(unknown))}",
            next_step=f"it knows {', '.join(sorted(SETTINGS))}",
        )
    path = settings.get("path", data_dir / "ca")
    if not isinstance(path, str | Path):
        raise UsageProblem("ca.path must be the path of a directory", next_step="set it, or leave it out")
    try:
        max_ttl = parse_duration(settings.get("max_ttl", DEFAULT_TTL))
    except ValueError as error:
        raise UsageProblem(f"ca.max_ttl {error}", next_step="set it, or leave it out") from error
    return open_builtin(Path(path), trust_domain, clock=clock, max_ttl=max_ttl)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with the root's file; empty while there is none."""
    try:
        found = (path / ROOT_FILE).stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size
