"""`meshagent agent` and `demo`: what they hand over. The daemons themselves have tests of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from meshagent.errors import EnvoyFailed, PortInUse
from tests.unit.cli.conftest import Commands


@pytest.fixture
def commands(env, tmp_path):
    return Commands(env | {"HOME": str(tmp_path)})


@pytest.fixture
def started(monkeypatch):
    """The configurations with which an agent was started; each ended with exit code 0."""
    configs = []

    async def run(config):
        configs.append(config)
        return 0

    monkeypatch.setitem(sys.modules, "meshagent.daemon", SimpleNamespace(run=run))
    return configs


def test_every_flag_reaches_the_configuration(commands, started, tmp_path):
    flags = ["--data-dir", f"{tmp_path}/data", "--services-dir", "services.d", "--host-name", "vm-9"]
    flags += ["--host-address", "10.0.0.9", "--inbound-port", "21500", "--envoy-path", "/opt/envoy"]
    flags += ["--metrics", "none", "--store", "sqlite:///x/mesh.db", "--api", "/run/x.sock"]
    commands.run("agent", *flags)
    config = started[0]
    assert (config.host.name, config.host.address) == ("vm-9", "10.0.0.9")
    assert (config.inbound_port, config.envoy.path, config.metrics) == (21500, "/opt/envoy", "none")
    assert (config.store, config.api) == ("sqlite:///x/mesh.db", "unix:///run/x.sock")
    assert (config.data_dir, config.services_dir) == (tmp_path / "data", Path("services.d"))


def test_flags_win_over_environment_over_file(commands, started, tmp_path):
    (tmp_path / "agent.yaml").write_text("inbound_port: 21001\nmetrics: none\nhost: {name: file}\n")
    commands.env |= {"MESHAGENT_INBOUND_PORT": "21002", "MESHAGENT_HOST_NAME": "environment"}
    commands.run("agent", "--config", f"{tmp_path}/agent.yaml", "--host-name", "flag")
    assert (started[0].inbound_port, started[0].host.name, started[0].metrics) == (21002, "flag", "none")


def test_a_bad_flag_or_file_stops_it_before_it_starts(commands, started, tmp_path):
    assert "--inbound-port" in commands.run("agent", "--inbound-port", "70000", code=2).stderr
    (tmp_path / "agent.yaml").write_text("hots: {}\n")
    result = commands.run("agent", "--config", f"{tmp_path}/agent.yaml", code=3)
    assert "agent.yaml:1: hots: " in result.stderr
    assert "there is no configuration file" in commands.run("agent", "--config", "none.yaml", code=2).stderr
    assert started == []


def test_errors_of_the_agents_loops_are_told_without_a_traceback(commands, monkeypatch):
    async def run(_):
        inner = ExceptionGroup("loops", [EnvoyFailed("Envoy ended", next_step="see its log")])
        raise ExceptionGroup("agent", [inner, PortInUse("port 21000 is taken")])

    monkeypatch.setitem(sys.modules, "meshagent.daemon", SimpleNamespace(run=run))
    expected = "error: Envoy ended\nnext: see its log\nerror: port 21000 is taken\n"
    assert commands.run("agent", code=1).stderr == expected


def test_what_nobody_expected_keeps_its_traceback(commands, monkeypatch):
    async def run(_):
        raise ExceptionGroup("agent", [EnvoyFailed("Envoy ended"), ValueError("a mistake in the code")])

    monkeypatch.setitem(sys.modules, "meshagent.daemon", SimpleNamespace(run=run))
    with pytest.raises(ExceptionGroup):
        commands.run("agent")


def test_the_exit_code_of_the_demo_is_that_of_the_command(commands, monkeypatch):
    asked = []
    module = SimpleNamespace(main=lambda keep: asked.append(keep) or 1)
    monkeypatch.setitem(sys.modules, "meshagent.demo.run", module)
    commands.run("demo", code=1)
    commands.run("demo", "--keep", code=1)
    assert asked == [False, True]


def test_a_person_finds_the_agent_of_the_machine_where_there_is_none_of_their_own(env, agent, short_dir, monkeypatch):
    del agent.env["MESHAGENT_API"]
    agent.answer("GET", "/v1/services", {"services": []})
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir / "none"))
    monkeypatch.setattr("os.getuid", lambda: 1000)
    monkeypatch.setattr("meshagent.cli.session.SYSTEM_SOCKET", short_dir / "agent.sock")
    assert agent.json("services") == []
    monkeypatch.setattr("meshagent.cli.session.SYSTEM_SOCKET", short_dir / "other.sock")
    assert f"no agent answers on {short_dir}/none/meshagent/agent.sock" in agent.run("services", code=4).stderr
