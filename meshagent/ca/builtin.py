"""The built-in CA: a root key in a private directory, for one machine. Several agents on it may share the directory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.audit import AuditLine, write_audit
from meshagent.ca.base import AuthorityHealth
from meshagent.ca.issuance import (
    DEFAULT_TTL,
    LONGEST_TTL,
    Issuer,
    check_identity,
    granted_ttl,
    issue,
    new_root,
    public_key_of,
    to_pem,
    trust_domain_of,
)
from meshagent.ca.x509 import UNREADABLE, key_der, key_to_pem
from meshagent.errors import (
    AuthorityUnavailable,
    CertificateRefused,
    DataDirUnusable,
    NotFound,
    UnsafeFile,
    UsageProblem,
)
from meshagent.model.identity import TrustBundle
from meshagent.model.names import format_duration, parse_duration
from meshagent.private import append_private, locked, private_dir, read_private, write_private

KEY_FILE, ROOT_FILE, AUDIT_FILE, LOCK_FILE = "root.key", "root.pem", "audit.jsonl", "lock"
SETTINGS = frozenset({"path", "max_ttl"})
WARN_BEFORE_END = timedelta(days=30)

Clock = Callable[[], datetime]


class BuiltinAuthority:
    """Signs with a root of its own. Every verdict leaves an audit line; without a line there is no signature."""

    def __init__(self, path: Path, trust_domain: str, issuer: Issuer, *, clock: Clock, max_ttl: timedelta) -> None:
        self._audit_path = path / AUDIT_FILE
        self._trust_domain = trust_domain
        self._issuer = issuer
        self._clock = clock
        self._max_ttl = max_ttl

    async def sign(self, csr_pem: bytes, spiffe_id: str, ttl: timedelta) -> bytes:
        """See Authority.sign. In a thread, since the audit line waits for the disk."""
        return await asyncio.to_thread(self._sign, csr_pem, spiffe_id, ttl)

    async def bundle(self) -> TrustBundle:
        """The one root."""
        return TrustBundle(((self._trust_domain, (to_pem(self._issuer.certificate).decode(),)),))

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
            granted = granted_ttl(ttl, self._max_ttl, now, self._issuer.certificate.not_valid_after_utc)
        except (CertificateRefused, AuthorityUnavailable) as refusal:
            reason = refusal.message
            self._audit(AuditLine(when=now, spiffe_id=identity, verdict="refused", key_sha256=key_hash, reason=reason))
            raise
        certificate = issue(key, identity, granted, self._issuer, now)
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
            return [f"{error}: {error.next_step}"]
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
    issuer = _load(path) or _create(path, trust_domain, clock)
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


def _load(path: Path) -> Issuer | None:
    """The CA on disk; None when none was ever made to its end (the key is written first, the certificate last)."""
    try:
        certificate_pem = read_private(path / ROOT_FILE)
    except NotFound:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = _load_key(path / KEY_FILE)
    except NotFound as error:
        raise _broken(path, f"{KEY_FILE} is missing") from error
    except UNREADABLE as error:
        raise _broken(path, f"{ROOT_FILE} cannot be read") from error
    if key_der(key.public_key()) != key_der(certificate.public_key()):
        raise _broken(path, f"{KEY_FILE} does not belong to {ROOT_FILE}")
    return Issuer(certificate, key)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Raises NotFound. The parser's own words are left out of the error: they are about a secret."""
    try:
        key = serialization.load_pem_private_key(read_private(path), password=None)
    except (*UNREADABLE, TypeError):  # TypeError: it is encrypted
        raise _broken(path.parent, f"{path.name} cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _broken(path.parent, f"{path.name} is not an ECDSA key")
    return key


def _create(path: Path, trust_domain: str, clock: Clock) -> Issuer:
    with locked(path / LOCK_FILE):
        if made_meanwhile := _load(path):
            return made_meanwhile
        try:
            key = _load_key(
                path / KEY_FILE
            )  # a crash came between the two files; no certificate was ever signed with it
        except NotFound:
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(path / KEY_FILE, key_to_pem(key))
        certificate = new_root(key, trust_domain, clock())
        write_private(path / ROOT_FILE, to_pem(certificate))
        return Issuer(certificate, key)


def _broken(path: Path, what: str) -> AuthorityUnavailable:
    return AuthorityUnavailable(
        f"the CA in {path} is damaged: {what}",
        next_step=f"restore {path} from a backup; a new root (rm {path}/root.*) means that every host must be given it",
    )
