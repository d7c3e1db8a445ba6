"""Any CA that a program can talk to. The CSR goes to its standard input, the chain (PEM, leaf first) comes out.

What it is asked for is in MESHAGENT_SPIFFE_ID and MESHAGENT_TTL_SECONDS. It says by its exit status whether to ask
again: 0 is an answer, 77 (EX_NOPERM of sysexits.h) a refusal, everything else a failure that may pass. What it writes to
standard error is not looked at: programs put tokens there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import Field, model_validator

from meshagent.ca.base import AuthorityHealth
from meshagent.ca.command import MAX_OUTPUT_BYTES, Ended, refuse_unsafe_command, run_command
from meshagent.ca.issuance import check_identity, public_key_of
from meshagent.ca.roots import bundle_of, read_trusted
from meshagent.ca.settings import Command, read_settings
from meshagent.errors import AuthorityUnavailable, CertificateRefused, MeshError, UnsafeFile
from meshagent.model.identity import TrustBundle
from meshagent.model.names import Duration, Model, format_duration

REFUSED_STATUS = 77
_PLAIN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class ExecSettings(Model):
    """The settings of the provider exec."""

    command: Command = Field(description="The program that signs, and its arguments; an absolute path first.")
    timeout: Duration = Field(default=timedelta(seconds=30), description="How long it may take; then it is killed.")
    env: tuple[str, ...] = Field(default=(), description="Variables of the agent's environment that it is given.")
    roots_file: Path | None = Field(default=None, description="File with the CA's roots (PEM), read when needed.")
    roots_command: Command | None = Field(default=None, description="A program that writes the CA's roots (PEM).")

    @model_validator(mode="after")
    def _check(self) -> ExecSettings:
        if (self.roots_file is None) == (self.roots_command is None):
            raise ValueError("must have either roots_file or roots_command")
        if not timedelta(0) < self.timeout <= timedelta(minutes=5):
            raise ValueError("timeout must be more than 0 and at most 5m")
        return self


class ExecAuthority:
    """Signs by running a program."""

    def __init__(self, settings: ExecSettings, trust_domain: str, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._trust_domain = trust_domain
        given = {name: environment[name] for name in settings.env if name in environment}
        self._environment = {**_PLAIN, **given}

    async def sign(self, csr_pem: bytes, spiffe_id: str, ttl: timedelta) -> bytes:
        """See Signer.sign."""
        public_key_of(csr_pem)
        check_identity(spiffe_id, self._trust_domain)
        asked = {"MESHAGENT_SPIFFE_ID": spiffe_id, "MESHAGENT_TTL_SECONDS": str(int(ttl.total_seconds()))}
        return await self._run(self._settings.command, csr_pem, asked)

    async def bundle(self) -> TrustBundle:
        """The roots of `roots_file` or `roots_command`, as they are now."""
        if path := self._settings.roots_file:
            return bundle_of(read_trusted(path, "roots"), self._trust_domain, str(path))
        command = self._settings.roots_command or ()
        return bundle_of(await self._run(command, b"", {}), self._trust_domain, f"what {command[0]} wrote")

    async def check(self) -> AuthorityHealth:
        """Not ok when a program may not be run or when there are no roots. Nothing is signed to find out."""
        problems = []
        try:
            refuse_unsafe_command(self._settings.command)
            if not os.access(self._settings.command[0], os.X_OK):
                problems.append(f"{self._settings.command[0]} cannot be run: chmod +x it")
        except UnsafeFile as error:
            problems.append(error.advice)
        try:
            await self.bundle()
        except MeshError as error:
            problems.append(error.advice)
        return AuthorityHealth(ok=not problems, problems=tuple(problems))

    async def close(self) -> None:
        """Nothing is held open; a program that runs is killed where the call is cancelled."""

    async def _run(self, command: Command, given: bytes, asked: Mapping[str, str]) -> bytes:
        limit = self._settings.timeout
        try:
            ended = await run_command(command, given, {**self._environment, **asked}, limit.total_seconds())
        except UnsafeFile as error:
            raise AuthorityUnavailable(f"the CA's program is not run: {error}", next_step=error.next_step) from error
        except OSError as error:
            raise AuthorityUnavailable(
                f"{command[0]} cannot be run: {error.strerror}", next_step="check that it is there and executable"
            ) from error
        if problem := _problem(command[0], ended, limit):
            raise problem
        return ended.output


def open_authority(
    settings: Mapping[str, object], *, trust_domain: str, data_dir: Path, clock: Callable[[], datetime]
) -> ExecAuthority:
    """Opens it from the agent's configuration; see ExecSettings. Raises UsageProblem."""
    del data_dir, clock  # it keeps nothing, and the program has a clock of its own
    return ExecAuthority(read_settings("exec", ExecSettings, settings), trust_domain, os.environ)


def _problem(program: str, ended: Ended, limit: timedelta) -> MeshError | None:
    """What is wrong with how it ended; none when it gave an answer."""
    by_hand = f"run {program} by hand as the agent's user; its standard error is not kept here"
    if ended.flooded:
        return CertificateRefused(
            f"{program} wrote more than {MAX_OUTPUT_BYTES} bytes and was killed", next_step="it must write a chain only"
        )
    if ended.expired:
        return AuthorityUnavailable(
            f"{program} gave no answer within {format_duration(limit)} and was killed",
            next_step=f"{by_hand}, or raise ca.timeout",
        )
    if ended.status == REFUSED_STATUS:
        return CertificateRefused(f"{program} refuses (exit status {REFUSED_STATUS})", next_step=by_hand)
    if ended.status:
        how = f"ended with status {ended.status}" if ended.status > 0 else f"was killed by signal {-ended.status}"
        return AuthorityUnavailable(f"{program} {how} ({ended.error_bytes} bytes on standard error)", next_step=by_hand)
    if not ended.output.strip():
        return CertificateRefused(f"{program} ended with status 0 and wrote nothing", next_step=by_hand)
    return None
