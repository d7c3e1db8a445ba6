"""Certificates that gateways show to outside: read from files on this host, and again when those are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Never

import structlog

from meshagent.errors import AuthorityUnavailable, CertificateRefused, MeshError
from meshagent.model.certificate import CertificateFiles, KeyPair

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
        self._read: dict[CertificateFiles, _Read] = {}
        self._moved = asyncio.Event()
        self.problems: dict[str, str] = {}

    @property
    def pairs(self) -> dict[str, KeyPair]:
        """All that are there, by certificate file."""
        return {files.cert_file: each.pair for files, each in self._read.items()}

    @property
    def ends(self) -> dict[str, datetime]:
        """When each ends, by certificate file."""
        return {files.cert_file: each.ends for files, each in self._read.items()}

    def want(self, needed: Iterable[CertificateFiles]) -> None:
        """Say which are needed. They are read at once, so that no listener has to wait for what it shows."""
        wanted = frozenset(needed)
        if wanted == self._wanted:
            return
        before, new, gone = self.pairs, wanted - self._wanted, self._wanted - wanted
        self._wanted = wanted
        for files in gone:
            self._read.pop(files, None)
            self.problems.pop(files.cert_file, None)
        for files in _in_order(new):
            with self._telling(files):
                self._take(files, _look(files, None))
        self._tell_changed(before)
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
        before = self.pairs
        for files in _in_order(self._wanted):
            with self._telling(files):
                found = await asyncio.to_thread(_look, files, self._read.get(files))
                if files in self._wanted:
                    self._take(files, found)
        self._tell_changed(before)

    def _take(self, files: CertificateFiles, found: _Read) -> None:
        if found is not self._read.get(files):
            self._read[files] = found
            _log.info("gateway_certificate_read", file=files.cert_file, expires_at=found.ends.isoformat())
        over = found.ends <= self._clock()
        self._tell(files.cert_file, f"ended at {found.ends:%Y-%m-%dT%H:%M:%SZ}: clients refuse it" if over else "")

    @contextmanager
    def _telling(self, files: CertificateFiles) -> Iterator[None]:
        """Tell what is wrong with files, if they are wanted still."""
        try:
            yield
        except (AuthorityUnavailable, CertificateRefused) as error:
            if files in self._wanted:
                self._tell(files.cert_file, _words(error, self._read.get(files)))

    def _tell_changed(self, before: Mapping[str, KeyPair]) -> None:
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


def _in_order(files: Iterable[CertificateFiles]) -> list[CertificateFiles]:
    return sorted(files, key=lambda each: each.cert_file)


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
