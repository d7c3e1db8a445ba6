"""Certificates that gateways show to outside: read from files on this host, and again when those are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Never

import structlog

from meshagent.errors import AuthorityUnavailable, CertificateRefused, MeshError
from meshagent.model.gateway import CertificateFiles, KeyPair

if TYPE_CHECKING:
    from meshagent.ca.pairs import Stamp

_log = structlog.get_logger(__name__)
_EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Read:
    """What was last taken from two files, what these looked like, and when the certificate ends."""

    stamps: tuple[Stamp, Stamp]
    pair: KeyPair
    ends: datetime


class KeyPairs:
    """Keeps the pairs that are wanted, by certificate file. `changed` is called with all of them after every change.

    Files that cannot be used leave the last good pair in use, and `problems` says why.
    """

    def __init__(self, clock: Callable[[], datetime], changed: Callable[[Mapping[str, KeyPair]], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._wanted: frozenset[CertificateFiles] = frozenset()
        self._read: dict[str, _Read] = {}
        self._moved = asyncio.Event()
        self.problems: dict[str, str] = {}

    @property
    def pairs(self) -> dict[str, KeyPair]:
        """All that are there, by certificate file."""
        return {file: each.pair for file, each in self._read.items()}

    def want(self, files: Collection[CertificateFiles]) -> None:
        """Say which are needed."""
        wanted = frozenset(files)
        if wanted == self._wanted:
            return
        gone = {each.cert_file for each in self._wanted - wanted}
        self._wanted = wanted
        for file in gone:  # also one that has another key file now
            self._read.pop(file, None)
            self.problems.pop(file, None)
        self._moved.set()

    async def run(self) -> Never:
        """Look at the files each second, while any are wanted, for ever."""
        while True:
            self._moved.clear()
            await self.look()
            try:
                async with asyncio.timeout(_EVERY_SECONDS if self._wanted else None):
                    await self._moved.wait()
            except TimeoutError:
                pass

    async def look(self) -> None:
        """Read what is there now."""
        before, wanted = self.pairs, self._wanted
        for files in sorted(wanted, key=lambda each: each.cert_file):
            held = self._read.get(files.cert_file)
            try:
                found = await asyncio.to_thread(_look, files, held)
            except (AuthorityUnavailable, CertificateRefused) as error:
                self._tell(files.cert_file, _words(error, held))
                continue
            if files not in self._wanted:
                continue
            if found is not held:
                self._read[files.cert_file] = found
                _log.info("gateway_certificate_read", file=files.cert_file, expires_at=found.ends.isoformat())
            over = found.ends <= self._clock()
            self._tell(files.cert_file, f"ended at {found.ends:%Y-%m-%dT%H:%M:%SZ}: clients refuse it" if over else "")
        if self.pairs != before:
            self._changed(self.pairs)

    def _tell(self, file: str, problem: str) -> None:
        if problem == self.problems.get(file, ""):
            return
        if problem:
            self.problems[file] = problem
            _log.error("gateway_certificate_unusable", file=file, problem=problem)
        else:
            del self.problems[file]


def _look(files: CertificateFiles, held: _Read | None) -> _Read:
    """The pair on disk; `held` itself where the files look as they did. Raises AuthorityUnavailable, CertificateRefused."""
    from meshagent.ca.pairs import read_server_pair, stamp

    cert, key = Path(files.cert_file), Path(files.key_file)
    stamps = stamp(cert), stamp(key)
    if held and held.stamps == stamps:
        return held
    pair, ends = read_server_pair(cert, key)
    return _Read(stamps, KeyPair(pair.chain_pem, pair.key_pem), ends)


def _words(error: MeshError, held: _Read | None) -> str:
    return f"{error}: the last good certificate stays in use" if held else f"{error}: it is not shown to anybody"
