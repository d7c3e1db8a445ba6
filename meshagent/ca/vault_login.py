"""Who we are to Vault: a token out of a file, or one that AppRole or a JWT was exchanged for, kept alive while in use.

Secrets are files, read each time that they are needed, so that one that was replaced on disk (Nomad, systemd) is used.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from pydantic import Field

from meshagent.ca.vault_api import Vault
from meshagent.errors import AuthorityUnavailable, CertificateRefused, DataDirUnusable, MeshError, NotFound, UnsafeFile
from meshagent.model.names import Model
from meshagent.private import read_private

_log = structlog.get_logger(__name__)
_RENEWED_AT = 0.5  # parts of a token's life
_LEFT_AT = 0.9
_SHORTEST_PAUSE = 1.0  # seconds
_LONGEST_SLEEP = 86400.0
_MOUNT = r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}"


class AppRole(Model):
    """Login by Vault's AppRole."""

    role_id: str = Field(min_length=1, description="The role's ID.")
    secret_id_file: Path = Field(description="File (0600) with the secret ID.")
    mount: str = Field(default="approle", pattern=rf"^{_MOUNT}$", description="Where it is mounted.")


class JwtLogin(Model):
    """Login by a JWT, such as a Nomad workload's identity."""

    role: str = Field(min_length=1, description="The role to log in with.")
    jwt_file: Path = Field(description="File (0600) with the JWT.")
    mount: str = Field(default="jwt", pattern=rf"^{_MOUNT}$", description="Where it is mounted.")


@dataclass(frozen=True, slots=True)
class _Token:
    secret: str = field(repr=False)
    until: float = float("inf")  # of the loop's clock


class Login:
    """Gives the token to call with."""

    def __init__(self, vault: Vault, means: Path | AppRole | JwtLogin) -> None:
        self._vault = vault
        self._means = means
        self._token: _Token | None = None
        self._lock = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    async def token(self, instead_of: str = "") -> str:
        """A token, another than `instead_of` where there is one to be had: it was refused.

        Raises AuthorityUnavailable, CertificateRefused when Vault does not know who we say we are.
        """
        async with self._lock:
            now = asyncio.get_running_loop().time()
            held = self._token
            if isinstance(self._means, Path) and held and read_secret(self._means) != held.secret:
                held = None
            if held is None or now >= held.until or held.secret == instead_of:
                held = self._token = await self._log_in()
            return held.secret

    async def close(self) -> None:
        """Let the token go. It ends by itself."""
        self._token = None
        if self._keeper:
            self._keeper.cancel()
            self._keeper = None

    async def _log_in(self) -> _Token:
        if isinstance(self._means, Path):
            secret = read_secret(self._means)
            reply = await self._vault.call("GET", "auth/token/lookup-self", token=secret)
            about = reply.part("data")  # without the right to look it up (403) it is used as long as it works
            self._keep(secret, _seconds(about.get("ttl")), renewable=about.get("renewable") is True)
            return _Token(secret)
        body, secret = self._answer_to_who(self._means)
        reply = await self._vault.call("POST", f"auth/{self._means.mount}/login", body)
        auth = reply.part("auth")
        token, life = auth.get("client_token"), _seconds(auth.get("lease_duration"))
        if not reply.ok or not isinstance(token, str) or not token:
            raise CertificateRefused(
                f"Vault refuses the login by {self._means.mount}: {reply.said(secret, str(token or ''))}",
                next_step=f"check the role and the secret of ca.{'approle' if 'role_id' in body else 'jwt'}",
            )
        self._keep(token, life, renewable=auth.get("renewable") is True)
        _log.info("vault_login_done", method=self._means.mount, lease_seconds=life)
        return _Token(token, self._end(life))

    def _answer_to_who(self, means: AppRole | JwtLogin) -> tuple[dict[str, object], str]:
        """The body of a login, and the secret in it."""
        if isinstance(means, AppRole):
            secret = read_secret(means.secret_id_file)
            return {"role_id": means.role_id, "secret_id": secret}, secret
        secret = read_secret(means.jwt_file)
        return {"role": means.role, "jwt": secret}, secret

    def _end(self, life: float) -> float:
        return asyncio.get_running_loop().time() + life * _LEFT_AT if life else float("inf")

    def _keep(self, secret: str, life: float, *, renewable: bool) -> None:
        if self._keeper:
            self._keeper.cancel()
        self._keeper = asyncio.create_task(self._renew(secret, life)) if renewable and life else None

    async def _renew(self, secret: str, life: float) -> None:
        """Renew the token at half of its life, until it cannot be: then the next call logs in again."""
        pause = life * _RENEWED_AT
        while True:
            await asyncio.sleep(min(max(pause, _SHORTEST_PAUSE), _LONGEST_SLEEP))
            try:
                reply = await self._vault.call("POST", "auth/token/renew-self", {}, secret)
            except MeshError as error:
                _log.warning("vault_token_not_renewed", problem=str(error), code=error.code)
                pause = life / 10
                continue
            left = _seconds(reply.part("auth").get("lease_duration"))
            if not reply.ok or left < life * _RENEWED_AT:  # refused, or close to the longest life that it may have
                _log.warning("vault_token_not_renewed", problem=reply.said(secret), lease_seconds=left)
                return
            pause = left * _RENEWED_AT
            if self._token and self._token.secret == secret and self._token.until != float("inf"):
                self._token = _Token(secret, self._end(left))


def read_secret(path: Path) -> str:
    """The text of a file that nobody else can read. Raises AuthorityUnavailable with what is wrong with the file."""
    try:
        secret = read_private(path).decode("ascii").strip()
    except (DataDirUnusable, NotFound, UnsafeFile) as error:
        raise AuthorityUnavailable(str(error), next_step=error.next_step or f"write the secret into {path}") from None
    except UnicodeDecodeError:
        secret = ""
    if not secret or not secret.isprintable():
        raise AuthorityUnavailable(f"{path} does not hold a secret", next_step=f"write the secret alone into {path}")
    return secret


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0
