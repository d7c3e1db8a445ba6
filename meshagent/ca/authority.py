"""The provider `authority`: a mesh's own signing authorities, asked over HTTPS by hosts that have joined.

Authorities are known by the pinned roots alone, there is no way to turn that off (attack test 44). The pins follow the
trust bundle that hosts verify: new roots are added at once, old ones go when an authority has been reached without them.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import AfterValidator, BeforeValidator, Field

from meshagent.ca.authority_calls import Calls, known_by
from meshagent.ca.base import AuthorityHealth
from meshagent.ca.host_identity import CHAIN_FILE, KEY_FILE, ROOTS_FILE, host_csr, host_key, keep_host, load_host
from meshagent.ca.rotation import LONGEST_WAIT, Renew, backoff, next_step, spread, superseded
from meshagent.ca.settings import read_settings
from meshagent.errors import AuthorityUnavailable, CertificateRefused, MeshError, NotFound, UsageProblem
from meshagent.model.identity import Svid, TrustBundle
from meshagent.model.joining import check_place
from meshagent.model.names import Model
from meshagent.private import read_private, write_private

_log = structlog.get_logger(__name__)
_CLOCKS_APART = timedelta(seconds=30)
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def _split(given: object) -> object:
    """An environment variable holds the addresses as one text."""
    return [each for each in given.replace(",", " ").split() if each] if isinstance(given, str) else given


Place = Annotated[str, AfterValidator(check_place)]


class Settings(Model):
    """Further keys of `ca`."""

    addresses: Annotated[tuple[Place, ...], BeforeValidator(_split), Field(min_length=1, max_length=32)]
    roots_file: Path | None = None
    jwt_file: Path | None = None


class AuthorityClient:
    """Asks authorities to sign. Its own certificate is kept good with `tend`, or by the calls themselves."""

    def __init__(self, settings: Settings, trust_domain: str, data_dir: Path, clock: Callable[[], datetime]) -> None:
        self._trust_domain = trust_domain
        self._directory = data_dir
        self._roots_file = settings.roots_file or data_dir / ROOTS_FILE
        self._jwt_file = settings.jwt_file
        self.skew: float | None = None  # seconds that the authority's clock is ahead of ours, once it told
        self._clock = clock
        self._addresses = settings.addresses
        self._calls = Calls(settings.addresses, self._context)
        self._at = random.random()  # noqa: S311 - when in the window to renew: spreads load, hides nothing
        self._failures, self._not_before = 0, datetime.min.replace(tzinfo=clock().tzinfo)
        self._leaving: tuple[str, ...] = ()  # roots that nothing signs with any more
        self._move: datetime | None = None  # when this host's certificate goes over to the root that signs now
        self.own_root = ""  # hex SHA-256 of the root that this host's certificate leads to, once it was looked at
        pinned_roots(self._roots_file)

    async def sign(self, csr_pem: bytes, spiffe_id: str, ttl: timedelta) -> bytes:
        """See Signer.sign. A host asks as itself, a Nomad task by its JWT."""
        await self._renew_own()
        body = {"csr": csr_pem.decode(), "spiffe_id": spiffe_id, "ttl_seconds": ttl.total_seconds()}
        answer = await self._calls.post("/v1/sign", body, bearer=self._jwt())
        return _text(answer, "chain").encode()

    async def bundle(self) -> TrustBundle:
        """The roots as the authorities have them now."""
        roots = (await self._calls.get("/v1/roots")).get("roots")
        if not isinstance(roots, list) or not all(isinstance(each, str) for each in roots):
            raise AuthorityUnavailable("the authority's answer has no roots", next_step="see its log")
        return TrustBundle(((self._trust_domain, tuple(roots)),))

    async def check(self) -> AuthorityHealth:
        """Not ok when no authority answers, this host's certificate is of no use, or the clocks differ."""
        problems: list[str] = []
        try:
            if self._jwt_file is None:
                self._own()
            answer = await self._calls.get("/v1/roots")
            problems += self._clock_problems(answer.get("now"))
        except MeshError as error:
            problems.append(error.advice)
        return AuthorityHealth(ok=not problems, problems=tuple(problems))

    async def tend(self, bundle: TrustBundle) -> None:
        """Renew this host's certificate when it is time, and let the pinned roots follow those that hosts believe now.

        Raises nothing that an authority can cause: what cannot be done now is tried again the next time.
        """
        self._leaving = bundle.leaving
        await self._renew_own()
        wanted, pinned = bundle.of(self._trust_domain), pinned_roots(self._roots_file)
        if not wanted or {_bare(each) for each in wanted} == {_bare(each) for each in pinned}:
            return
        known = {_bare(each) for each in pinned}
        added = tuple(each for each in wanted if _bare(each) not in known)
        if added:
            self._pin((*pinned, *added))
        if await self._reached_with(wanted):
            self._pin(wanted)

    async def close(self) -> None:
        """Nothing is held open."""

    async def _renew_own(self) -> None:
        """Renew the host's certificate between 50 and 66 % of its life, or when another root signs.

        One that has ended, or is not there, cannot be: so an old root may go only when every host is off it.
        """
        if self._jwt_file is not None:
            return
        now, own = self._clock(), self._own()
        self.own_root = own.root_digest
        due = next_step(now, own, self._pinned(), self._trust_domain, self._at, self._moment(own, now))
        if not isinstance(due, Renew) or now < self._not_before <= now + LONGEST_WAIT:
            return
        try:
            key = host_key(self._directory)
            answer = await self._calls.post("/v1/renew", {"csr": host_csr(key)})
            host = own.spiffe_id.rpartition("/")[2]
            chain = _text(answer, "chain").encode()
            kept = keep_host(self._directory, chain, host, self._pinned(), self._trust_domain, now)
        except (AuthorityUnavailable, CertificateRefused) as error:
            self._not_before = now + backoff(self._failures, random.random())  # noqa: S311 - jitter
            self._failures += 1
            _log.warning("host_certificate_not_renewed", problem=str(error), expires_at=own.expires_at.isoformat())
            return
        self._failures, self._at, self.own_root = 0, random.random(), kept.root_digest  # noqa: S311
        self._move = now + LONGEST_WAIT if kept.root_digest in self._leaving else None
        _log.info("host_certificate_renewed", serial=kept.serial, expires_at=kept.expires_at.isoformat())

    def _own(self) -> Svid:
        return load_host(self._directory, self._pinned(), self._trust_domain, self._clock())

    def _moment(self, own: Svid, now: datetime) -> datetime | None:
        if not superseded(own, self._pinned()):
            self._move = None
        elif self._move is None:
            self._move = now + spread(own, random.random())  # noqa: S311
        return self._move

    def _pinned(self) -> TrustBundle:
        return TrustBundle(((self._trust_domain, pinned_roots(self._roots_file)),), self._leaving)

    def _pin(self, roots: tuple[str, ...]) -> None:
        write_private(self._roots_file, "".join(f"{_bare(each)}\n" for each in roots).encode())
        _log.info("authority_roots_pinned", roots=len(roots))

    def _context(self, roots: tuple[str, ...] | None = None) -> ssl.SSLContext:
        pem = "\n".join(roots or pinned_roots(self._roots_file))
        own = (self._directory / CHAIN_FILE, self._directory / KEY_FILE) if self._jwt_file is None else None
        return known_by(pem, self._trust_domain, own)

    async def _reached_with(self, roots: tuple[str, ...]) -> bool:
        """Whether an authority is reached that these roots vouch for."""
        try:
            await Calls(self._addresses, lambda: self._context(roots)).get("/v1/roots")
        except (AuthorityUnavailable, CertificateRefused):
            return False
        return True

    def _jwt(self) -> str:
        """The JWT as its file has it now, "" for none."""
        if self._jwt_file is None:
            return ""
        try:
            return read_private(self._jwt_file).decode().strip()
        except (NotFound, UnicodeDecodeError):
            raise AuthorityUnavailable(
                f"{self._jwt_file} holds no JWT", next_step="see ca.jwt_file and the job's identity block"
            ) from None

    def _clock_problems(self, told: object) -> list[str]:
        try:
            ahead = datetime.fromisoformat(str(told)) - self._clock()
        except (ValueError, TypeError):
            return ["the authority does not tell its time: see its log"]
        self.skew = ahead.total_seconds()
        if abs(ahead) <= _CLOCKS_APART:
            return []
        return [f"this host's clock and the authority's are {abs(self.skew):.0f} s apart: set both by NTP"]


def open_authority(
    settings: Mapping[str, object], *, trust_domain: str, data_dir: Path, clock: Callable[[], datetime]
) -> AuthorityClient:
    """Opens it from the agent's configuration: `addresses`, `roots_file` and `jwt_file`. Raises UsageProblem."""
    return AuthorityClient(_checked(settings), trust_domain, data_dir, clock)


def check_settings(settings: Mapping[str, object], data_dir: Path) -> None:
    """Raises UsageProblem unless an agent can be started with them: no authority is believed without a pinned root."""
    pinned_roots(_checked(settings).roots_file or data_dir / ROOTS_FILE)


def pinned_roots(path: Path) -> tuple[str, ...]:
    """The PEM roots in the file. Raises UsageProblem when there is none, and what private files raise."""
    try:
        text = read_private(path).decode(errors="replace")
    except NotFound:
        text = ""
    roots = tuple(f"{_BEGIN}{each.partition(_END)[0]}{_END}\n" for each in text.split(_BEGIN)[1:])
    if not roots:
        raise UsageProblem(
            f"no root is pinned in {path}, so no authority can be told from an impostor",
            next_step="run `meshagent join` on this host, or set ca.roots_file to the mesh's roots",
        )
    return roots


def _checked(settings: Mapping[str, object]) -> Settings:
    return read_settings("authority", Settings, settings)


def _bare(pem: str) -> str:
    return pem.strip()


def _text(answer: Mapping[str, object], key: str) -> str:
    found = answer.get(key)
    if not isinstance(found, str):
        raise CertificateRefused(f"the authority's answer has no {key}", next_step="see its log")
    return found
