"""The log files beside the agent's own: one is printed as it is, and both stay small."""

from __future__ import annotations

import asyncio
import stat
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from structlog.testing import capture_logs

from meshagent.envoy.admin import AdminClient
from meshagent.envoy.sinks import keep_sinks
from tests.unit.envoy.fake_admin import OK, fake_admin

NOBODY = AdminClient(Path("/nowhere/admin.sock"))


@asynccontextmanager
async def kept(directory, write=lambda data: None, admin=NOBODY):
    task = asyncio.create_task(keep_sinks(directory, admin, every=0, look=0, rotate_bytes=100, write=write))
    await turns()  # the files are there, and reading has begun
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def turns(count=50):
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_what_is_appended_is_printed_as_it_is(tmp_path):
    said = bytearray()
    async with kept(tmp_path, said.extend):
        with (tmp_path / "stdout.log").open("a") as file:
            file.write("any text\n{]\n")
        await until(lambda: bytes(said) == b"any text\n{]\n")
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}


async def test_a_closed_stdout_is_logged_once_and_ends_nothing(tmp_path):
    tries = []

    def broken(data):
        tries.append(data)
        raise BrokenPipeError("gone")

    with capture_logs() as logged:
        async with kept(tmp_path, broken):
            for _ in range(3):
                with (tmp_path / "stdout.log").open("a") as file:
                    file.write("x\n")
                await until(lambda: tries)
                await turns()
    assert [each["event"] for each in logged] == ["stdout_closed"] and len(tries) == 1


async def test_an_overgrown_file_is_put_aside(tmp_path):
    async with fake_admin(lambda _: OK) as path, kept(tmp_path, admin=AdminClient(path)):
        (tmp_path / "requests.log").write_text("x" * 200)
        await until((tmp_path / "requests.log.1").exists)
    assert (tmp_path / "requests.log.1").read_text() == "x" * 200
