"""The units: what they say, and where `meshagent systemd` puts them and takes them away."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshagent.cli.main import cli
from meshagent.errors import UsageProblem
from meshagent.host import systemd
from meshagent.host.systemd import DAEMONS, UNITS, install, own_command, plan, uninstall, unit_text

COMMAND = "/opt/meshagent/venv/bin/meshagent"


def settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_the_command_in_the_sandbox_and_never_by_surprise(name):
    text = unit_text(name, COMMAND)
    said = settings(text)
    assert "@" not in text.replace("@system-service", "").replace("@privileged", "").replace("@resources", "")
    assert said["ExecStart"][0].startswith(f"{COMMAND} ")
    assert said["NoNewPrivileges"] == ["yes"] and said["ProtectSystem"] == ["strict"]
    assert said["ConditionPathExists"][0].startswith("/etc/meshagent/")
    assert "DynamicUser" not in said and (name in DAEMONS) == ("User" in said)


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemon_has_a_static_user(name):
    assert settings(unit_text(name, COMMAND))["User"][0] in ("meshagent", "meshagent-authority")


def test_capture_is_there_before_whatever_may_call_or_be_called_and_a_shutdown_does_not_end_it():
    said = settings(unit_text("meshagent-redirect.service", COMMAND))
    assert {"sysinit.target", "network-pre.target"} <= set(said["Before"][0].split())
    assert said["DefaultDependencies"] == ["no"] and said["WantedBy"] == ["sysinit.target"]
    assert not {"Conflicts", "PartOf", "BindsTo", "Requires", "PropagatesStopTo"} & said.keys()
    assert said["CapabilityBoundingSet"] == ["CAP_NET_ADMIN CAP_DAC_OVERRIDE"]


def test_envoy_stops_before_the_agent_and_no_dependency_ties_it_to_what_happens_to_the_agent():
    envoy, agent = (settings(unit_text(name, COMMAND)) for name in ("meshagent-envoy.service", "meshagent.service"))
    assert "meshagent.service" in envoy["After"][0]
    assert "meshagent-envoy.service" in agent["Wants"][0]
    tied = {"PartOf", "BindsTo", "Requires", "StopPropagatedFrom", "PropagatesStopTo"}
    assert not tied & (envoy.keys() | agent.keys())
    assert "systemctl stop meshagent-envoy.service" in agent["ExecStop"][0]


def test_install_writes_every_file_and_uninstall_leaves_none(tmp_path):
    written = install(tmp_path, COMMAND)
    assert sorted(written) == sorted(tmp_path / path for path in plan(COMMAND))
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in written)
    assert sorted(uninstall(tmp_path)) == sorted(written)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert uninstall(tmp_path) == []


@pytest.mark.parametrize("change", [lambda root: install(root, COMMAND), uninstall])
def test_units_of_a_package_are_left_alone(tmp_path, change):
    packaged = tmp_path / "usr/lib/systemd/system/meshagent.service"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("[Unit]\n")
    with pytest.raises(UsageProblem, match="came with the package"):
        change(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [packaged]


@pytest.mark.parametrize("hidden", ["/root/venv", "/home/ann/venv", "/tmp/venv"])
def test_a_program_that_the_sandbox_hides_is_refused(monkeypatch, hidden):
    monkeypatch.setattr(sys, "prefix", hidden)
    monkeypatch.setattr(sys, "executable", f"{hidden}/bin/python")
    with pytest.raises(UsageProblem, match="the units cannot run") as told:
        own_command()
    assert "/opt/meshagent" in told.value.next_step


def test_the_script_beside_the_interpreter_is_what_the_units_run(monkeypatch, tmp_path):
    script = tmp_path / "bin/meshagent"
    script.parent.mkdir()
    script.write_text("")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(systemd, "_HIDDEN", ())
    assert own_command() == str(script)
    script.unlink()
    assert own_command() == "/usr/bin/python3 -P -m meshagent"


def test_the_commands_say_what_they_wrote_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(systemd, "own_command", lambda: COMMAND)
    done = CliRunner().invoke(cli, ["systemd", "install", "--root", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert COMMAND in (tmp_path / "etc/systemd/system/meshagent.service").read_text()
    removed = CliRunner().invoke(cli, ["systemd", "uninstall", "--root", str(tmp_path)])
    assert "removed" in removed.output and not list(Path(tmp_path, "etc/systemd/system").iterdir())
