"""The story tells what it saw, also when that is wrong."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import pytest

from meshagent.demo import run
from meshagent.demo.commits import Commits
from meshagent.demo.processes import clean_environment
from meshagent.demo.run import Story
from meshagent.demo.stage import Stage

PAIRS = ("web>payments", "web>ledger", "reporting>ledger")
NAMES = ("payments", "ledger", "web", "reporting", "mtls", *PAIRS)


class DeadStage(Stage):
    """A stage on which no command works and nobody listens."""

    def start(self, *words):
        script = f"import sys; print('nothing works', file=sys.stderr); sys.exit({self.code})"
        return subprocess.Popen([sys.executable, "-S", "-c", script], stdout=-1, stderr=-1, text=True)

    code = 4


@pytest.fixture
def stage(tmp_path):
    return DeadStage(tmp_path, dict.fromkeys(NAMES, 1))  # port 1: nobody may listen there without our knowing


def test_a_mesh_that_does_nothing_right_is_told_line_by_line_and_ends_with_1(stage, monkeypatch, capsys):
    @contextmanager
    def staged():
        yield stage

    monkeypatch.setattr(run, "staged", staged)
    monkeypatch.setattr(run, "_PATIENCE_SECONDS", 0.02)
    (stage.directory / "agent.log").write_text('{"event": "request_refused"}\n{"event": "envoy_ended"}\n')
    assert run.main() == 1
    said = capsys.readouterr().out
    assert "ok " not in said and "\n0 of " in said and "nothing works" in said
    for observed in ("exit 4", "Connection refused", "no error"):
        assert observed in said
    assert "envoy_ended" in said and "request_refused" not in said


def test_a_change_that_commits_nothing_or_has_no_effect_has_no_time(stage, monkeypatch, capsys):
    monkeypatch.setattr(run, "_PATIENCE_SECONDS", 0.02)
    stage.code = 0
    with Commits(stage.environment["MESHAGENT_STORE"]) as commits:
        story = Story(stage, commits)
        assert story.change("intention", "allow", "web", "payments", effect=lambda: True) is None
        assert story.change("intention", "allow", "web", "payments", effect=lambda: False) is None
        assert story.rows == []
        stage.code = 3
        story.run("explain", "web", "payments", code=5)
    assert [(row.expected, row.observed) for row in story.rows] == [("exit 5", "exit 3")]


def test_what_a_person_set_for_another_mesh_does_not_reach_the_demo(monkeypatch):
    monkeypatch.setenv("MESHAGENT_CA_PROVIDER", "elsewhere")
    monkeypatch.setenv("HOME", "/home/me")
    assert clean_environment()["HOME"] == "/home/me" and "MESHAGENT_CA_PROVIDER" not in clean_environment()
