"""What the supervision of one Envoy keeps in the agent's data directory: which process it is, and what it last said."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import structlog

from meshagent.envoy.handle import Handle, save_handle
from meshagent.envoy.spawn import STDERR
from meshagent.errors import MeshError
from meshagent.private import read_private, write_private

_log = structlog.get_logger(__name__)
_LAST_WORDS = 500  # characters


class Records:
    """The files of one Envoy in `directory`, and of the one before while that ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running = directory / "envoy.json"
        self.before = directory / "envoy-before.json"
        self.config = directory / "envoy-bootstrap.json"
        self._stderr_from = 0

    def keep(self, path: Path, handle: Handle) -> None:
        """For the next agent. Where that fails it serves all the same, and its admin socket leads the next agent to it."""
        try:
            save_handle(path, handle)
        except MeshError as error:
            _log.warning("envoy_state_not_saved", problem=str(error), next_step=error.next_step)

    def begin(self) -> None:
        """What is written to stderr from now on is of the process that is about to start, or was just taken over."""
        self._stderr_from = _size(self.directory / STDERR)

    def last_words(self, how: str) -> str:
        """What this process wrote to stderr, when it ended by itself.

        A crash dumps the request that it was at, with headers that may hold secrets: that stays in the private file.
        """
        if not how.startswith("exit"):
            return ""
        path = self.directory / STDERR
        try:
            with path.open("rb") as file:
                file.seek(self._stderr_from if self._stderr_from <= _size(path) else 0)
                return file.read(_LAST_WORDS).decode(errors="replace").strip()
        except OSError:
            return ""


def write_changed(path: Path, data: bytes) -> None:
    """Nothing is written when nothing changed: a restart must work on a full disk too."""
    with suppress(MeshError):
        if read_private(path) == data:
            return
    write_private(path, data)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
