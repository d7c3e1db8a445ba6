"""Secrets that systemd hands to a unit: the settings name the operator's file, and the unit reads systemd's copy of it.

The units load whole directories (LoadCredential=secrets:/etc/meshagent/secrets in systemd.exec(5)): each file `x` in it
becomes `secrets_x` in the directory that CREDENTIALS_DIRECTORY names, which the service alone can read. So the file
itself stays root's, mode 0600, and one settings file holds for the daemon and for a root's command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIRECTORIES = {Path("/etc/meshagent/secrets"): "secrets", Path("/etc/meshagent/authority-secrets"): "authority-secrets"}


def with_credentials(data: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """The settings with every path into those directories led to systemd's copy; as they are where there is no copy."""
    copies = env.get("CREDENTIALS_DIRECTORY", "")
    return {key: _led(value, Path(copies)) for key, value in data.items()} if copies else dict(data)


def _led(value: Any, copies: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _led(each, copies) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_led(each, copies) for each in value)
    if isinstance(value, str | Path) and (name := DIRECTORIES.get(Path(value).parent)):
        return type(value)(copies / f"{name}_{Path(value).name}")
    return value
