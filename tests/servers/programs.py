"""Where a server's program is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_FETCHED = Path(__file__).parents[2] / ".servers/usr/bin"


def program(name: str) -> str:
    """The path of a server's program. Raises AssertionError, with what to do, when this machine has none."""
    found = shutil.which(name, path=f"{_FETCHED}:{os.environ.get('PATH', '')}")
    assert found, f"there is no {name} on this machine: make servers"
    return found
