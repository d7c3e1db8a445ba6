"""Rollouts at the command line: what is refused, what is said of one, and what it leaves behind."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import yaml

from meshagent.model.rollout import Bucket, Counts, Progress
from meshagent.state.keys import Keys
from meshagent.state.progress import MeasuredRecord, put_measured

KEYS = Keys()
SERVICE = """
kind: service
name: payments
protocol: http
subsets: {v1: {version: v1}, v2: {version: v2}}
"""
ROUTE = """
kind: route
name: payments
rules:
- match: {path_prefix: /beta}
  to: [{subset: v2}]
- timeout: 3s
"""
ALLOW = """
kind: intention
name: payments
sources: [{name: web, action: allow}]
"""
ROLLOUT = """
kind: rollout
name: payments
base: v1
to: v2
"""


def write(folder, *documents):
    path = folder / "policy.yaml"
    path.write_text("---".join(documents))
    return str(path)


@pytest.fixture
def versions(mesh, tmp_path):
    """payments in v1 and v2, which web may call."""
    mesh.register("payments", host="vm-1", meta={"version": "v1"})
    mesh.register("payments", host="vm-2", meta={"version": "v2"}, address="10.0.0.2")
    mesh.run("policy", "apply", "-f", write(tmp_path, SERVICE, ALLOW))
    return mesh


def held(mesh, service="payments"):
    return mesh.documents()["rollout", service].thing


def tell(mesh, step=0, phase="running", turn=3, why="300 requests, 0 failed"):
    """What hosts say of the rollout that is there."""
    progress = Progress(
        run=held(mesh).run, turn=turn, phase=phase, step=step, since=datetime.now(UTC), host="vm-2", why=why
    )
    data = {"v": 1, **json.loads(progress.model_dump_json())}
    mesh.put(KEYS.progress("payments"), json.dumps(data).encode())
    return progress


def count(mesh, **subsets):
    counts = {
        name: Counts(requests=n, failed=bad, times=(Bucket(upto=50, count=n),)) for name, (n, bad) in subsets.items()
    }
    record = MeasuredRecord(run=held(mesh).run, turn=3, serving=sorted(subsets), counts=counts)
    mesh._commit(lambda lease: put_measured(KEYS, "payments", "vm-2", record, lease))


def test_start_writes_a_rollout_of_the_only_other_subset(versions):
    words = ("--steps", "5,25,50,100", "--every", "2m", "--max-error-rate", "1", "--max-p99", "300ms")
    shown = versions.run("rollout", "start", "payments", "--to", "v2", *words)
    assert "v1 -> v2 by 5, 25, 50, 100 %" in shown.stdout and "--watch" in shown.stderr
    found = held(versions)
    assert (found.base, found.to, found.steps, found.state) == ("v1", "v2", (5, 25, 50, 100), "running")
    assert (found.max_error_rate, found.max_p99.total_seconds(), found.every.total_seconds()) == (1, 0.3, 120)
    assert versions.documents()["rollout", "payments"].origin().who == "ann@vm-1"
    assert "rollout of payments from v1 to v2" in versions.run("policy", "history").stdout


def test_another_one_cannot_begin_while_one_goes_on(versions):
    versions.run("rollout", "start", "payments", "--to", "v2")
    assert "is under way" in versions.run("rollout", "start", "payments", "--to", "v2", code=1).stderr
    tell(versions, phase="rolled_back")
    versions.run("rollout", "start", "payments", "--to", "v2", "--max-error-rate", "5%")
    assert held(versions).max_error_rate == 5


def test_the_next_one_leads_on_from_where_the_last_one_led_to(versions, tmp_path):
    versions.run("rollout", "start", "payments", "--to", "v2")
    tell(versions, phase="done", step=3)
    three = SERVICE.replace("v2: {version: v2}", "v2: {version: v2}, v3: {version: v3}")
    versions.run("policy", "apply", "-f", write(tmp_path, three))
    assert "v2 -> v3" in versions.run("rollout", "start", "payments", "--to", "v3").stdout
    versions.run("rollout", "abort", "payments")
    assert "v2 -> v1" in versions.run("rollout", "start", "payments", "--to", "v1").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "v3"), "which subset does v3 replace? payments has the subsets v1, v2"),
        (("--to", "v3", "--base", "v1"), "names the subset v3, which payments does not have"),
        (("--to", "v2", "--base", "v2"), "base and to are both v2"),
        (("--to", "v2", "--steps", "5,x"), "must be percentages such as 5,25,50,100"),
        (("--to", "v2", "--steps", "50,25,100"), "each must be more than the one before it"),
        (("--to", "v2", "--every", "10ms"), "must be between 1s and 720h"),
        (("--to", "v2", "--max-error-rate", "100"), "--max-error-rate: Input should be less than 100"),
    ],
)
def test_what_cannot_be_is_refused(versions, words, said):
    result = versions.run("rollout", "start", "payments", *words, code=3 if "--base" in words and "v3" in words else 2)
    assert said in result.stderr.replace("\n", " ")
    assert ("rollout", "payments") not in versions.documents()


def test_a_service_without_subsets_cannot_be_rolled_out(mesh):
    assert "has no subset besides v2" in mesh.run("rollout", "start", "web", "--to", "v2", code=2).stderr


@pytest.mark.parametrize(
    ("documents", "line", "said"),
    [
        ((SERVICE, ROLLOUT.replace("to: v2", "to: v7")), 10, "names the subset v7, which payments does not have"),
        ((SERVICE.replace("http", "tcp"), ROLLOUT), 8, "judges requests, and payments speaks tcp"),
        ((SERVICE + "data_path: l4\n", ROLLOUT), 9, "nobody sees with `data_path: l4`"),
        (
            (SERVICE, ROLLOUT, "\nkind: route\nname: payments\nrules: [{to: [{subset: v1}, {subset: v2}]}]\n"),
            10,
            "splits what rule 0 of the route payments splits already: take v2 out there",
        ),
    ],
)
def test_apply_refuses_with_file_and_line_what_cannot_be_carried_out(mesh, tmp_path, documents, line, said):
    result = mesh.run("policy", "apply", "-f", write(tmp_path, *documents), code=3)
    assert f"policy.yaml:{line}: " in result.stderr and said in result.stderr


def test_apply_refuses_a_route_or_a_deletion_that_a_rollout_could_not_live_with(versions, tmp_path):
    versions.run("rollout", "start", "payments", "--to", "v2")
    route = "\nkind: route\nname: payments\nrules: [{to: [{}, {subset: v2}]}]\n"
    refused = versions.run("policy", "apply", "-f", write(tmp_path, route), code=3).stderr
    assert "policy.yaml:2: the rollout of payments splits what rule 0" in refused
    assert (
        "the rollout of payments names the subset v1"
        in versions.run("policy", "delete", "service", "payments", code=3).stderr
    )


def test_status_tells_the_share_what_was_counted_and_what_it_waits_for(versions):
    assert "there is no rollout" in versions.run("rollout", "status").stdout
    versions.run("rollout", "start", "payments", "--to", "v2")
    assert (
        "awaited, 100 % to v1, 0 % to v2: no instance of v2 is in service" in versions.run("rollout", "status").stdout
    )
    tell(versions, step=1)
    count(versions, v1=(900, 9), v2=(300, 0))
    shown = versions.run("rollout", "status", "payments").stdout
    assert "under way, step 2 of 4, 75 % to v1, 25 % to v2" in shown
    assert "v2      300       0       0 %     49.5 ms" in shown
    data = versions.json("rollout", "status", "payments")
    assert (data["percent"], data["measured"]["v1"]["error_rate"], data["over"]) == (25, 1.0, False)
    assert "25 % to v2" in versions.run("status", code=0).stdout
    explained = versions.json("explain", "web", "payments", "GET", "/")
    assert [each["percent"] for each in explained["route"]["targets"]] == [75, 25]
    assert [each["service"] for each in explained["rollouts"]] == ["payments"]
    assert "rollout payments: under way" in versions.run("explain", "web", "payments", "GET", "/").stdout


def test_what_was_told_of_an_earlier_rollout_says_nothing_of_this_one(versions):
    versions.run("rollout", "start", "payments", "--to", "v2", "--base", "v1")
    tell(versions, step=2, phase="done")
    versions.run("policy", "delete", "rollout", "payments")
    document = ROLLOUT + "id: another\n"
    versions.run("policy", "apply", "-f", "-", stdin=document)
    assert versions.json("rollout", "status", "payments")["percent"] == 0


def test_a_word_of_the_operator_counts_at_once_and_is_in_the_history(versions):
    versions.run("rollout", "start", "payments", "--to", "v2")
    tell(versions, step=1)
    assert (
        "paused, step 2 of 4, 75 % to v1" in versions.run("rollout", "pause", "payments", "--reason", "freeze").stdout
    )
    assert "freeze" in versions.run("policy", "history").stdout
    assert "under way, step 2 of 4" in versions.run("rollout", "resume", "payments").stdout
    assert "is running, not paused" in versions.run("rollout", "resume", "payments", code=1).stderr
    promoted = versions.run("rollout", "promote", "payments")
    assert (
        "promoted, 0 % to v1, 100 % to v2" in promoted.stdout and "rollout promote payments --keep" in promoted.stderr
    )
    aborted = versions.run("rollout", "abort", "payments")
    assert "aborted, 100 % to v1, 0 % to v2" in aborted.stdout and "rollout abort payments --keep" in aborted.stderr
    assert "rollout start payments --to v2" in versions.run("rollout", "resume", "payments", code=1).stderr
    assert "Did you mean payments?" in versions.run("rollout", "abort", "payment", code=1).stderr


def test_keep_writes_the_outcome_into_every_route_and_ends_it(versions, tmp_path):
    other = "\nkind: route\nname: web\nrules: [{match: {path_prefix: /pay}, to: [{service: payments}]}]\n"
    versions.run("policy", "apply", "-f", write(tmp_path, ROUTE, other))
    versions.run("rollout", "start", "payments", "--to", "v2")
    versions.run("rollout", "promote", "payments", "--keep")
    assert ("rollout", "payments") not in versions.documents()
    route = yaml.safe_load(versions.run("policy", "get", "route", "payments").stdout)
    assert route["rules"][0] == {"match": {"path_prefix": "/beta"}, "to": [{"subset": "v2"}]}
    assert route["rules"][1:] == [{"timeout": "3s", "to": [{"subset": "v2"}]}]
    (rule,) = yaml.safe_load(versions.run("policy", "get", "route", "web").stdout)["rules"]
    assert rule["to"] == [{"service": "payments", "subset": "v2"}]


def test_keep_of_an_abort_leads_to_the_old_one_for_good_and_the_next_rollout_splits_that(versions):
    versions.run("rollout", "start", "payments", "--to", "v2")
    ended = versions.json("rollout", "abort", "payments", "--keep")
    assert ended["ended"] and ended["percent"] == 0
    assert yaml.safe_load(versions.run("policy", "get", "route", "payments").stdout)["rules"] == [
        {"to": [{"subset": "v1"}]}
    ]
    versions.run("rollout", "start", "payments", "--to", "v2")
    tell(versions, step=0)
    targets = versions.json("explain", "web", "payments", "GET", "/")["route"]["targets"]
    assert [(each["subset"], each["percent"]) for each in targets] == [("v1", 95), ("v2", 5)]


def test_plan_tells_what_a_rollout_would_do_to_requests(versions, tmp_path):
    shown = versions.run("policy", "plan", "-f", write(tmp_path, ROLLOUT)).stdout
    assert "100 % of every caller's requests to payments go to v1" in shown


def test_watch_ends_with_the_rollout_and_says_by_its_code_how(versions):
    versions.run("rollout", "start", "payments", "--to", "v2")
    tell(versions, step=3, phase="done")
    done = versions.run("rollout", "status", "payments", "--watch")
    assert "done, 0 % to v1, 100 % to v2" in done.stdout and "promote payments --keep" in done.stderr
    tell(versions, phase="rolled_back", why="v2: 5 % of 200 requests failed, and 1 % may", turn=4)
    back = versions.run("rollout", "status", "payments", "--watch", code=5)
    assert "taken back, 100 % to v1, 0 % to v2: v2: 5 % of 200 requests failed" in back.stdout
    assert "needs a SERVICE" in versions.run("rollout", "status", "--watch", code=2).stderr
