"""Nomad's workload identities: a JWT that Nomad signed says which job and task asks, rules say which services that may be.

RS256 and EdDSA are what Nomad signs with; nothing else is read, whatever a token's own header says (attack test 41).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from meshagent.config.authority import NomadConfig, NomadRule
from meshagent.errors import AuthorityUnavailable, CertificateRefused

if TYPE_CHECKING:
    from jwt import PyJWK

_log = structlog.get_logger(__name__)
_REFETCH_SECONDS = 60.0  # between two fetches for keys that are not known
_FETCH_SECONDS = 5.0
_MAX_JWKS, _MAX_TOKEN = 256 * 1024, 16 * 1024
_LEEWAY_SECONDS = 30
_LONGEST_CLAIM = 256
_ALGORITHMS: Mapping[str, tuple[str, str | None]] = {"RS256": ("RSA", None), "EdDSA": ("OKP", "Ed25519")}
_NEXT_STEP = "see the job's identity block, and nomad in authority.yaml"


@dataclass(frozen=True, slots=True)
class Workload:
    """Who asks, as Nomad says, and which services the rules make of it."""

    namespace: str
    job: str
    task: str
    service: str
    services: frozenset[str]

    @property
    def name(self) -> str:
        """As the audit log has it."""
        return f"nomad:{self.namespace}/{self.job}/{self.task or self.service}"


class Workloads:
    """Judges JWTs by the keys that Nomad publishes. `clock` gives UTC, `ticks` seconds that never go back."""

    def __init__(self, config: NomadConfig, clock: Callable[[], datetime], ticks: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._ticks = ticks
        self._keys: dict[str, PyJWK] = {}
        self._fetched: float | None = None
        self._fetching = asyncio.Lock()

    async def judge(self, token: str) -> Workload:
        """The workload that a JWT proves. Raises CertificateRefused, AuthorityUnavailable when Nomad's keys are not there."""
        if not self._config.on:
            raise _refused("this authority takes no Nomad identities")
        kid, algorithm = _header(token)
        key = await self._key(kid)
        claims = _verified(token, key, algorithm, self._config.audience, self._clock())
        return workload_of(claims, self._config.rules)

    async def _key(self, kid: str) -> PyJWK:
        if kid not in self._keys:
            async with self._fetching:
                if kid not in self._keys and self._may_fetch():
                    self._fetched = self._ticks()
                    self._keys = parse_keys(await self._read())
                    _log.info("nomad_keys_read", keys=sorted(self._keys))
        if kid not in self._keys:
            raise _refused("it is signed with a key that Nomad does not publish")
        return self._keys[kid]

    def _may_fetch(self) -> bool:
        return self._fetched is None or self._ticks() - self._fetched >= _REFETCH_SECONDS

    async def _read(self) -> bytes:
        config = self._config
        try:
            if config.jwks_file:
                return await asyncio.to_thread(config.jwks_file.read_bytes)
            return await _fetched(config)
        except (OSError, TimeoutError) as error:
            raise AuthorityUnavailable(
                f"Nomad's keys cannot be read: {str(error) or type(error).__name__}",
                next_step="check nomad.jwks_url, nomad.jwks_file and nomad.jwks_ca_file in authority.yaml",
            ) from None


def workload_of(claims: Mapping[str, Any], rules: tuple[NomadRule, ...]) -> Workload:
    """Who the claims say it is, and which services the rules that fit give it. Raises CertificateRefused. Pure."""
    namespace, job = _claim(claims, "nomad_namespace"), _claim(claims, "nomad_job_id")
    task, service = _claim(claims, "nomad_task"), _claim(claims, "nomad_service")
    if not namespace or not job or not (task or service):
        raise _refused("it names no workload of Nomad")
    fitting = (
        rule
        for rule in rules
        if (rule.namespace, rule.job) == (namespace, job)
        and ((rule.task and rule.task == task) or (rule.service and rule.service == service))
    )
    services = frozenset(name for rule in fitting for name in rule.services)
    if not services:
        raise _refused(f"no rule gives {namespace}/{job}/{task or service} a service")
    return Workload(namespace, job, task, service, services)


def parse_keys(text: bytes) -> dict[str, PyJWK]:
    """The keys of a JWKS that can be used, by their id. Raises AuthorityUnavailable for what is no JWKS."""
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    try:
        data = json.loads(text)
        listed = data["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AuthorityUnavailable("Nomad's keys are no JWKS", next_step="check nomad.jwks_url or jwks_file") from None
    found: dict[str, PyJWK] = {}
    for each in listed if isinstance(listed, list) else ():
        if not isinstance(each, dict) or not isinstance(each.get("kid"), str):
            continue
        algorithm = _algorithm_of(each)
        if algorithm and each["kid"] not in found:
            try:
                found[each["kid"]] = PyJWK.from_dict(each, algorithm=algorithm)
            except (PyJWTError, ValueError):
                continue
    return found


def _algorithm_of(key: Mapping[str, Any]) -> str:
    """The one algorithm that this key is for, "" for none of ours. A secret key among them would be everybody's."""
    if key.get("use", "sig") != "sig":
        return ""
    for algorithm, (kind, curve) in _ALGORITHMS.items():
        if (
            key.get("kty") == kind
            and (curve is None or key.get("crv") == curve)
            and key.get("alg", algorithm) == algorithm
        ):
            return algorithm
    return ""


def _header(token: str) -> tuple[str, str]:
    """Key id and algorithm as the token claims them, both of a form that we take."""
    import jwt

    if len(token) > _MAX_TOKEN:
        raise _refused("it is too long")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise _refused("it cannot be read") from None
    kid, algorithm = header.get("kid"), header.get("alg")
    if algorithm not in _ALGORITHMS:
        raise _refused("it is not signed with RS256 or EdDSA")
    if not isinstance(kid, str) or not kid:
        raise _refused("it does not name its key")
    return kid, str(algorithm)


def _verified(token: str, key: PyJWK, algorithm: str, audience: str, now: datetime) -> dict[str, Any]:
    """The claims of a token that this key signed. Times are judged by `now`, not by the library's own clock."""
    import jwt

    if key.algorithm_name != algorithm:
        raise _refused("its key is for another algorithm")
    options: Any = {"require": ["exp", "aud"], "verify_exp": False, "verify_nbf": False, "verify_iat": False}
    try:
        claims = jwt.decode(token, key.key, algorithms=[algorithm], audience=audience, options=options)
    except jwt.PyJWTError as error:
        raise _refused(f"{error}"[:200]) from None
    seconds = now.timestamp()
    if _time(claims, "exp", 0.0) + _LEEWAY_SECONDS <= seconds:
        raise _refused("it has ended")
    if _time(claims, "nbf", seconds) - _LEEWAY_SECONDS > seconds:
        raise _refused("it has not begun")
    return dict(claims)


def _time(claims: Mapping[str, Any], name: str, default: float) -> float:
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(f"its {name} is no time")
    return float(value)


def _claim(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name, "")
    return value if isinstance(value, str) and len(value) <= _LONGEST_CLAIM else ""


def _refused(reason: str) -> CertificateRefused:
    return CertificateRefused(f"the workload's JWT is not accepted: {reason}", next_step=_NEXT_STEP)


async def _fetched(config: NomadConfig) -> bytes:
    import aiohttp

    context: ssl.SSLContext | bool = True
    if config.jwks_ca_file:
        context = ssl.create_default_context(cafile=config.jwks_ca_file)
    timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.get(config.jwks_url, ssl=context, allow_redirects=False) as response,
        ):
            body = await response.content.read(_MAX_JWKS + 1)
            while len(body) <= _MAX_JWKS and (more := await response.content.read(_MAX_JWKS + 1)):
                body += more
            if response.status != 200 or len(body) > _MAX_JWKS:
                raise OSError(f"{config.jwks_url} answers {response.status} with {len(body)} bytes")
            return body
    except aiohttp.ClientError as error:
        raise OSError(str(error)) from None
