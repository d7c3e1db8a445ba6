"""`meshagent policy test`: cases that hold, cases that do not and why, and files that are wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from meshagent.cli.cases import Cases
from meshagent.documents.decode import decode_one

DOCUMENTS = """\
kind: service
name: payments
protocol: http
subsets: {v1: {version: v1}, v2: {version: v2}}
---
kind: intention
name: payments
sources:
- name: web
  permissions:
  - {action: allow, http: {path_prefix: /v2}}
---
kind: route
name: payments
rules:
- name: beta
  match: {path_prefix: /v2}
  to: [{subset: v1, weight: 19}, {subset: v2}]
- {match: {path_prefix: /gone}, respond: {status: 410}}
- {match: {path_prefix: /moved}, redirect: {path: /v2}}
- {match: {path_prefix: /eu, regions: [eu]}, to: [{service: ledger}]}
"""
SERVICES = """\
services:
- {name: web, protocol: http, region: eu}
- {name: ledger, protocol: http}
- name: payments
  protocol: http
  instances: [{meta: {version: v1}}, {meta: {version: v2}}]
cases:
"""
V2 = "from: web, to: payments, request: {path: /v2}"
HOLDING = [
    f"{V2}, expect: allowed",
    f"{V2}, rule: payments/web",
    f"{V2}, route: beta",
    f"{V2}, route: 0",
    f"{V2}, goes_to: [{{subset: v1, percent: 95}}, {{subset: v2, percent: 5}}]",
    f"{V2}, goes_to: [{{subset: v2}}, {{subset: v1}}]",
    "from: web, to: payments, request: {path: /x}, expect: denied, route: none",
    "from: web, to: payments, request: {path: /x}, goes_to: [{}]",
    "from: web, to: payments, request: {path: /gone}, respond: 410",
    "from: web, to: payments, request: {path: /moved/x}, redirect: 302",
    "from: batch, to: payments, request: {path: /v2}, expect: denied, rule: mesh/default_action",
    "from: web, to: payments, request: {path: /eu}, goes_to: [{service: ledger, percent: 100}]",
    "from: web, to: payments, request: {path: /eu}, region: us, goes_to: [{service: payments}]",
    "from: web, to: payments, request: {path: /a%2fb}, expect: denied",
    "from: batch, to: payments, expect: denied, rule: mesh/default_action",
    "from: web, to: nobody, expect: denied",
]
FAILING = [
    (f"{V2}, expect: denied", "expected denied, came allowed"),
    (f"{V2}, rule: payments/batch", "expected payments/batch, came payments/web"),
    (f"{V2}, route: none", "expected none, came 0 (beta)"),
    (f"{V2}, route: 1", "expected 1, came 0 (beta)"),
    (f"{V2}, goes_to: [{{subset: v2}}]", "expected v2, came v1 95 %, v2 5 %"),
    (f"{V2}, goes_to: [{{subset: v1, percent: 90}}, {{subset: v2}}]", "expected v1 90 %, v2, came v1 95 %, v2 5 %"),
    (f"{V2}, respond: 410", "expected 410, came v1 95 %, v2 5 %"),
    ("from: web, to: payments, request: {path: /gone}, respond: 404", "expected 404, came 410"),
    (
        "from: web, to: payments, request: {path: /gone}, redirect: 302",
        "expected 302, came answered 410 by the caller's",
    ),
    ("from: web, to: payments, request: {path: /gone}, expect: allowed", "came answered 410 by the caller's own proxy"),
    ("from: batch, to: payments, route: none", "expected none, came it depends on the request"),
    ("from: batch, to: payments, goes_to: [{}]", "expected payments, came it depends on the request"),
    ("from: web, to: payments, expect: allowed", "came it depends on the request"),
    ("from: web, to: payments, request: {path: /eu}, goes_to: [{}]", "expected payments, came ledger 100 %"),
    ("from: web, to: nobody, request: {}, expect: denied", "nobody is not registered, and no document says"),
]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "policy.yaml").write_text(DOCUMENTS)
    return tmp_path / "set"


def ask(mesh, files, *cases, code=0, output="table"):
    (files / "set.cases.yaml").write_text(SERVICES + "".join(f"- {{{case}}}\n" for case in cases))
    return mesh.run("policy", "test", "-f", "set", "-o", output, code=code)


def test_cases_that_hold_say_nothing_but_their_number(mesh, files):
    result = ask(mesh, files, *HOLDING)
    assert result.stdout == ""
    assert f"{len(HOLDING)} of {len(HOLDING)} cases hold" in result.stderr


@pytest.mark.parametrize(("case", "came"), FAILING)
def test_a_case_that_does_not_hold_ends_with_5_and_is_told(mesh, files, case, came):
    assert came in ask(mesh, files, HOLDING[0], case, code=5).stdout


def test_a_failing_case_has_its_line_and_why_in_the_words_of_explain(mesh, files):
    result = ask(mesh, files, HOLDING[0], f"name: the beta is shut, {V2}, expect: denied", code=5)
    rule, because, *_ = result.stdout.splitlines()[2:]
    assert result.stdout.splitlines()[:2] == [
        "set/set.cases.yaml:9: the beta is shut (web -> payments GET /v2)",
        "  expect   expected denied, came allowed",
    ]
    assert rule.startswith("  because  rule 0 (beta) of route payments decides the way (set/policy.yaml:16")
    assert because == "  because  permission 0 of intention payments/web says allow"
    assert "1 of 2 cases hold" in result.stderr


def test_json_has_every_case(mesh, files):
    rows = json.loads(ask(mesh, files, HOLDING[0], FAILING[0][0], code=5, output="json").stdout)
    assert [(row["line"], row["holds"]) for row in rows] == [(8, True), (9, False)]
    assert rows[1]["misses"] == [{"field": "expect", "expected": "denied", "came": "allowed"}]


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (f"{V2}, expct: denied", "set/set.cases.yaml:8: cases[0].expct: is not a field of case (did you mean expect?)"),
        (V2, "cases[0]: expects nothing: it needs one of expect, shadow, rule,"),
        (f"{V2}, expect: maybe", "cases[0].expect: must be one of allowed, denied"),
        (f"{V2}, goes_to: [{{subset: v1}}, {{service: payments, subset: v1}}]", "goes_to: names a place twice"),
        (f"{V2}, route: true", "cases[0].route: must be"),
        (f"{V2}, respond: 404, expect: allowed", "no intention is asked then"),
    ],
)
def test_a_case_that_is_wrong_ends_with_3(mesh, files, case, problem):
    assert problem in ask(mesh, files, case, code=3).stderr


def test_documents_that_could_not_be_applied_are_not_tested(mesh, files):
    (files / "policy.yaml").write_text(DOCUMENTS.replace("protocol: http\n", "protocol: tcp\n", 1))
    assert "whose proxy sees none and denies all" in ask(mesh, files, HOLDING[0], code=3).stderr


def test_files_without_cases_or_without_documents_are_a_slip(mesh, files):
    assert "there is no case in set" in mesh.run("policy", "test", "-f", "set", code=2).stderr
    ask(mesh, files, HOLDING[0])
    assert "there is no document in" in mesh.run("policy", "test", "-f", "set/set.cases.yaml", code=2).stderr
    both = mesh.run("policy", "test", "-f", "set/policy.yaml", "-f", "set/set.cases.yaml")
    assert "1 of 1 cases hold" in both.stderr


def test_other_commands_leave_cases_out(mesh, files):
    ask(mesh, files, HOLDING[0])
    assert mesh.run("policy", "validate", "-f", "set").stdout.split() == [
        "valid", "service", "payments", "valid", "intention", "payments", "valid", "route", "payments"
    ]  # fmt: skip


def test_a_name_that_is_likely_a_slip_is_told_since_what_nobody_named_is_denied_anyway(mesh, files):
    stderr = ask(mesh, files, "from: wob, to: payments, expect: denied", "from: x, to: y, expect: denied").stderr
    assert "warning: set/set.cases.yaml:8: cases[0].from: nothing else names wob. Did you mean web?" in stderr
    assert stderr.count("warning") == 1


def test_the_cases_of_the_guide_are_cases():
    guide = (Path(__file__).resolve().parents[3] / "docs" / "policy.md").read_text()
    (block,) = re.findall(r"^```yaml\n(services:.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    found = decode_one(block, "policy.md", Cases)
    assert not found.problems
    assert len(found.documents[0].document.cases) == 3
