"""What Envoy's unit is told to start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meshagent.envoy import unit
from meshagent.envoy.unit import become_envoy
from meshagent.errors import UsageProblem
from meshagent.private import write_private

LAUNCH = "envoy-launch.json"


def test_before_any_agent_has_run_it_says_to_start_one(tmp_path):
    with pytest.raises(UsageProblem, match="no agent has said yet") as told:
        become_envoy(tmp_path)
    assert told.value.next_step == "systemctl start meshagent"


@pytest.mark.parametrize("text", ["", "[]", "{}", '["envoy", 3]'])
def test_a_file_that_holds_no_command_is_refused(tmp_path, text):
    write_private(tmp_path / LAUNCH, text.encode())
    with pytest.raises(UsageProblem, match="holds no command"):
        become_envoy(tmp_path)


def child(directory: Path) -> int:
    """Become it in a child; its exit code."""
    code = f"""
import os
from pathlib import Path
from meshagent.envoy.unit import become_envoy
from meshagent.errors import EnvoyFailed
try:
    become_envoy(Path({str(directory)!r}))
except EnvoyFailed:
    os._exit(77)
"""
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


def test_it_becomes_the_program_without_our_environment_and_with_a_private_stderr(tmp_path, monkeypatch):
    monkeypatch.setenv("MESHAGENT_SECRET", "s3cret")
    write_private(tmp_path / LAUNCH, json.dumps(["/bin/sh", "-c", "env >&2; kill -PIPE $$; exit 3"]).encode())
    assert child(tmp_path) == -13  # SIGPIPE ends it, as it would not if Python's way were inherited
    said = tmp_path / "envoy.stderr"
    assert "LANG=" in said.read_text() and "s3cret" not in said.read_text()
    assert said.stat().st_mode & 0o777 == 0o600


def test_a_binary_that_is_not_there_is_told(tmp_path):
    write_private(tmp_path / LAUNCH, json.dumps([str(tmp_path / "none")]).encode())
    assert child(tmp_path) == 77


def test_the_unit_has_the_name_that_people_are_told():
    assert unit.UNIT == "meshagent-envoy.service"
