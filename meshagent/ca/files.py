"""Keys and certificates that somebody else puts on this machine: SPIRE's helper, certbot, a configuration tool.

They swap files one after the other, or a link that all of them are reached by. Whichever way, a key and a chain that do
not belong together are a pair half-way, which is not taken: the last whole one stays until the other half is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import Field, model_validator

from meshagent.ca.base import AuthorityHealth, Issued
from meshagent.ca.issuance import check_identity
from meshagent.ca.pairs import Stamp, read_pair, stamp
from meshagent.ca.roots import bundle_of, read_trusted
from meshagent.ca.settings import read_settings
from meshagent.errors import AuthorityUnavailable, CertificateRefused, MeshError
from meshagent.model.identity import TrustBundle
from meshagent.model.names import Duration, Model, parse_spiffe_id


class FilesSettings(Model):
    """The settings of the provider files."""

    directory: Path | None = Field(default=None, description="Where paths that are not absolute begin.")
    cert: str = Field(default="{service}.pem", description="A service's chain (PEM, leaf first).")
    key: str = Field(default="{service}.key", description="Its key (PEM), open to nobody else.")
    roots: str = Field(default="roots.pem", description="The roots (PEM) that the chains lead to.")
    poll: Duration = Field(default=timedelta(seconds=1), description="How often the files are looked at.")

    @model_validator(mode="after")
    def _check(self) -> FilesSettings:
        for name, path in (("cert", self.cert), ("key", self.key), ("roots", self.roots)):
            if self.directory is None and not path.startswith("/"):
                raise ValueError(f"must have directory, or an absolute path for {name}")
            if (path.count("{service}") == 0) != (name == "roots"):
                raise ValueError(f"{name} must {'not ' if name == 'roots' else ''}hold {{service}}")
        if self.directory is not None and not self.directory.is_absolute():
            raise ValueError("directory must be an absolute path")
        if not timedelta(milliseconds=10) <= self.poll <= timedelta(minutes=1):
            raise ValueError("poll must be 10ms to 1m")
        return self

    def path(self, template: str, service: str = "") -> Path:
        """Where a file of this service is."""
        return Path(self.directory or "/", template.replace("{service}", service))


@dataclass(slots=True)
class _Held:
    """What was given out for a service, what the files looked like when they were last read, and what was wrong."""

    given: Issued | None = None
    newest: Issued | None = None
    seen: tuple[Stamp, ...] = ()
    problem: MeshError | None = field(default=None)


class FilesAuthority:
    """Hands out the pairs that are on disk."""

    def __init__(self, settings: FilesSettings, trust_domain: str) -> None:
        self._settings = settings
        self._trust_domain = trust_domain
        self._held: dict[str, _Held] = {}  # by SPIFFE ID

    async def issue(self, spiffe_id: str, ttl: timedelta) -> Issued:
        """See KeyMaker.issue. The newest whole pair; `ttl` is up to whoever made it, and the check of it to the caller.

        Raises AuthorityUnavailable while there is none.
        """
        del ttl
        check_identity(spiffe_id, self._trust_domain)
        held = self._held.setdefault(spiffe_id, _Held())
        await asyncio.to_thread(self._look, spiffe_id, held)
        if held.newest is None:
            raise held.problem or AuthorityUnavailable(f"there are no files for {spiffe_id} yet")
        held.given = held.newest
        return held.newest

    async def changed(self) -> frozenset[str]:
        """See Announcing.changed: waits until a pair other than the one given out is there and whole."""
        while True:
            await asyncio.sleep(self._settings.poll.total_seconds())
            if fresh := await asyncio.to_thread(self._fresh):
                return fresh

    async def bundle(self) -> TrustBundle:
        """The roots in the file `roots`, as it is now."""
        path = self._settings.path(self._settings.roots)
        return bundle_of(await asyncio.to_thread(read_trusted, path, "roots"), self._trust_domain, str(path))

    async def check(self) -> AuthorityHealth:
        """Not ok when the files of a service that was asked for cannot be used, or when there are no roots."""
        problems = [held.problem.advice for held in self._held.values() if held.problem]
        try:
            await self.bundle()
        except MeshError as error:
            problems.append(error.advice)
        return AuthorityHealth(ok=not problems, problems=tuple(problems))

    async def close(self) -> None:
        """Nothing is held open."""

    def _fresh(self) -> frozenset[str]:
        found = set()
        for spiffe_id, held in list(self._held.items()):  # another thread may add one meanwhile
            self._look(spiffe_id, held)
            if held.newest is not None and held.newest != held.given:
                held.given = held.newest  # told once; who does not come for it is told of the next one
                found.add(spiffe_id)
        return frozenset(found)

    def _look(self, spiffe_id: str, held: _Held) -> None:
        """Take the pair on disk when it is another one than before, and whole. A half of one is looked at again."""
        _, service = parse_spiffe_id(spiffe_id) or ("", "")
        paths = [self._settings.path(template, service) for template in (self._settings.cert, self._settings.key)]
        try:
            seen = tuple(stamp(path) for path in paths)
            if seen != held.seen or held.problem:
                held.newest, held.problem, held.seen = read_pair(*paths), None, seen
        except (AuthorityUnavailable, CertificateRefused) as error:
            held.problem = error


def open_authority(
    settings: Mapping[str, object], *, trust_domain: str, data_dir: Path, clock: Callable[[], datetime]
) -> FilesAuthority:
    """Opens it from the agent's configuration; see FilesSettings. Raises UsageProblem."""
    del data_dir, clock  # it keeps nothing, and the files say themselves how long they are good for
    return FilesAuthority(read_settings("files", FilesSettings, settings), trust_domain)
