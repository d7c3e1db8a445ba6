"""`meshagent intention`: what the store holds afterwards, what is printed, and the exit codes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from meshagent.model.intention import HttpMatch, Permission


def payments(mesh):
    return mesh.documents()["intention", "payments"]


def source(mesh, name="web"):
    return payments(mesh).thing.source(name)


def test_allow_writes_the_intention_with_who_and_when(mesh):
    before = datetime.now(UTC).replace(microsecond=0)
    result = mesh.run("intention", "allow", "web", "payments", "--reason", "INC-7")
    assert result.stdout == "web -> payments: allow (revision 2)\n"
    assert result.stderr == ""
    assert source(mesh).action == "allow"
    assert source(mesh).reason == "INC-7"
    origin = payments(mesh).origin("web")
    assert origin.who == "ann@vm-1"
    assert before <= origin.at <= datetime.now(UTC)


def test_a_second_source_keeps_the_first_and_its_origin(mesh):
    mesh.run("intention", "allow", "web", "payments")
    first = payments(mesh).origin("web")
    mesh.run("intention", "deny", "db", "payments")
    assert [(each.name, each.action) for each in payments(mesh).thing.sources] == [("web", "allow"), ("db", "deny")]
    assert payments(mesh).origin("web") == first


def test_deny_after_allow_replaces_it(mesh):
    mesh.run("intention", "allow", "web", "payments")
    mesh.run("intention", "deny", "web", "payments")
    assert source(mesh).action == "deny"
    assert len(payments(mesh).thing.sources) == 1


def test_the_same_again_changes_nothing(mesh):
    mesh.run("intention", "allow", "web", "payments")
    assert "(unchanged, revision 2)" in mesh.run("intention", "allow", "web", "payments").stdout


def test_json_says_what_is_written_and_at_which_revision(mesh):
    value = mesh.json("intention", "allow", "web", "payments", "--method", "get", "--path", "/reports")
    assert value["permissions"] == [{"action": "allow", "http": {"methods": ["GET"], "path_prefix": "/reports"}}]
    assert (value["revision"], value["waited"]) == (2, None)
    assert value["changed"] == [{"kind": "intention", "name": "payments"}]
    assert value["origin"]["who"] == "ann@vm-1"


def test_for_ends_the_intention_after_the_duration(mesh):
    before = datetime.now(UTC)
    mesh.run("intention", "allow", "web", "payments", "--for", "2h")
    left = source(mesh).expires_at - before
    assert timedelta(minutes=119, seconds=58) < left <= timedelta(hours=2)


def test_expires_at_is_kept_as_given(mesh):
    mesh.run("intention", "allow", "web", "payments", "--expires-at", "2099-01-31T18:00:00+02:00")
    assert source(mesh).expires_at == datetime(2099, 1, 31, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--for", "2h", "--expires-at", "2099-01-01T00:00:00Z"], "exclude each other"),
        (["--for", "2 hours"], "must be a duration"),
        (["--for", "0s"], "longer than nothing"),
        (["--expires-at", "2001-01-01T00:00:00Z"], "over already"),
        (["--expires-at", "2099-01-01T00:00:00"], "time zone"),
        (["--expires-at", "tomorrow"], "must be a time"),
        (["--path", "/a", "--path-exact", "/b"], "exclude each other"),
        (["--path", "reports"], "--path reports: must begin with /"),
        (["--path", "/a//b"], "normalised"),
        (["--path-regex", "("], "not a regular expression"),
        (["--method", "GE T"], "--method"),
        (["--header", "=fin"], "must be NAME=VALUE"),
        (["--header", "host=a"], "--header host: cannot be decided on"),
        (["--ignore-case"], "--ignore-case needs a path"),
        (["--reason", "x" * 513], "longer than 512"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(mesh, args, words):
    result = mesh.run("intention", "allow", "web", "payments", *args, code=2)
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert "next: meshagent intention allow --help" in result.stderr
    assert ("intention", "payments") not in mesh.documents()


@pytest.mark.parametrize("name", ["Web", "a/b", "../x", "web.", "", "x" * 64, "web\n", "we b", "ü"])
def test_a_bad_name_is_refused_before_the_store_is_opened(env, name):
    from tests.unit.cli.conftest import Commands

    result = Commands(env).run("intention", "allow", name, "payments", code=2)
    assert "must be 1 to 63 lower-case letters" in result.stderr


def test_a_new_permission_is_put_before_those_that_are_there(mesh):
    mesh.run("intention", "allow", "web", "payments", "--path", "/reports")
    mesh.run("intention", "deny", "web", "payments", "--path-exact", "/reports/secret", "--ignore-case")
    secret = HttpMatch(path_exact="/reports/secret", ignore_case=True)
    reports = HttpMatch(path_prefix="/reports")
    expected = (Permission(action="deny", http=secret), Permission(action="allow", http=reports))
    assert source(mesh).permissions == expected


def test_the_opposite_of_a_permission_takes_its_place(mesh):
    mesh.run("intention", "allow", "web", "payments", "--path", "/a")
    mesh.run("intention", "allow", "web", "payments", "--path", "/b")
    mesh.run("intention", "deny", "web", "payments", "--path", "/a")
    assert [(each.action, each.http.path_prefix) for each in source(mesh).permissions] == [
        ("deny", "/a"),
        ("allow", "/b"),
    ]


def test_denying_a_path_keeps_everything_else_of_a_source_that_may_do_all(mesh):
    mesh.run("intention", "allow", "web", "payments", "--for", "2h")
    ends = source(mesh).expires_at
    result = mesh.run("intention", "deny", "web", "payments", "--path", "/admin", "--ignore-case")
    assert [(each.action, each.http.path_prefix) for each in source(mesh).permissions] == [
        ("deny", "/admin"),
        ("allow", "/"),
    ]
    assert "everything else of web -> payments stays as it was" in result.stderr
    assert source(mesh).expires_at == ends, "a permission for two hours must not become one for ever"
    assert mesh.run("intention", "check", "web", "payments", "--path", "/admin/x", code=5)
    assert mesh.run("intention", "check", "web", "payments", "--path", "/reports")


def test_denying_a_path_keeps_what_a_wildcard_lets_through(mesh):
    mesh.run("intention", "allow", "*", "payments", "--path", "/reports")
    mesh.run("intention", "deny", "web", "payments", "--path", "/reports/secret", "--ignore-case")
    mesh.run("intention", "check", "web", "payments", "--path", "/reports/x")
    mesh.run("intention", "check", "web", "payments", "--path", "/reports/secret", code=5)
    mesh.run("intention", "check", "web", "payments", "--path", "/other", code=5)


def test_denying_a_path_of_a_source_that_is_denied_says_so_and_changes_nothing(mesh):
    mesh.run("intention", "deny", "web", "payments")
    result = mesh.run("intention", "deny", "web", "payments", "--path", "/admin")
    assert "denied already" in result.stderr
    assert source(mesh).action == "deny"


def test_allowing_a_path_of_a_source_that_may_do_all_narrows_it_and_says_so(mesh):
    mesh.run("intention", "allow", "web", "payments")
    result = mesh.run("intention", "allow", "web", "payments", "--path", "/reports")
    assert "until now intention payments/web allowed more" in result.stderr
    mesh.run("intention", "check", "web", "payments", "--path", "/reports/x")
    mesh.run("intention", "check", "web", "payments", "--path", "/", code=5)


def test_a_plain_action_over_permissions_names_what_it_replaces(mesh):
    mesh.run("intention", "allow", "web", "payments", "--path", "/reports", "--method", "GET")
    result = mesh.run("intention", "allow", "web", "payments")
    assert "replaces the permissions of web -> payments: allow GET below /reports" in result.stderr
    assert source(mesh).permissions == ()


def test_an_end_for_one_permission_is_said_to_be_the_end_of_all(mesh):
    mesh.run("intention", "allow", "web", "payments", "--path", "/a")
    result = mesh.run("intention", "allow", "web", "payments", "--path", "/b", "--for", "1h")
    assert "one end for all its permissions" in result.stderr


def test_permissions_on_a_tcp_service_are_an_error_that_names_the_fix(mesh):
    result = mesh.run("intention", "allow", "web", "db", "--path", "/x", code=3)
    assert "web -> db: has permissions on requests, but db is a tcp service" in result.stderr
    assert "Say `protocol: http`" in result.stderr
    assert ("intention", "db") not in mesh.documents()


def test_a_path_denied_in_one_spelling_is_warned_of(mesh):
    mesh.run("intention", "allow", "web", "payments")
    result = mesh.run("intention", "deny", "web", "payments", "--path", "/admin")
    assert "warning: web -> payments denies /admin in exactly this spelling" in result.stderr
    mended = mesh.run("intention", "deny", "web", "payments", "--path", "/admin", "--ignore-case")
    assert "warning" not in mended.stderr
    mesh.run("intention", "check", "web", "payments", "--path", "/ADMIN", code=5)


def test_an_unknown_name_is_warned_of_with_the_closest_known_one(mesh):
    result = mesh.run("intention", "allow", "web", "paymnts")
    assert "warning: no service paymnts is registered yet. Did you mean payments?" in result.stderr


def test_a_record_that_cannot_be_read_is_not_written_over(mesh):
    mesh.put("meshagent/v1/config/intention/payments", b'{"v": 2}')
    result = mesh.run("intention", "allow", "web", "payments", code=1)
    assert "the intention record of payments cannot be read" in result.stderr
    assert "next: " in result.stderr


def test_delete_says_what_decides_now(mesh):
    mesh.run("intention", "allow", "*", "payments")
    mesh.run("intention", "deny", "web", "payments")
    result = mesh.run("intention", "delete", "web", "payments")
    assert result.stdout == "web -> payments: deleted (revision 4); now payments/* decides: allow\n"
    assert source(mesh) is None
    assert "web" not in payments(mesh).origins


def test_deleting_the_last_source_deletes_the_document(mesh):
    mesh.run("intention", "allow", "web", "payments")
    result = mesh.run("intention", "delete", "web", "payments")
    assert "now the mesh's default decides: deny" in result.stdout
    assert ("intention", "payments") not in mesh.documents()


def test_deleting_what_is_not_there_is_an_error_with_the_closest(mesh):
    mesh.run("intention", "allow", "web", "payments")
    result = mesh.run("intention", "delete", "wbe", "payments", code=1)
    assert "there is no intention wbe -> payments. Did you mean web?" in result.stderr
    assert "next: meshagent intention list --destination payments" in result.stderr


def test_list_shows_all_or_those_asked_for(mesh):
    mesh.run("intention", "allow", "web", "payments", "--reason", "INC-7")
    mesh.run("intention", "deny", "*", "payments")
    mesh.run("intention", "allow", "payments", "db")
    rows = [line.split()[:3] for line in mesh.run("intention", "list").stdout.splitlines()]
    assert rows == [
        ["SOURCE", "DESTINATION", "ACTION"],
        ["payments", "db", "allow"],
        ["web", "payments", "allow"],
        ["*", "payments", "deny"],
    ]
    found = mesh.json("intention", "list", "--destination", "payments", "--source", "web")
    assert [(each["source"], each["reason"]) for each in found] == [("web", "INC-7")]


def test_list_of_nothing_prints_no_data_and_says_so(mesh):
    result = mesh.run("intention", "list")
    assert (result.stdout, result.stderr) == ("", "no intention yet\n")
    assert mesh.json("intention", "list") == []


def test_list_marks_what_is_over(mesh, monkeypatch):
    mesh.run("intention", "allow", "web", "payments", "--expires-at", "2099-01-01T00:00:00Z")
    monkeypatch.setattr("meshagent.cli.rulebook.now_utc", lambda: datetime(2099, 1, 2, tzinfo=UTC))
    assert "2099-01-01T00:00:00Z (over)" in mesh.run("intention", "list").stdout
    assert mesh.json("intention", "list")[0]["expired"] is True


def test_show_of_a_destination_is_its_rules_in_order_down_to_the_default(mesh):
    mesh.run("intention", "allow", "web", "*")
    mesh.run("intention", "deny", "db", "payments")
    value = mesh.json("intention", "show", "payments")
    rules = [(each["order"], each["source"], each["action"], each["rule"]) for each in value["rules"]]
    assert rules == [
        (1, "db", "deny", "payments/db"),
        (2, "web", "allow", "*/web"),
        (3, "*", "deny", "mesh/default_action"),
    ]
    assert value["protocol"] == "http"
    assert "seed at 2026-11-21T00:00:00Z" in mesh.run("intention", "show", "payments").stdout


def test_show_of_a_pair_is_the_intention_as_it_is_written(mesh):
    mesh.run("intention", "allow", "web", "payments", "--path", "/a", "--header", "x-team=fin", "--header", "x-any")
    shown = mesh.run("intention", "show", "web", "payments").stdout
    assert "allow below /a with x-team=fin and x-any; else deny" in shown
    assert mesh.json("intention", "show", "web", "payments")["destination"] == "payments"


def test_show_of_an_absent_pair_is_an_error(mesh):
    result = mesh.run("intention", "show", "web", "payments", code=1)
    assert "there is no intention web -> payments" in result.stderr
    mesh.run("intention", "show", "a", "b", "c", code=2)
