"""The lines that are appended to a file from now on, through its being renamed, replaced and truncated."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_LOOK_BYTES = 256 << 10


class Tail:
    """Begins at the present end of the file, or at the start of one that is not there yet. Close it.

    One look takes at most `look_bytes`: of a flood it gives the last lines and counts the rest in `skipped` (bytes), so
    that whoever makes Envoy log cannot make its reader fall behind without end.
    """

    def __init__(self, path: Path, look_bytes: int = _LOOK_BYTES) -> None:
        self.skipped = 0
        self._path = path
        self._look = look_bytes
        self._rest = b""
        self._offset = 0
        self._file = self._open()
        if self._file is not None:
            self._offset = os.fstat(self._file).st_size

    def lines(self) -> list[bytes]:
        """Whole lines since the last call, without their ends; an unfinished one waits for the next call."""
        found = self._take()
        if self._replaced():
            found += self._take()  # what came between the look and the change
            self.close()
            self._file, self._offset, self._rest = self._open(), 0, b""
            found += self._take()
        return found

    def close(self) -> None:
        """Nothing more is read."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int | None:
        with suppress(FileNotFoundError):
            return os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        return None

    def _replaced(self) -> bool:
        """Whether another file stands at the path. When none does, Envoy still writes to the one that was renamed."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return self._file is None or not os.path.samestat(there, os.fstat(self._file))

    def _take(self) -> list[bytes]:
        if self._file is None:
            return []
        size = os.fstat(self._file).st_size
        if size < self._offset:
            self._offset, self._rest = 0, b""
        begin, data = self._offset, b""
        if size - begin > self._look:
            self.skipped += size - self._look - begin
            begin, self._rest = size - self._look, b""
            _, _, data = os.pread(self._file, self._look, begin).partition(b"\n")  # the first one is cut
        elif size > begin:
            data = os.pread(self._file, size - begin, begin)
        self._offset = size
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self._look:
            self.skipped += len(self._rest)
            self._rest = b""
        return lines
