from __future__ import annotations

import os
import re
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from meshagent.envoy.bootstrap import BootstrapSettings
from meshagent.envoy.process import EnvoyProcess, pause_before
from meshagent.envoy.records import write_changed
from meshagent.envoy.spawn import arguments, make_files, spawn
from meshagent.errors import DataDirUnusable, EnvoyFailed
from meshagent.private import write_private


def test_the_first_restart_is_at_once_and_the_pauses_double_up_to_five_seconds() -> None:
    pauses = [pause_before(number) for number in range(9)]
    assert pauses == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    assert pause_before(10_000) == 5


async def test_nothing_can_be_watched_before_it_was_started(tmp_path: Path) -> None:
    settings = BootstrapSettings("vm-1", tmp_path / "x", tmp_path / "a")
    agent = EnvoyProcess(tmp_path, settings, path="auto", concurrency=1)
    assert (agent.pid, agent.running_here) == (0, False)
    with pytest.raises(EnvoyFailed, match="was not started"):
        await agent.run()


def test_a_file_that_says_the_same_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "envoy-bootstrap.json"
    write_changed(path, b"one")
    before = path.stat()
    write_changed(path, b"one")
    assert path.stat().st_ino == before.st_ino
    write_changed(path, b"two")
    assert path.read_bytes() == b"two"


def test_the_command_line_cuts_denied_connections_after_a_second_and_shares_nothing_with_other_envoys() -> None:
    words = arguments(Path("/bin/envoy"), Path("/d/b.json"), Path("/d/envoy.log"), 2)
    line = " ".join(words)
    assert words[0] == "/bin/envoy"
    for part in ("-c /d/b.json", "--concurrency 2", "--drain-time-s 1 --drain-strategy immediate"):
        assert part in line
    assert "--disable-hot-restart" in words


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setenv("MESHAGENT_STORE_TOKEN", "secret")
    descriptor = os.open(tmp_path / "agents-own", os.O_RDWR | os.O_CREAT)
    pid = spawn(["/bin/sleep", "600"], tmp_path)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(descriptor)


def test_a_process_is_on_its_own_and_knows_nothing_of_us(child: int, tmp_path: Path) -> None:
    process = Path(f"/proc/{child}")
    assert os.getsid(child) == child
    assert b"secret" not in (process / "environ").read_bytes()
    open_files = set()
    for one in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # what the loader had open a moment ago
            open_files.add(one.readlink())
    assert tmp_path / "agents-own" not in open_files
    assert {Path("/dev/null"), tmp_path / "envoy.stderr"} <= open_files
    limits = (process / "limits").read_text()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert re.search(rf"Max open files +{hard} +{hard} ", limits)
    assert re.search(r"Max core file size +0 +0 ", limits)


def test_its_files_are_its_users_whatever_they_were(tmp_path: Path) -> None:
    (tmp_path / "access.log").write_text("kept\n")
    (tmp_path / "access.log").chmod(0o644)
    make_files(tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"envoy.log": 0o600, "access.log": 0o600, "envoy.stderr": 0o600}
    assert (tmp_path / "access.log").read_text() == "kept\n"


def test_a_link_in_place_of_a_log_is_refused(tmp_path: Path) -> None:
    write_private(tmp_path / "victim", b"")
    (tmp_path / "envoy.log").symlink_to(tmp_path / "victim")
    with pytest.raises(DataDirUnusable, match="envoy.log"):
        make_files(tmp_path)


def test_an_overgrown_stderr_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "envoy.stderr").write_bytes(b"x" * ((1 << 20) + 1))
    make_files(tmp_path)
    assert (tmp_path / "envoy.stderr").stat().st_size == 0
    assert (tmp_path / "envoy.stderr.1").stat().st_size == (1 << 20) + 1


def test_what_the_system_refuses_to_start_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvoyFailed, match="/none/envoy cannot be started: No such file"):
        spawn(["/none/envoy"], tmp_path)
