"""Daemons in the background: one that answers is left alone, one that ends says why, systemd goes first where it runs."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from meshagent.errors import DaemonNotStarted
from meshagent.host import starting
from meshagent.host.starting import port_answers, start_daemon, unix_socket_answers


@pytest.fixture
def nowhere(tmp_path):
    return tmp_path / "no-systemd"


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A systemd that knows what the test says; it writes down what it was told."""
    told = tmp_path / "told"

    def install(code: int):
        script = tmp_path / "bin" / "systemctl"
        script.parent.mkdir()
        script.write_text(f'#!/bin/sh\necho "$@" >> {told}\n[ "$1" = cat ] && exit 0\nexit {code}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
        return tmp_path, told

    return install


def test_one_that_answers_is_left_alone(tmp_path, nowhere):
    started = start_daemon("the agent", "x.service", ("--help",), tmp_path / "log", lambda: True, nowhere)
    assert started.words == "the agent runs already" and not (tmp_path / "log").exists()


def test_one_that_ends_says_why_and_its_log_is_private(tmp_path, nowhere):
    log = tmp_path / "data" / "log"
    with pytest.raises(DaemonNotStarted, match="No such command") as told:
        start_daemon("the agent", "x.service", ("nonsense",), log, lambda: False, nowhere)
    assert str(log) in told.value.next_step
    assert log.stat().st_mode & 0o777 == 0o600


def test_one_that_is_started_has_a_session_of_its_own_and_none_of_our_store_secrets(tmp_path, nowhere, monkeypatch):
    monkeypatch.setenv("MESHAGENT_STORE_TOKEN_FILE", "/root/management.token")
    process = starting._detached(("--version",), tmp_path / "log")
    try:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert os.getsid(process.pid) == process.pid
    finally:
        process.wait()
    assert b"management.token" not in environment and b"PATH=" in environment


def test_it_is_waited_for_until_it_answers(tmp_path, nowhere):
    log = tmp_path / "log"
    answers = iter([False, False, True])
    started = start_daemon("the agent", "x.service", ("--version",), log, lambda: next(answers), nowhere)
    assert started.process and f"kill {started.process.pid}" in started.words
    assert started.process.wait() == 0
    assert "meshagent" in log.read_text()


def test_systemd_starts_it_where_it_runs_and_knows_the_unit(systemctl):
    directory, told = systemctl(0)
    answers = iter([False, True])
    started = start_daemon("the agent", "meshagent.service", (), directory / "log", lambda: next(answers), directory)
    assert "systemctl stop meshagent.service" in started.words and started.process is None
    assert told.read_text().splitlines() == ["cat meshagent.service", "enable --now meshagent.service"]


def test_systemd_that_fails_is_told(systemctl):
    directory, _ = systemctl(1)
    with pytest.raises(DaemonNotStarted, match="systemd did not start"):
        start_daemon("the agent", "meshagent.service", (), directory / "log", lambda: False, directory)


def test_one_that_never_answers_is_told(tmp_path, monkeypatch, systemctl):
    directory, _ = systemctl(0)
    monkeypatch.setattr(starting, "_PATIENCE", 0.0)
    with pytest.raises(DaemonNotStarted, match="does not answer within"):
        start_daemon("the agent", "meshagent.service", (), directory / "log", lambda: False, directory)


def test_who_listens_answers(tmp_path):
    path = tmp_path / "s"
    assert not unix_socket_answers(path)
    with socket.socket(socket.AF_UNIX) as server, socket.create_server(("127.0.0.1", 0)) as tcp:
        server.bind(str(path))
        server.listen()
        port = tcp.getsockname()[1]
        assert unix_socket_answers(path) and port_answers("127.0.0.1", port)
    assert not port_answers("127.0.0.1", port)
