"""The rules of capture as they were last put in force by their unit, so that they are there at the next boot before all else."""

from __future__ import annotations

from pathlib import Path

from meshagent.errors import NotFound
from meshagent.private import read_private, write_private

_OF_CGROUPS = "socket cgroupv2"


def keep(path: Path, rules: str) -> None:
    """For the next boot. Raises DataDirUnusable, UnsafeFile."""
    write_private(path, rules.encode())


def kept(path: Path) -> str | None:
    """What was kept, "" where nothing is captured; None: nothing was. Raises UnsafeFile where others could have written it."""
    try:
        return read_private(path).decode()
    except NotFound:
        return None


def without_cgroups(rules: str) -> str:
    """The same without what is said of cgroups, which need not be there yet when a host boots.

    What other hosts may not reach stays closed, and virtual addresses stay on this host: calls from those cgroups to them
    are refused. Their calls elsewhere are left alone, also where they would be refused otherwise.
    """
    return "".join(line for line in rules.splitlines(keepends=True) if _OF_CGROUPS not in line)
