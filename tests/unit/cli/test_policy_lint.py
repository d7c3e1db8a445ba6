"""`meshagent policy lint`: each code has a case that shows it and one beside it that does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from meshagent.cli.lints import CHECKS, covers
from meshagent.model.intention import HttpMatch

ALLOW = "{action: allow, http: {%s}}"
INTENTION = "kind: intention\nname: payments\nsources:\n"
PERMISSIONS = INTENTION + "- name: web\n  permissions:\n"
CASES = {
    "L001": ("kind: mesh\ndefault_action: allow\n", 2, "kind: mesh\ndefault_action: deny\n"),
    "L002": (
        PERMISSIONS + "  - {action: deny, http: {path_prefix: /admin}}\n  - {action: allow, http: {path_prefix: /}}\n",
        5,
        PERMISSIONS
        + "  - {action: deny, http: {path_prefix: /admin, ignore_case: true}}\n"
        + "  - {action: allow, http: {path_prefix: /}}\n",
    ),
    "L004": (
        INTENTION + "- {name: web, action: allow, expires_at: 2020-01-01T00:00:00Z}\n",
        4,
        INTENTION + "- {name: web, action: allow, expires_at: 2120-01-01T00:00:00Z}\n",
    ),
    "L005": (
        PERMISSIONS + "  - {action: allow, http: {path_prefix: /a}}\n  - {action: allow, http: {path_exact: /a/b}}\n",
        7,
        PERMISSIONS + "  - {action: allow, http: {path_exact: /a/b}}\n  - {action: allow, http: {path_prefix: /a}}\n",
    ),
    "L006": (INTENTION + '- {name: "*", action: allow}\n', 4, INTENTION + '- {name: "*", action: deny}\n'),
    "L007": ("kind: service\nname: payments\nmtls: permissive\n", 3, "kind: service\nname: payments\nmtls: strict\n"),
    "L008": (
        "kind: service\nname: payments\nprotocol: tcp\nrate_limit: {requests_per_second: 5}\n",
        4,
        "kind: service\nname: payments\nprotocol: http\nrate_limit: {requests_per_second: 5}\n",
    ),
}


def lint(mesh, tmp_path, text, *options, code=0):
    (tmp_path / "policy.yaml").write_text(text)
    return mesh.run("policy", "lint", "-f", "policy.yaml", *options, code=code)


@pytest.mark.parametrize("code", CASES)
def test_each_code_is_found_at_its_line_and_not_in_what_is_meant(mesh, tmp_path, code):
    wrong, line, right = CASES[code]
    found = json.loads(lint(mesh, tmp_path, wrong, "-o", "json", code=5).stdout)
    assert [(row["code"], row["line"]) for row in found] == [(code, line)]
    assert lint(mesh, tmp_path, right).stdout == ""


def test_a_name_that_nobody_has_is_found_once_others_are_known(mesh, tmp_path):
    (tmp_path / "base.yaml").write_text("kind: service\nname: payments\n---\nkind: service\nname: web\n")
    mesh.run("policy", "apply", "-f", "base.yaml")
    found = lint(mesh, tmp_path, INTENTION + "- {name: wob, action: allow}\n", code=5).stdout
    assert found == "L003 policy.yaml:4: sources[0].name: no service wob is registered yet. Did you mean web?\n"


def test_a_code_can_be_left_out_and_an_unknown_one_is_a_slip(mesh, tmp_path):
    assert lint(mesh, tmp_path, CASES["L007"][0], "--ignore", "L007").stdout == ""
    assert "there is no code L099" in lint(mesh, tmp_path, CASES["L007"][0], "--ignore", "L099", code=2).stderr


def test_every_code_is_explained_and_has_a_case():
    explained = re.findall(r"^\| (L\d{3}) \|", Path("docs/lint.md").read_text(), re.MULTILINE)
    assert explained == list(CHECKS)
    assert {*CASES, "L003"} == set(CHECKS)


@pytest.mark.parametrize(
    ("wide", "narrow", "wanted"),
    [
        ({"path_prefix": "/a"}, {"path_prefix": "/a/b"}, True),
        ({"path_prefix": "/a"}, {"path_prefix": "/ab"}, False),
        ({"path_prefix": "/a"}, {"path_exact": "/a"}, True),
        ({"path_prefix": "/"}, {"path_regex": "/x.*"}, False),
        ({"path_exact": "/a"}, {"path_prefix": "/a"}, False),
        ({"path_exact": "/A", "ignore_case": True}, {"path_exact": "/a"}, True),
        ({"path_exact": "/a"}, {"path_exact": "/a", "ignore_case": True}, False),
        ({"methods": ["GET", "POST"]}, {"methods": ["GET"], "path_prefix": "/"}, True),
        ({"methods": ["GET"]}, {"path_prefix": "/"}, False),
        ({"path_prefix": "/", "headers": [{"name": "x"}]}, {"path_prefix": "/a"}, False),
        ({"path_prefix": "/"}, {"path_prefix": "/a", "headers": [{"name": "x"}]}, True),
    ],
)
def test_what_covers_what(wide, narrow, wanted):
    assert covers(HttpMatch.model_validate(wide), HttpMatch.model_validate(narrow)) is wanted
