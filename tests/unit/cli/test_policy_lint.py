"""`meshagent policy lint`: each code has a case that shows it and one beside it that does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from meshagent.cli.lints import CHECKS

ALLOW = "{action: allow, http: {%s}}"
ROUTE = "kind: route\nname: payments\nrules:\n"
SUBSETS = "kind: service\nname: payments\nprotocol: http\nsubsets: {v1: {version: v1}, v2: {version: v2}}\n---\n"
INTENTION = "kind: intention\nname: payments\nsources:\n"
PERMISSIONS = INTENTION + "- name: web\n  permissions:\n"
EXTERNAL = "kind: external\nname: stripe\nhosts: [api.stripe.com]\nport: 443\n"
GATEWAY = "kind: gateway\nname: edge\nlisteners:\n"
ENTRANCE = (
    GATEWAY + "- {port: 8443, tls: {cert_file: /etc/edge.pem, key_file: /etc/edge.key}}\n"
    "routes:\n- {hosts: [a.example], service: payments}\n"
)
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
    "L009": (
        SUBSETS + ROUTE + "- to: [{subset: v1}, {subset: v2}]\n",
        9,
        SUBSETS + ROUTE + "- to: [{subset: v1}, {subset: v2, weight: 0}]\n",
    ),
    "L010": (
        ROUTE + "- match: {path_prefix: /a}\n- {match: {path_exact: /a/b}, timeout: 2s}\n",
        5,
        ROUTE + "- {match: {path_exact: /a/b}, timeout: 2s}\n- match: {path_prefix: /a}\n",
    ),
    "L011": (
        SUBSETS + ROUTE + "- to: [{subset: v2}, {subset: v1, weight: 0}]\n",
        9,
        SUBSETS + ROUTE + "- to: [{subset: v1}, {subset: v2, weight: 0}]\n",
    ),
    "L012": (
        ROUTE + "- timeout: 2s\n  retry: {attempts: 2}\n",
        5,
        ROUTE + "- timeout: 2s\n  retry: {attempts: 2, per_try_timeout: 500ms}\n",
    ),
    "L013": (
        ROUTE + "- mirror: [{percent: 10}]\n",
        4,
        ROUTE + "- mirror: [{service: shadow, percent: 10}]\n",
    ),
    "L016": ("kind: service\nname: payments\ndata_path: l4\n", 3, "kind: service\nname: payments\ndata_path: l7\n"),
    "L018": (EXTERNAL + "tls: {mode: none}\n", 5, EXTERNAL + "tls: {mode: originate}\n"),
    "L019": (
        GATEWAY + "- {port: 8080}\n",
        4,
        GATEWAY + "- {port: 8443, tls: {cert_file: /etc/edge.pem, key_file: /etc/edge.key}}\n",
    ),
    "L020": (ENTRANCE, 6, ENTRANCE + "---\n" + INTENTION + "- {name: edge, action: allow}\n"),
}


def lint(mesh, tmp_path, text, *options, code=0):
    (tmp_path / "policy.yaml").write_text(text)
    return mesh.run("policy", "lint", "-f", "policy.yaml", *options, code=code)


@pytest.mark.parametrize("code", CASES)
def test_each_code_is_found_at_its_line_and_not_in_what_is_meant(mesh, tmp_path, code):
    mesh.register("payments", meta={"version": "v1"})
    mesh.register("shadow")
    wrong, line, right = CASES[code]
    found = json.loads(lint(mesh, tmp_path, wrong, "-o", "json", code=5).stdout)
    assert [(row["code"], row["line"]) for row in found] == [(code, line)]
    assert lint(mesh, tmp_path, right).stdout == ""


def test_a_name_that_nobody_has_is_found_once_others_are_known(mesh, tmp_path):
    (tmp_path / "base.yaml").write_text("kind: service\nname: payments\n---\nkind: service\nname: web\n")
    mesh.run("policy", "apply", "-f", "base.yaml")
    found = lint(mesh, tmp_path, INTENTION + "- {name: wob, action: allow}\n", code=5).stdout
    assert found == "L003 policy.yaml:4: sources[0].name: no service wob is registered yet. Did you mean web?\n"


def test_routes_name_services_that_are_known(mesh, tmp_path):
    found = lint(mesh, tmp_path, ROUTE + "- {match: {sources: [wob]}, to: [{service: payment}]}\n", code=5).stdout
    assert [line.partition(": ")[2] for line in found.splitlines()] == [
        "rules[0].match.sources[0]: no service wob is registered yet. Did you mean web?",
        "rules[0].to[0].service: no service payment is registered yet. Did you mean payments?",
    ]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{to: [{subset: v1}, {subset: v2}], strict: true}", "L009 .* its share is answered 503"),
        ("{to: [{subset: v1}, {subset: v2}]}", "L009 .* its share goes to the others"),
        ("{mirror: [{subset: v2}]}", "L009 .* no copy arrives"),
        ("{to: [{subset: v2}, {subset: v3}]}", "L011 .* nor in what else has a weight: requests are answered 503$"),
        ("{to: [{subset: v2}, {subset: v1, weight: 0}]}", "L011 .* is no fallback"),
        ("{to: [{subset: v1}], mirror: [{subset: v1}]}", "L013 .* copies requests to payments"),
    ],
)
def test_a_finding_on_a_route_says_what_comes_of_it(mesh, tmp_path, rule, words):
    mesh.register("payments", meta={"version": "v1"})
    subsets = SUBSETS.replace("}}", "}, v3: {version: v3}}")
    found = lint(mesh, tmp_path, subsets + ROUTE + f"- {rule}\n", code=5).stdout
    assert re.search(words, found, re.MULTILINE)
    assert len(found.splitlines()) == 1


def test_subsets_of_a_service_that_has_no_instance_yet_are_left_alone(mesh, tmp_path):
    text = (SUBSETS + ROUTE + "- to: [{subset: v1}, {subset: v2}]\n").replace("payments", "new")
    assert lint(mesh, tmp_path, text).stdout == ""


def test_a_code_can_be_left_out_and_an_unknown_one_is_a_slip(mesh, tmp_path):
    assert lint(mesh, tmp_path, CASES["L007"][0], "--ignore", "L007").stdout == ""
    assert "there is no code L099" in lint(mesh, tmp_path, CASES["L007"][0], "--ignore", "L099", code=2).stderr


def test_every_code_is_explained_and_has_a_case():
    explained = re.findall(r"^\| (L\d{3}) \|", Path("docs/lint.md").read_text(), re.MULTILINE)
    assert explained == list(CHECKS)
    elsewhere = {"L003", "L014", "L015", "L017"}  # test_failover.py, test_external.py
    assert set(CASES) | elsewhere == set(CHECKS)
