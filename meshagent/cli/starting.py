"""Starts this host's daemons for `init --start` and `join --start`."""

from __future__ import annotations

from meshagent.cli.session import Session
from meshagent.config import load_config
from meshagent.host.starting import start_daemon, unix_socket_answers

AGENT_UNIT, AUTHORITY_UNIT = "meshagent.service", "meshagent-authority.service"


def start_agent(session: Session) -> str:
    """Start the agent of this machine's settings; what runs, in words. Raises DaemonNotStarted."""
    path = session.config_path()
    config = load_config(path)
    started = start_daemon(
        "the agent",
        AGENT_UNIT,
        ("agent", "--config", str(path)),
        config.data_dir / "agent.log",
        lambda: unix_socket_answers(config.api_socket),
    )
    return started.words
