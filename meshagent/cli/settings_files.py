"""The settings files that `init` and `join` write: agent.yaml, operator.yaml and the secrets beside them."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshagent.errors import InvalidDocument, Problem
from meshagent.private import private_dir, write_private
from meshagent.store.credentials import Credential


def agent_settings(
    store: str, host: Mapping[str, str], addresses: Sequence[str], access: Mapping[str, object]
) -> dict[str, Any]:
    """agent.yaml of a host that has joined. `access`: as `kept_credential` gives it, or paths that were named."""
    return {
        "store": store,
        **{key: str(value) for key, value in access.items() if value},
        "host": dict(host),
        "ca": {"provider": "authority", "addresses": list(addresses)},
    }


def kept_credential(credential: Credential, directory: Path, stem: str = "store") -> dict[str, object]:
    """Write the secret of a store credential into the directory (0600). Returns the settings that name it."""
    private_dir(directory)
    if credential.token:
        write_private(directory / f"{stem}.token", f"{credential.token}\n".encode())
        return {"store_token_file": directory / f"{stem}.token"}
    write_private(directory / f"{stem}.password", f"{credential.password}\n".encode())
    return {"store_username": credential.username, "store_password_file": directory / f"{stem}.password"}


def write_settings(path: Path, settings: Mapping[str, Any], by: str) -> None:
    """Write a settings file. What an older one says of other keys stays; its comments go.

    Mode 0600; 0640 in a directory with the setgid bit: there the daemons run as users of its group (packaging's
    /etc/meshagent).

    Raises InvalidDocument when the older one cannot be read, UnsafeFile and DataDirUnusable.
    """
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    merged = merge(older_settings(path), settings)
    head = f"# Written by `{by}`. docs/configuration.md describes every key.\n"
    write_private(path, (head + yaml.safe_dump(merged, sort_keys=False, width=110)).encode())
    if path.parent.stat().st_mode & stat.S_ISGID:
        path.chmod(0o640)


def older_settings(path: Path) -> dict[str, Any]:
    """What a settings file says now; nothing when there is none. Raises InvalidDocument."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        data = ()
    if data is not None and not isinstance(data, dict):
        raise InvalidDocument((Problem(str(path), 0, "", "is not a YAML mapping"),), next_step=f"mv {path} {path}.old")
    return data or {}


def merge(older: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Ours over the older; of `host`, key by key. Another way to the store takes its credentials with it."""
    kept = {key: value for key, value in older.items() if not (key.startswith("store") and "store" in ours)}
    host = {**(kept.get("host") or {}), **ours.get("host", {})}
    return {**kept, **ours, **({"host": host} if host else {})}
