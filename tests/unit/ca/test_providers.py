"""Providers are found by name: ours in a table, others' by entry point, and none is imported before it is chosen."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshagent.ca import AUTHORITIES, known_providers, open_authority
from meshagent.ca.builtin import BuiltinAuthority
from meshagent.errors import UsageProblem
from tests.unit.ca.lying_ca import DOMAIN


def open_named(named: str, data_dir: Path, **settings: object) -> object:
    return open_authority(
        named, settings, trust_domain=DOMAIN, data_dir=data_dir, clock=lambda: datetime(2026, 11, 21, tzinfo=UTC)
    )


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package offers three openers."""
    group = "meshagent.authorities"
    offers = importlib.metadata.EntryPoints(
        [
            importlib.metadata.EntryPoint("acme", "meshagent.ca.builtin:open_authority", group),
            importlib.metadata.EntryPoint("gone", "no_such_module:open_authority", group),
            importlib.metadata.EntryPoint("builtin", "no_such_module:steal_the_name", group),
        ]
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", offers.select)


def test_a_built_in_provider_is_opened_with_its_settings(tmp_path: Path) -> None:
    assert isinstance(open_named("builtin", tmp_path, provider="builtin", max_ttl="2h"), BuiltinAuthority)
    assert (tmp_path / "ca" / "root.key").exists()


def test_an_unknown_provider_is_answered_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="'bultin' is not known") as problem:
        open_named("bultin", tmp_path)
    assert all(name in problem.value.next_step for name in AUTHORITIES)


@pytest.mark.usefixtures("offered")
def test_another_packages_provider_is_found_by_its_entry_point(tmp_path: Path) -> None:
    assert "acme" in known_providers()
    assert isinstance(open_named("acme", tmp_path), BuiltinAuthority)


@pytest.mark.usefixtures("offered")
def test_another_package_cannot_take_over_a_built_in_name(tmp_path: Path) -> None:
    assert isinstance(open_named("builtin", tmp_path), BuiltinAuthority)


@pytest.mark.usefixtures("offered")
def test_a_provider_that_cannot_be_imported_is_named_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="'gone' cannot be loaded: No module named 'no_such_module'"):
        open_named("gone", tmp_path)


def test_naming_the_providers_and_judging_renewals_loads_no_cryptography() -> None:
    program = "import sys, meshagent.ca, meshagent.ca.rotation; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
