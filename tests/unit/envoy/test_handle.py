from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshagent.envoy.handle import Handle, digest_of, load_handle, save_handle, serving, start_time, started_at
from meshagent.private import write_private
from tests.unit.envoy.fake_admin import OK, fake_admin


def start(*command: str) -> int:
    return os.posix_spawn(command[0], command, {})


@pytest.fixture
def sleeper() -> Iterator[Handle]:
    handle = Handle.of(start("/bin/sleep", "600"), ["sleep"], b"")
    yield handle
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(handle.pid, signal.SIGKILL)
        os.waitpid(handle.pid, 0)


async def test_a_child_that_is_killed_ends_with_its_signal_and_leaves_no_zombie(sleeper: Handle) -> None:
    ending = asyncio.create_task(sleeper.ended())
    await asyncio.sleep(0)
    assert sleeper.alive()
    sleeper.send(signal.SIGKILL)
    async with asyncio.timeout(5):
        assert await ending == "SIGKILL"
    assert not sleeper.alive()
    assert start_time(sleeper.pid) == 0


@pytest.mark.parametrize("status", [0, 3])
async def test_a_child_that_ends_by_itself_tells_its_status(status: int) -> None:
    handle = Handle.of(start("/bin/sh", "-c", f"exit {status}"), [], b"")
    async with asyncio.timeout(5):
        assert await handle.ended() == f"exit {status}"


async def test_what_is_reaped_already_has_ended_somehow(sleeper: Handle) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitpid(sleeper.pid, 0)
    assert await sleeper.ended() == "unknown"


async def test_one_that_is_no_child_is_watched_too() -> None:
    script = "import os; print(os.posix_spawn('/bin/sleep', ['sleep', '600'], {}), flush=True)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    handle = Handle.of(pid, [], b"")
    assert handle.alive()
    handle.send(signal.SIGTERM)
    async with asyncio.timeout(5):
        assert await handle.ended() in {"unknown", "SIGTERM"}
    assert not handle.alive()
    await process.communicate()


async def test_another_process_with_the_same_pid_is_neither_signalled_nor_waited_for(sleeper: Handle) -> None:
    for impostor in (replace(sleeper, started=sleeper.started - 1), replace(sleeper, boot="another")):
        assert not impostor.alive()
        impostor.send(signal.SIGKILL)
        async with asyncio.timeout(1):
            assert await impostor.ended() == "unknown"
    assert sleeper.alive()


def test_a_zombie_is_not_alive(sleeper: Handle) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not sleeper.alive()
    assert start_time(sleeper.pid) == sleeper.started


def test_it_is_kept_for_the_next_agent_and_forgotten_when_it_ended(sleeper: Handle, tmp_path: Path) -> None:
    path = tmp_path / "envoy.json"
    save_handle(path, sleeper)
    assert load_handle(path) == sleeper
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitpid(sleeper.pid, 0)
    assert load_handle(path) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"pid": "x"}', b"\xff", b"null"])
def test_a_state_file_that_cannot_be_read_is_as_none(content: bytes, tmp_path: Path) -> None:
    write_private(tmp_path / "envoy.json", content)
    assert load_handle(tmp_path / "envoy.json") is None


def test_a_state_file_that_others_could_have_written_is_not_believed(sleeper: Handle, tmp_path: Path) -> None:
    path = tmp_path / "envoy.json"
    save_handle(path, sleeper)
    path.chmod(0o666)
    assert load_handle(path) is None


def test_what_differs_in_arguments_or_bootstrap_has_another_digest() -> None:
    digests = {digest_of(*one) for one in [(["a", "b"], b"c"), (["a b"], b"c"), (["a", "b"], b""), (["b", "a"], b"c")]}
    assert len(digests) == 4


def test_a_binary_that_is_replaced_makes_it_outdated(tmp_path: Path) -> None:
    binary = tmp_path / "sleep"
    binary.write_bytes(Path("/bin/sleep").read_bytes())
    binary.chmod(0o755)
    handle = Handle.of(start(str(binary), "600"), [], b"")
    try:
        assert not handle.outdated()
        binary.unlink()
        assert handle.outdated()
    finally:
        handle.send(signal.SIGKILL)
        os.waitpid(handle.pid, 0)


async def test_who_answers_on_the_socket_is_known_by_the_kernels_word() -> None:
    async with fake_admin(lambda _: OK) as path:
        found = serving(path)
        assert found is not None
        assert (found.pid, found.started) == (os.getpid(), start_time(os.getpid()))
        assert found.digest == digest_of([], b"")
    assert serving(path) is None


async def test_what_it_was_started_with_is_read_from_its_command_line_and_file() -> None:
    with tempfile.TemporaryDirectory(prefix="mesh") as name:
        bootstrap, socket = Path(name) / "b.json", Path(name) / "s"
        write_private(bootstrap, json.dumps({"node": 1}).encode())
        script = Path(name) / "listen.py"
        script.write_text(
            f"import socket, time\ns = socket.socket(socket.AF_UNIX)\ns.bind('{socket}')\ns.listen()\n"
            f"open('{name}/up', 'w').close()\ntime.sleep(60)\n"
        )
        command = [sys.executable, str(script), "-c", str(bootstrap)]
        pid = os.posix_spawn(sys.executable, command, {})
        try:
            async with asyncio.timeout(10):
                while not (Path(name) / "up").exists():
                    await asyncio.sleep(0.01)
            found = serving(socket)
            assert found == Handle.of(pid, command, bootstrap.read_bytes())
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_when_a_process_was_started_is_told_to_the_second() -> None:
    began = started_at(os.getpid())
    assert began is not None and timedelta() <= datetime.now(UTC) - began < timedelta(days=1)
    assert started_at(1 << 30) is None
