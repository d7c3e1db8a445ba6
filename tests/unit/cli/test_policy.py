"""`meshagent policy`: all documents or none, each problem with its file and line."""

from __future__ import annotations

import pytest
import yaml

from meshagent.cli.main import cli
from meshagent.model.world import Origin

GOOD = """\
kind: intention
name: payments
sources:
- {name: web, action: allow}
- name: db
  permissions:
  - {action: allow, http: {path_prefix: /reports}}
---
kind: service
name: payments
protocol: http
"""


@pytest.fixture
def good(tmp_path):
    (tmp_path / "policy.yaml").write_text(GOOD)
    return "policy.yaml"


def write(tmp_path, text, name="bad.yaml"):
    (tmp_path / name).write_text(text)
    return name


def test_apply_says_what_became_of_each_document(mesh, good):
    result = mesh.run("policy", "apply", "-f", good)
    assert result.stdout == "created   intention payments\ncreated   service payments\nrevision 2\n"
    again = mesh.run("policy", "apply", "-f", good)
    assert again.stdout == "unchanged intention payments\nunchanged service payments\nrevision 2\n"


def test_apply_names_the_sources_that_came_went_and_changed(mesh, good, tmp_path):
    mesh.run("policy", "apply", "-f", good)
    text = "kind: intention\nname: payments\nsources:\n- {name: web, action: deny}\n- {name: batch, action: allow}\n"
    result = mesh.run("policy", "apply", "-f", write(tmp_path, text))
    assert result.stdout == "changed   intention payments (~web +batch -db)\nrevision 3\n"


def test_apply_keeps_file_line_and_person_of_every_source(mesh, good):
    mesh.run("policy", "apply", "-f", good)
    stated = mesh.documents()["intention", "payments"]
    at = stated.origin().at
    assert stated.origin() == Origin("policy.yaml", 1, "ann@vm-1", at)
    assert stated.origin("web") == Origin("policy.yaml", 4, "ann@vm-1", at)
    assert stated.origin("db") == Origin("policy.yaml", 5, "ann@vm-1", at)
    assert mesh.documents()["service", "payments"].origin().line == 9
    assert "policy.yaml:4, applied by ann@vm-1 at " in mesh.run("explain", "web", "payments").stdout


def test_all_problems_come_at_once_and_nothing_is_applied(mesh, good, tmp_path):
    bad = write(
        tmp_path,
        "kind: intention\nname: db\nsources:\n- {name: web, acton: allow}\n"
        "---\nkind: intention\nname: db\nsources:\n"
        "- name: web\n  permissions:\n  - {action: allow, http: {path_prefix: /x}}\n"
        "---\nkind: mesh\ntrust_domain: other.internal\n",
    )
    result = mesh.run("policy", "apply", "-f", good, "-f", bad, code=3)
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: bad.yaml:4: sources[0]")
    assert any(line.startswith("error: bad.yaml:4: ") and "did you mean action?" in line for line in lines)
    assert any(
        line.startswith("error: bad.yaml:10: sources[0].permissions: web -> db has permissions") for line in lines
    )
    assert any(line.startswith("error: bad.yaml:14: trust_domain: is mesh.internal in this mesh") for line in lines)
    assert lines[-1].startswith("next: ")
    assert "nothing was applied" in lines[-1]
    assert result.stdout == ""
    assert set(mesh.documents()) == {("mesh", "mesh")}


def test_the_same_document_twice_is_an_error(mesh, good, tmp_path):
    other = write(tmp_path, "kind: service\nname: payments\n", "other.yaml")
    result = mesh.run("policy", "apply", "-f", good, "-f", other, code=3)
    assert "other.yaml:1: service payments: is given twice (first in policy.yaml:9)" in result.stderr


def test_a_directory_and_stdin_are_read(mesh, tmp_path):
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "a.yaml").write_text(GOOD)
    assert len(mesh.json("policy", "apply", "-f", "policies")["documents"]) == 2
    value = mesh.json("policy", "apply", "-f", "-", stdin="kind: service\nname: web\nprotocol: http\n")
    assert value["documents"] == [{"kind": "service", "name": "web", "result": "created"}]
    assert (value["revision"], value["changed"]) == (3, [{"kind": "service", "name": "web"}])


def test_nothing_to_apply_is_a_usage_error(mesh, tmp_path):
    mesh.run("policy", "apply", "-f", write(tmp_path, "# empty\n"), code=2)
    mesh.run("policy", "apply", code=2)
    assert "missing.yaml: cannot be read" in mesh.run("policy", "apply", "-f", "missing.yaml", code=3).stderr


def test_a_service_may_not_become_tcp_while_permissions_need_its_requests(mesh, good, tmp_path):
    mesh.run("policy", "apply", "-f", good)
    tcp = write(tmp_path, "kind: service\nname: payments\nprotocol: tcp\n")
    result = mesh.run("policy", "apply", "-f", tcp, code=3)
    assert "bad.yaml:3: protocol: the intention db -> payments has permissions on requests" in result.stderr
    mesh.register("payments", "tcp", "vm-2")
    result = mesh.run("policy", "delete", "service", "payments", code=3)
    assert "service payments: the intention db -> payments has permissions" in result.stderr


def test_a_service_document_makes_permissions_on_it_possible(mesh, tmp_path):
    text = GOOD.replace("payments", "db")
    mesh.run("policy", "apply", "-f", write(tmp_path, text))
    assert mesh.run("explain", "web", "db", "GET", "/").exit_code == 0


def test_a_problem_that_was_there_before_does_not_stop_an_unrelated_change(mesh, good, tmp_path):
    mesh.run("intention", "allow", "web", "payments", "--path", "/x")
    mesh.register("payments", "tcp", "vm-0")
    mesh.run("policy", "apply", "-f", write(tmp_path, "kind: service\nname: web\nprotocol: http\n"))


def test_the_trust_domain_cannot_change_not_even_by_leaving_it_out(env, tmp_path, mesh):
    result = mesh.run("policy", "apply", "-f", write(tmp_path, "kind: mesh\ntrust_domain: b.internal\n"), code=3)
    assert "cannot become b.internal: every identity is named after it" in result.stderr
    mesh.run("policy", "apply", "-f", write(tmp_path, "kind: mesh\ndefault_action: deny\n"))


def test_doubtful_documents_are_warned_of_and_applied(mesh, tmp_path):
    text = (
        "kind: mesh\ndefault_action: allow\n---\nkind: intention\nname: payments\nsources:\n- name: wbe\n"
        "  permissions:\n  - {action: deny, http: {path_prefix: /admin}}\n  - {action: allow, http: {path_prefix: /}}\n"
    )
    result = mesh.run("policy", "apply", "-f", write(tmp_path, text))
    assert "warning: bad.yaml:2: default_action: allow lets every call through" in result.stderr
    assert "warning: bad.yaml:7: sources[0].name: no service wbe is registered yet. Did you mean web?" in result.stderr
    assert "warning: bad.yaml:8: sources[0].permissions: wbe -> payments denies /admin" in result.stderr
    assert ("intention", "payments") in mesh.documents()


def test_an_unreadable_record_is_replaced_whole_and_that_is_said(mesh, good):
    mesh.put("meshagent/v1/config/intention/payments", b"{}")
    result = mesh.run("policy", "apply", "-f", good)
    assert "warning: policy.yaml:1: replaces a record that could not be read" in result.stderr
    assert ("intention", "payments") in mesh.documents()


def test_what_is_wrong_with_files_is_said_also_without_a_store(env, tmp_path):
    from tests.unit.cli.conftest import Commands

    bad = write(tmp_path, "kind: intenion\n")
    commands = Commands(env)
    assert "did you mean intention?" in commands.run("policy", "apply", "-f", bad, code=3).stderr
    good = write(tmp_path, "kind: service\nname: web\n", "good.yaml")
    assert "there is no store at sqlite://" in commands.run("policy", "apply", "-f", good, code=4).stderr


def test_validate_changes_nothing(mesh, good, tmp_path):
    assert (
        mesh.run("policy", "validate", "-f", good).stdout
        == "valid     intention payments\nvalid     service payments\n"
    )
    assert set(mesh.documents()) == {("mesh", "mesh")}
    assert mesh.json("policy", "validate", "-f", good)[1] == {
        "kind": "service",
        "name": "payments",
        "file": "policy.yaml",
        "line": 9,
    }
    bad = write(tmp_path, "kind: service\nname: Payments\n")
    assert "bad.yaml:2: name: must be 1 to 63" in mesh.run("policy", "validate", "-f", bad, code=3).stderr


def test_validate_asks_the_mesh_where_it_can(mesh, env, tmp_path):
    text = GOOD.partition("---")[0].replace("payments", "db")
    mesh.run("policy", "validate", "-f", write(tmp_path, text), code=3)
    result = mesh.run("policy", "validate", "-f", "bad.yaml", "--store", f"sqlite://{tmp_path}/none.db")
    assert "checked without the mesh: there is no store at" in result.stderr


def test_get_prints_what_can_be_applied_again(mesh, good, tmp_path):
    mesh.run("policy", "apply", "-f", good)
    mesh.run(
        "intention",
        "allow",
        "*",
        "web",
        "--path",
        "/a",
        "--header",
        "x-team=on",
        "--expires-at",
        "2099-01-01T00:00:00Z",
    )
    text = mesh.run("policy", "get").stdout
    assert [(each["kind"], each["name"]) for each in yaml.safe_load_all(text)] == [
        ("intention", "payments"),
        ("intention", "web"),
        ("mesh", "mesh"),
        ("service", "payments"),
    ]
    before = mesh.documents()
    result = mesh.run("policy", "apply", "-f", write(tmp_path, text))
    assert result.stdout.count("unchanged") == 4
    assert mesh.documents() == before


def test_get_takes_a_kind_and_a_name(mesh, good):
    mesh.run("policy", "apply", "-f", good)
    found = mesh.json("policy", "get", "intention", "payments")
    assert [each["name"] for each in found] == ["payments"]
    assert "policy.yaml:9" in mesh.run("policy", "get", "service", "-o", "table").stdout
    result = mesh.run("policy", "get", "intention", "paymnts", code=1)
    assert "there is no intention paymnts. Did you mean payments?" in result.stderr
    mesh.run("policy", "get", "gate", code=2)


def test_delete_takes_one_or_what_files_name(mesh, good):
    mesh.run("policy", "apply", "-f", good)
    assert mesh.run("policy", "delete", "service", "payments").stdout == "deleted   service payments\nrevision 3\n"
    result = mesh.run("policy", "delete", "-f", good)
    assert result.stdout == "deleted   intention payments\nabsent    service payments\nrevision 4\n"
    assert set(mesh.documents()) == {("mesh", "mesh")}


def test_delete_refuses_what_it_cannot_mean(mesh, good):
    assert "there is no service payments" in mesh.run("policy", "delete", "service", "payments", code=1).stderr
    mesh.run("policy", "delete", code=2)
    mesh.run("policy", "delete", "service", code=2)
    mesh.run("policy", "delete", "service", "web", "-f", good, code=2)
    assert "cannot be deleted" in mesh.run("policy", "delete", "mesh", "mesh", code=2).stderr
    mesh.put("meshagent/v1/config/service/web", b"{}")
    assert "cannot be read" in mesh.run("policy", "delete", "service", "web", code=1).stderr


def test_every_command_has_an_example(env):
    from click import Context, Group

    def leaves(command, ctx):
        if isinstance(command, Group):
            for name in command.list_commands(ctx):
                found = command.get_command(ctx, name)
                yield name, found
                yield from leaves(found, Context(found, info_name=name, parent=ctx))

    found = list(leaves(cli, Context(cli, info_name="meshagent")))
    assert len(found) > 20
    missing = [name for name, command in found if "Example:  meshagent" not in (command.help or "")]
    assert missing == []


def test_logs_by_otlp_need_a_collector(mesh, file):
    asked = "kind: service\nname: payments\naccess_log:\n  to: otlp\n"
    text = mesh.run("policy", "apply", "-f", file(asked), code=3).stderr
    assert "p.yaml:4: access_log.to: otlp needs a collector" in text
    traced = "kind: mesh\nname: mesh\ntracing: {otlp: 127.0.0.1:4317}\n"
    mesh.run("policy", "apply", "-f", file(f"{traced}---\n{asked}"))
    text = mesh.run("policy", "apply", "-f", file("kind: mesh\nname: mesh\n"), code=3).stderr
    assert "names no collector, and the access log of service payments goes there" in text


def test_a_format_that_envoy_would_refuse_is_refused_with_its_line(mesh, file):
    wrong = 'kind: service\nname: payments\naccess_log:\n  to: file\n  format: "%START_TIME% %NOPE%"\n'
    text = mesh.run("policy", "apply", "-f", file(wrong), code=3).stderr
    assert "p.yaml:5: access_log.format: uses NOPE, which is no operator of Envoy's that is taken here" in text
    wrong = 'kind: service\nname: payments\naccess_log:\n  to: file\n  fields:\n    key: "%FILE_CONTENT(/k)%"\n'
    text = mesh.run("policy", "apply", "-f", file(wrong), code=3).stderr
    assert "p.yaml:6: access_log.fields.key: uses FILE_CONTENT, which reads files of the host" in text
