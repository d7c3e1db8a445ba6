"""The systemd units: what they say on this machine, and where they and what they need are put."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from meshagent.errors import DaemonNotStarted, UsageProblem

DAEMONS = ("meshagent.service", "meshagent-envoy.service", "meshagent-authority.service")
UNITS = (*DAEMONS, "meshagent-redirect.service")
_PACKAGED = Path("usr/lib/systemd/system")
_OWN = Path("etc/systemd/system")
_SYSUSERS = Path("etc/sysusers.d/meshagent.conf")
_TMPFILES = Path("etc/tmpfiles.d/meshagent.conf")
_HIDDEN = ("/root", "/home", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - ProtectHome= and PrivateTmp= hide them  # noqa: S108 - what systemd hides from a unit with PrivateTmp
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
_SECONDS = 120


def unit_text(name: str, command: str) -> str:
    """The unit with the sandbox that all of them share. `command`: how `meshagent` is run."""
    return _kept(name).replace("@sandbox@\n", _kept("sandbox.conf")).replace("@meshagent@", command)


def plan(command: str, units: Path = _OWN, sysusers: Path = _SYSUSERS, tmpfiles: Path = _TMPFILES) -> dict[Path, str]:
    """All files of an installation by path, relative to the root of a system."""
    found = {units / name: unit_text(name, command) for name in UNITS}
    return found | {sysusers: _kept("sysusers.conf"), tmpfiles: _kept("tmpfiles.conf")}


def own_command() -> str:
    """How to run the meshagent that runs now. Raises UsageProblem where the units could not: it would be hidden from them."""
    script = Path(sys.prefix) / "bin" / "meshagent"
    words = [str(script)] if script.is_file() else [sys.executable, "-P", "-m", "meshagent"]
    for path in (words[0], os.path.realpath(sys.executable)):
        if path.startswith(tuple(f"{each}/" for each in _HIDDEN)) or not _PLAIN.fullmatch(path):
            raise UsageProblem(
                f"the units cannot run {path}: they see nothing of {', '.join(_HIDDEN)}, and need a plain path",
                next_step="install meshagent with a Python of the system, such as into /opt/meshagent, or its package",
            )
    return " ".join(words)


def install(root: Path, command: str) -> list[Path]:
    """Write units, users and directories below `root`; where that is /, make them and have systemd read them.

    Nothing is enabled or started. Returns the files. Raises UsageProblem where the package has installed them or
    nobody may write there, DaemonNotStarted where systemd refuses.
    """
    if (root / _PACKAGED / UNITS[0]).exists():
        raise UsageProblem("the units came with the package and are in place", next_step="systemctl start meshagent")
    written = []
    for path, text in plan(command).items():
        try:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
            (root / path).chmod(0o644)
        except OSError as error:
            raise UsageProblem(
                f"{root / path} cannot be written: {error.strerror}", next_step="sudo meshagent systemd install"
            ) from None
        written.append(root / path)
    if root == Path("/"):
        _run("systemd-sysusers", f"/{_SYSUSERS}")
        _run("systemd-tmpfiles", "--create", f"/{_TMPFILES}")
        _run("systemctl", "daemon-reload")
    return written


def uninstall(root: Path) -> list[Path]:
    """Stop the units and remove what `install` wrote. Settings, state and users stay. Returns the files removed.

    Raises UsageProblem where the package installed them, or nobody may write there.
    """
    if (root / _PACKAGED / UNITS[0]).exists():
        raise UsageProblem("the units came with the package", next_step="apt-get remove meshagent")
    there = [root / path for path in plan("") if (root / path).exists()]
    if there and root == Path("/"):
        _run("systemctl", "disable", "--now", *UNITS)
    try:
        for path in there:
            path.unlink()
    except OSError as error:
        raise UsageProblem(
            f"{error.filename} cannot be removed: {error.strerror}", next_step="sudo meshagent systemd uninstall"
        ) from None
    if there and root == Path("/"):
        _run("systemctl", "daemon-reload")
    return there


def _kept(name: str) -> str:
    return (files("meshagent.host") / "units" / name).read_text(encoding="utf-8")


def _run(*words: str) -> None:
    """Raises DaemonNotStarted with what it says."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DaemonNotStarted(f"{words[0]}: {error}", next_step="is this machine run by systemd?") from None
    if done.returncode:
        raise DaemonNotStarted(f"{' '.join(words)}: {done.stderr.strip()}", next_step="systemctl status meshagent")
