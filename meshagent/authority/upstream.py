"""Another CA as the source of the authority's own certificate: a program, or the PKI engine of Vault or OpenBao."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from meshagent.authority.standing import Upstream
from meshagent.ca.command import run_command
from meshagent.ca.issuance import INTERMEDIATE_LIFE
from meshagent.ca.settings import Command, read_settings
from meshagent.config.authority import IssuerConfig
from meshagent.errors import AuthorityUnavailable, UnsafeFile
from meshagent.model.names import Duration, Model, format_duration

if TYPE_CHECKING:
    from meshagent.ca.vault import VaultAuthority

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class ExecIssuer(Model):
    """The settings of the issuer exec."""

    command: Command = Field(description="The program that signs, and its arguments; an absolute path first.")
    timeout: Duration = Field(default=timedelta(seconds=30), description="How long it may take; then it is killed.")

    @field_validator("timeout")
    @classmethod
    def _check(cls, value: timedelta) -> timedelta:
        if not timedelta(0) < value <= timedelta(minutes=5):
            raise ValueError("must be more than 0 and at most 5m")
        return value


class ExecUpstream:
    """A program: the CSR on standard input, the chain (PEM, ours first) on standard output, exit status 0."""

    def __init__(self, settings: ExecIssuer) -> None:
        self._settings = settings

    async def intermediate(self, csr_pem: str) -> bytes:
        """See Upstream."""
        limit, program = self._settings.timeout, self._settings.command[0]
        asked = {"MESHAGENT_TTL_SECONDS": str(int(INTERMEDIATE_LIFE.total_seconds()))}
        try:
            ended = await run_command(
                self._settings.command, csr_pem.encode(), {**_ENVIRONMENT, **asked}, limit.total_seconds()
            )
        except (UnsafeFile, OSError) as error:
            raise AuthorityUnavailable(
                f"{program} is not run: {error}", next_step="see issuer in authority.yaml"
            ) from None
        if ended.expired or ended.flooded or ended.status != 0:
            how = f"gave no answer within {format_duration(limit)}" if ended.expired else f"ended with {ended.status}"
            raise AuthorityUnavailable(f"{program} {how}", next_step=f"run {program} by hand")
        return ended.output


class VaultUpstream:
    """The PKI engine's `root/sign-intermediate`."""

    def __init__(self, vault: VaultAuthority) -> None:
        self._vault = vault

    async def intermediate(self, csr_pem: str) -> bytes:
        """See Upstream."""
        try:
            return await self._vault.sign_intermediate(csr_pem, INTERMEDIATE_LIFE)
        finally:
            await self._vault.close()


def open_upstream(config: IssuerConfig) -> Upstream | None:
    """The CA that the settings name; None for the mesh's own root. Raises UsageProblem."""
    if config.provider == "exec":
        return ExecUpstream(read_settings("exec", ExecIssuer, config.provider_settings))
    if config.provider == "vault":
        from meshagent.ca.vault import VaultAuthority, VaultSettings

        settings = read_settings("vault", VaultSettings, {"role": "sign-intermediate", **config.provider_settings})
        return VaultUpstream(VaultAuthority(settings, ""))
    return None
