"""openssl as a CA: a root, and the program of docs/authorities.md that signs with it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs/authorities.md"


def openssl_root(directory: Path, name: str = "root") -> Path:
    """A new root made by openssl: `root.pem`, beside `root.key`."""
    directory.mkdir(parents=True, exist_ok=True)
    key, certificate = directory / "root.key", directory / "root.pem"
    words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name} -keyout {key}"
    subprocess.run(["openssl", *words.split(), "-out", certificate], check=True, capture_output=True)
    return certificate


def documented_program(place: Path, *changes: tuple[str, str]) -> Path:
    """The program of the documentation as an executable file, with these texts of it replaced."""
    found = re.search(r"```sh\n(#!/bin/sh.+?)```", _PAGE.read_text(), re.DOTALL)
    assert found
    text = found[1]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    place.touch(0o700)
    place.write_text(text)
    return place
