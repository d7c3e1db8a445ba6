"""policies/: every ready set passes its own cases, raises no lint, and its cases would notice another policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshagent.cli.policy_cases import outcomes, read

POLICIES = Path(__file__).resolve().parents[3] / "policies"
SETS = sorted(path.name for path in POLICIES.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", SETS)
def test_a_ready_set_passes_its_cases_and_no_lint_finds_fault(mesh, name):
    mesh.path.unlink()  # its services are not those of the set
    rows = json.loads(mesh.run("policy", "test", "-f", str(POLICIES / name), "-o", "json").stdout)
    assert rows and all(row["holds"] for row in rows)
    assert mesh.run("policy", "lint", "-f", str(POLICIES / name)).stdout == ""


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", ["intention", "route"])
def test_without_its_intentions_or_routes_a_set_fails_its_cases(name, kind):
    written, cases = read([str(POLICIES / name)])
    left = [each for each in written if each.document.kind != kind]
    if len(left) < len(written):
        assert any(outcome.misses for outcome in outcomes(left, cases))
