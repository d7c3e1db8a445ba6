"""A CA out of another package: built, put where Python finds it, found by its entry point, held to what ours are."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.conformance

SOURCE = Path(__file__).parents[1] / "third_party/meshagent-handmade"
USE = """
import asyncio, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from meshagent.ca import known_providers, open_authority
from meshagent.ca.base import obtain
from meshagent.ca.x509 import accept

async def main():
    now, ttl, web = datetime.now(UTC), timedelta(minutes=10), "spiffe://mesh.internal/svc/web"
    assert "handmade" in known_providers()
    ca = open_authority(
        "handmade", {"longest": "2h"}, trust_domain="mesh.internal", data_dir=Path(), clock=lambda: now
    )
    issued = await obtain(ca, web, ttl)
    svid = accept(issued.chain_pem, issued.key_pem, web, await ca.bundle(), "mesh.internal", now, ttl)
    print(svid.spiffe_id, type(ca).__module__)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is installed: its wheel, unpacked, as an installer does it."""
    directory = tmp_path_factory.mktemp("third-party")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(build, cwd=SOURCE, check=True, capture_output=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{directory / 'site'}{os.pathsep}{root}"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_ca_of_another_package_is_found_by_its_entry_point_and_its_certificates_are_accepted(
    installed: dict[str, str],
) -> None:
    done = run(installed, "-c", USE)
    assert done.stdout == "spiffe://mesh.internal/svc/web meshagent_handmade\n", done.stderr


def test_the_package_is_a_distribution_of_its_own_and_not_there_without_it(installed: dict[str, str]) -> None:
    name = "import importlib.metadata as m; print(m.version('meshagent-handmade'))"
    assert run(installed, "-c", name).stdout == "1.0\n"
    asked = "from meshagent.ca import known_providers; print('handmade' in known_providers())"
    assert run({**installed, "PYTHONPATH": str(Path(__file__).parents[2])}, "-c", asked).stdout == "False\n"


def test_a_setting_that_it_does_not_know_is_its_own_to_refuse(installed: dict[str, str]) -> None:
    done = run(installed, "-c", USE.replace('"longest"', '"longst"'))
    assert "UsageProblem: ca: handmade does not know longst" in done.stderr
