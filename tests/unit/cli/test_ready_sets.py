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


def test_a_mesh_to_which_a_set_is_applied_explains_as_its_cases_were_judged(mesh):
    shop = str(POLICIES / "shop")
    for host, (service, version) in enumerate(
        [("storefront", ""), ("catalog", "v1"), ("catalog", "v2"), ("cart", ""), ("payments", "")]
    ):
        mesh.register(service, host=f"vm-{host}", meta={"version": version})
    mesh.register("orders-db", "tcp")
    mesh.run("policy", "apply", "-f", shop)
    written, cases = read([shop])
    asked = 0
    for case in (outcome.case for outcome in outcomes(written, cases) if outcome.case.expect):
        request = case.request.sent if case.request else None
        words = [request.method, request.path] if request else []
        headers = [f"--header={name}={value}" for name, value in request.headers] if request else []
        code = 0 if case.expect == "allowed" else 5
        shown = mesh.json("explain", case.source, case.destination, *words, *headers, code=code)
        if case.goes_to:
            went = {(each["subset"], each["percent"]) for each in shown["route"]["targets"]}
            assert went == {(each.subset, each.percent or 100) for each in case.goes_to}
        asked += 1
    assert asked == 11
