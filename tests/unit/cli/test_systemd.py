"""What Envoy's unit runs before it stops Envoy."""

from __future__ import annotations

import time

import pytest


@pytest.fixture(autouse=True)
def _of_nobody_else(short_dir, monkeypatch):
    """A machine that has an Envoy keeps it."""
    monkeypatch.setenv("MESHAGENT_DATA_DIR", str(short_dir / "data"))
    monkeypatch.setenv("MESHAGENT_RUNTIME_DIR", str(short_dir / "run"))


def test_where_envoy_has_ended_by_itself_there_is_nothing_to_drain(agent, monkeypatch):
    monkeypatch.delenv("MAINPID", raising=False)
    agent.run("systemd", "drain")
    assert agent.asked == []


def test_a_stop_has_the_agent_leave_the_mesh_and_goes_on_where_envoy_does_not_answer(agent, monkeypatch):
    monkeypatch.setenv("MAINPID", "7")
    agent.answer("POST", "/v1/leave", {"left": True})
    result = agent.run("systemd", "drain")
    assert [asked[:2] for asked in agent.asked] == [("POST", "/v1/leave")]
    assert "Envoy is not drained" in result.stderr


def test_an_agent_that_is_away_keeps_nobody_from_stopping(agent, monkeypatch):
    monkeypatch.setenv("MAINPID", "7")
    agent.answer("POST", "/v1/leave", {"code": "E202", "message": "no store", "next_step": ""}, status=500)
    began = time.monotonic()
    assert "the agent cannot tell the mesh" in agent.run("systemd", "drain").stderr
    assert time.monotonic() - began < 5


def test_before_an_agent_has_run_there_is_no_envoy_to_become(agent):
    result = agent.run("systemd", "envoy", code=2)
    assert "no agent has said yet what to start" in result.stderr
