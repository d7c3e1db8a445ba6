"""A command of a check is bounded: in time, in output, in what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from meshagent.host.command import OUTPUT_BYTES, run_command


def sh(script: str):
    return run_command(["/bin/sh", "-c", script])


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def gone(pid: int) -> bool:
    """Whether a process ends soon; a zombie that init has not collected yet counts as ended."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        await asyncio.sleep(0.02)
    os.kill(pid, 9)
    return False


async def test_exit_code_and_both_streams_come_back():
    assert await sh("echo out; echo err >&2; exit 3") == (3, "out\nerr")
    assert await sh("kill -9 $$") == (-9, "")


async def test_no_shell_and_nothing_of_our_environment(monkeypatch):
    monkeypatch.setenv("A_SECRET", "hush")
    assert await run_command(["/bin/echo", "$HOME;"]) == (0, "$HOME;")
    code, said = await run_command(["/usr/bin/env"])
    assert code == 0 and {line.partition("=")[0] for line in said.splitlines()} == {"PATH", "LANG"}


async def test_what_it_reads_is_empty_and_what_it_says_beyond_4_kib_is_dropped_without_blocking_it():
    code, said = await sh("cat; head -c 1000000 /dev/zero | tr '\\0' x; exit 7")
    assert code == 7 and said == "x" * OUTPUT_BYTES


async def test_a_child_that_keeps_the_output_open_does_not_hold_up_the_answer(tmp_path):
    file = tmp_path / "pid"
    began = time.monotonic()
    assert await sh(f"sleep 60 & echo $! > {file}; echo fine") == (0, "fine")
    assert time.monotonic() - began < 5
    assert await gone(int(file.read_text()))


@pytest.mark.parametrize("escape", ["", "setsid "], ids=["in its group", "in a session of its own"])
async def test_cancelled_it_ends_at_once_whoever_holds_its_output(tmp_path, escape):
    file = tmp_path / "pid"
    script = f"{escape}sleep 60 & echo $! > {file}; sleep 60"
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await sh(script)
    assert time.monotonic() - began < 5
    child = int(file.read_text())
    if escape:
        os.kill(child, 9)  # left the group before we could end it: nothing but a container holds such a one
    assert await gone(child)


async def test_closing_its_output_early_is_no_end():
    before = time.process_time()
    assert await sh("exec >&- 2>&-; sleep 0.3; exit 4") == (4, "")
    assert time.process_time() - before < 0.2


async def test_what_cannot_be_started_is_told_and_no_descriptor_leaks():
    await sh("exit 0")
    before = open_files()
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            await run_command(["/nowhere/x"])
        with pytest.raises(ValueError, match="null"):
            await run_command(["/bin/echo", "a\0b"])
        await sh("exit 0")
    assert open_files() == before
