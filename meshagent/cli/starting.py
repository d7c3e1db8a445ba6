"""Starts this host's daemons for `init --start` and `join --start`."""

from __future__ import annotations

from meshagent.cli.session import Session
from meshagent.config import load_config
from meshagent.config.authority import load_authority_config, split_place
from meshagent.host.starting import port_answers, start_daemon, unix_socket_answers

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


def start_authority(session: Session) -> str:
    """The same of the authority that `init` made."""
    path = session.config_path().with_name("authority.yaml")
    config = load_authority_config(path)
    host, port = split_place(config.listen)
    started = start_daemon(
        "the authority",
        AUTHORITY_UNIT,
        ("authority", "--config", str(path)),
        config.data_dir / "authority.log",
        lambda: port_answers("127.0.0.1" if host == "0.0.0.0" else host, port),  # noqa: S104 - it is compared
    )
    return started.words
