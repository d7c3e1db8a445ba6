"""`meshagent policy history` and `rollback`: who changed what, and the way back."""

from __future__ import annotations

import json
import sqlite3

import pytest

ALLOW = "kind: intention\nname: payments\nsources:\n- {name: web, action: allow}\n"
DENY = "kind: intention\nname: payments\nsources:\n- {name: web, action: deny}\n"
SERVICE = "kind: service\nname: payments\nprotocol: http\n"


@pytest.fixture
def apply(mesh, tmp_path):
    def apply(text, *options):
        (tmp_path / "policy.yaml").write_text(text)
        return mesh.run("policy", "apply", "-f", "policy.yaml", *options)

    return apply


@pytest.fixture
def three(mesh, apply):
    """Revision 2: allow; 3: the service; 4: deny."""
    apply(ALLOW, "--reason", "INC-1")
    apply(SERVICE)
    apply(DENY)
    return mesh


def test_history_lists_the_newest_first_with_who_when_why_and_what(three):
    rows = json.loads(three.run("policy", "history", "-o", "json").stdout)
    assert [row["revision"] for row in rows] == [4, 3, 2, 1]
    assert [row["changed"] for row in rows[:3]] == [
        ["intention/payments"],
        ["service/payments"],
        ["intention/payments"],
    ]
    assert rows[2]["who"] == "ann@vm-1"
    assert rows[2]["why"] == "INC-1"
    assert rows[2]["at"].endswith("Z")


def test_history_can_be_limited_to_a_number_and_a_document(three):
    one = json.loads(three.run("policy", "history", "--limit", "1", "-o", "json").stdout)
    assert [row["revision"] for row in one] == [4]
    service = json.loads(three.run("policy", "history", "--of", "service/payments", "-o", "json").stdout)
    assert [row["revision"] for row in service] == [3]


def test_one_revision_is_shown_as_the_difference_that_it_made(three):
    shown = three.run("policy", "history", "4").stdout
    assert "revision 4, ann@vm-1 at " in shown
    assert "-- action: allow" in shown
    assert "+- action: deny" in shown
    assert "no history of revision 9" in three.run("policy", "history", "9", code=1).stderr


def test_rollback_makes_all_documents_what_they_were_as_a_new_revision(three):
    result = three.run("policy", "rollback", "2")
    assert result.stdout == "changed   intention payments\ndeleted   service payments\nrevision 5\n"
    documents = three.documents()
    assert documents["intention", "payments"].thing.sources[0].action == "allow"
    assert ("service", "payments") not in documents
    newest = json.loads(three.run("policy", "history", "--limit", "1", "-o", "json").stdout)[0]
    assert newest["why"] == "rollback to revision 2"
    assert three.run("policy", "rollback", "4").stdout.startswith("changed   intention payments\ncreated   service")
    assert three.documents()["intention", "payments"].thing.sources[0].action == "deny"


def test_rollback_to_what_is_there_changes_nothing(three):
    result = three.run("policy", "rollback", "4")
    assert result.stdout == "revision 4\n"
    assert "the policy is what it was at revision 4" in result.stderr


def test_rollback_check_shows_the_difference_and_changes_nothing(three):
    result = three.run("policy", "rollback", "2", "--check", code=5)
    assert "-  action: deny\n+  action: allow" in result.stdout
    assert "+++ /dev/null" in result.stdout
    assert three.documents()["intention", "payments"].thing.sources[0].action == "deny"


def test_there_is_no_way_to_a_revision_that_never_was(three):
    assert "the mesh is at revision 4" in three.run("policy", "rollback", "5", code=1).stderr


def test_documents_that_need_each_other_come_back_together(mesh, apply):
    """Permissions on requests need a service that speaks HTTP: neither could come back before the other."""
    apply(SERVICE)
    apply(
        "kind: intention\nname: payments\nsources:\n- name: web\n  permissions:\n"
        "  - {action: allow, http: {path_prefix: /x}}\n"
    )
    apply("kind: intention\nname: payments\nsources: []\n---\nkind: service\nname: payments\nprotocol: tcp\n")
    mesh.run("policy", "rollback", "3")
    assert mesh.documents()["service", "payments"].thing.protocol == "http"


def test_a_gap_in_the_history_is_said_and_nothing_changes(three):
    with sqlite3.connect(three.path) as database:
        database.execute("DELETE FROM kv WHERE key LIKE '%config/history/%3'")
    assert "the history of revision 3 is not there" in three.run("policy", "rollback", "2", code=1).stderr
    assert three.documents()["intention", "payments"].thing.sources[0].action == "deny"
