"""Other versions than this one, of the agent and of Envoy, for tests of upgrades."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import meshagent
from meshagent.envoy.locate import locate

VERSION = "99.0.0"


def another_envoy(directory: Path) -> Path:
    """Envoy's binary at another place, as a package of another version would bring it."""
    return Path(shutil.copy(locate(), directory / "envoy"))


def another_version(directory: Path) -> Path:
    """A directory from which `python -m meshagent` runs a version that keeps its snapshot in another form."""
    made = directory / "version"
    package = Path(shutil.copytree(Path(meshagent.__file__).parent, made / "meshagent"))
    _change(package / "__init__.py", r'__version__ = ".*"', f'__version__ = "{VERSION}"')
    _change(package / "agent/lastgood.py", r"default=1, ge=1, le=1", "default=2, ge=2, le=2")
    return made


def _change(file: Path, old: str, new: str) -> None:
    text, count = re.subn(old, new, file.read_text())
    assert count == 1, f"{file} is not as it was"
    file.write_text(text)
