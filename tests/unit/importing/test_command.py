"""`meshagent policy import`: documents on stdout, the report on stderr, an exit code."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from meshagent.cli.main import cli
from meshagent.documents.decode import decode_documents
from meshagent.model.kinds import KINDS

ENTRY = (
    'Kind = "service-resolver"\nName = "web"\nConnectTimeout = "3s"\nFailover = { "*" = { Datacenters = ["dc2"] } }\n'
)


def run(*arguments, code=0, stdin=None):
    result = CliRunner().invoke(cli, ["policy", "import", *map(str, arguments)], input=stdin)
    assert result.exit_code == code, result.output
    return result


def test_documents_go_to_stdout_and_the_report_to_stderr(tmp_path):
    (tmp_path / "web.hcl").write_text(ENTRY)
    (tmp_path / "notes.txt").write_text("not a policy")
    result = run("--from", "consul", tmp_path)
    decoded = decode_documents(result.stdout, "out", KINDS)
    assert not decoded.problems and [each.document.name for each in decoded.documents] == ["web"]
    assert f"{tmp_path}/web.hcl:4: service-resolver web Failover.*.Datacenters: left out: " in result.stderr
    assert "imported 1 of 1 objects into one document" in result.stderr


def test_nothing_imported_is_exit_code_3():
    result = run("--from", "istio", "-", code=3, stdin="kind: Gateway\nmetadata: {name: g}\nspec: {servers: []}\n")
    assert result.stdout == "" and "not imported" in result.stderr


@pytest.mark.parametrize(("name", "text"), [("a.hcl", "a = {"), ("a.yaml", "a: ["), ("gone.yaml", None)])
def test_a_file_that_cannot_be_read_is_told_and_is_exit_code_3(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert name in run("--from", "consul", tmp_path / name, code=3).stderr


def test_a_name_that_is_none_here_is_mapped():
    spec = "{host: api.example.com, trafficPolicy: {loadBalancer: {simple: RANDOM}}}"
    rule = f"kind: DestinationRule\nmetadata: {{name: r}}\nspec: {spec}\n"
    assert "name: api\n" in run("--from", "istio", "--map", "api.example.com=api", "-", stdin=rule).stdout
    assert "--map api.example.com=NAME" in run("--from", "istio", "-", code=3, stdin=rule).stderr
    assert "FROM=TO" in run("--from", "istio", "--map", "api", "-", code=2, stdin=rule).stderr
