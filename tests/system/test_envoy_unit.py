"""An Envoy that its own unit starts and ends, as an agent sees it; a loop plays the unit."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshagent.envoy.unit import EnvoyUnit
from meshagent.xds.server import XdsServer
from tests.system.envoy_host import Host, running, within
from tests.system.live import forget_memory

BECOME = "from pathlib import Path; import sys; from meshagent.envoy.unit import become_envoy; become_envoy(Path(sys.argv[1]))"


class Unit:
    """Restart=always."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.pid = 0

    async def run(self) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", BECOME, str(self.host.data))
            self.pid = process.pid
            try:
                await process.wait()
            except asyncio.CancelledError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                raise

    @asynccontextmanager
    async def active(self) -> AsyncIterator[Unit]:
        task = asyncio.create_task(self.run())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def agent(self, concurrency: int = 1) -> EnvoyUnit:
        host = self.host
        return EnvoyUnit(host.data, host.settings, path="auto", concurrency=concurrency, on_event=host.events.append)


@pytest.fixture
async def unit() -> AsyncIterator[Unit]:
    directory = Path(tempfile.mkdtemp(prefix="mesh"))  # short: a socket's path has 107 bytes
    host = Host(directory)
    host.data.mkdir()
    host.serve()
    server = XdsServer(host.cache)
    await server.start(host.settings.xds_socket)
    async with await asyncio.start_server(host.answer, "127.0.0.1", host.app):
        yield Unit(host)
        host.release.set()
        await server.stop(0)
    left = host.processes()
    forget_memory(directory)
    shutil.rmtree(directory)
    assert not left, f"left behind: {left}"


async def test_an_agent_takes_over_what_the_unit_starts_and_leaves_it_when_it_ends(unit: Unit) -> None:
    async with running(unit.agent()) as first, unit.active():
        await within(10, unit.host.serves)
        await within(5, lambda: seen(unit, "adopted"))
        assert first.pid == unit.pid
        await first.stop(timedelta(seconds=5))
        async with running(unit.agent()) as second:
            assert second.pid == unit.pid and second.adopted, "it is there at once"
        assert await unit.host.serves()


async def test_an_envoy_that_the_unit_starts_again_is_taken_over_again(unit: Unit) -> None:
    async with running(unit.agent()) as agent, unit.active():
        await within(10, lambda: seen(unit, "adopted"))
        before = agent.pid
        os.kill(before, signal.SIGKILL)
        await within(10, lambda: seen(unit, "adopted", "ended", "adopted"))
        assert agent.pid == unit.pid != before and agent.restarts == 1


async def test_an_envoy_with_other_settings_serves_on_and_a_person_is_told_to_restart_its_unit(unit: Unit) -> None:
    async with running(unit.agent()), unit.active():
        await within(10, lambda: seen(unit, "adopted"))
        before = unit.pid
        with capture_logs() as logs:
            async with running(unit.agent(concurrency=2)) as second:
                assert second.pid == before
        told = [each for each in logs if each["event"] == "envoy_outdated"]
        assert [each["next_step"] for each in told] == ["systemctl restart meshagent-envoy.service"]
        assert await unit.host.serves()


async def test_an_envoy_that_answers_nothing_is_ended_so_that_its_unit_starts_another(
    unit: Unit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshagent.envoy.process._ADOPT_SECONDS", 0.5)
    monkeypatch.setattr("meshagent.envoy.handle._KILL_AFTER_SECONDS", 0.5)
    async with unit.active():
        async with running(unit.agent()) as first:
            await within(10, lambda: seen(unit, "adopted"))
            before = first.pid
        os.kill(before, signal.SIGSTOP)
        async with running(unit.agent()) as second:
            await within(10, lambda: seen(unit, "adopted", "adopted"))
            assert second.pid == unit.pid != before


async def seen(unit: Unit, *kinds: str) -> bool:
    return unit.host.kinds() == list(kinds)
