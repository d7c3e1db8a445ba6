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
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshagent.envoy.bootstrap import bootstrap
from meshagent.envoy.unit import EnvoyUnit, renew_envoy
from meshagent.errors import EnvoyFailed
from meshagent.xds.server import XdsServer
from tests.system.envoy_host import Host, running, within
from tests.system.live import forget_memory
from tests.system.test_envoy_handover import calling

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
                while self.pid != process.pid and Path(f"/proc/{self.pid}/cmdline").read_bytes():
                    await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                for pid in {process.pid, self.pid}:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await process.wait()
                if self.pid != process.pid:
                    os.waitpid(self.pid, 0)
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


async def test_an_envoy_with_other_settings_serves_on_and_a_person_is_told_to_reload_its_unit(unit: Unit) -> None:
    async with running(unit.agent()), unit.active():
        await within(10, lambda: seen(unit, "adopted"))
        before = unit.pid
        with capture_logs() as logs:
            async with running(unit.agent(concurrency=2)) as second:
                assert second.pid == before
        told = [each for each in logs if each["event"] == "envoy_outdated"]
        assert [each["next_step"] for each in told] == ["systemctl reload meshagent-envoy.service"]
        assert await unit.host.serves()


async def test_a_reload_has_another_take_over_and_the_agent_goes_on_with_that(unit: Unit) -> None:
    host = unit.host

    async def reload() -> str:
        return await renew_envoy(
            host.data, host.settings.admin_socket, timedelta(0), lambda pid: setattr(unit, "pid", pid)
        )

    async with unit.active():
        async with running(unit.agent()):
            await within(10, lambda: seen(unit, "adopted"))
            before = unit.pid
            assert "runs as it should" in await reload()
        async with running(unit.agent(concurrency=2)) as agent, calling(host) as answers:
            assert agent.pid == before and f"pid {before}" in await reload() and unit.pid != before
            await within(10, lambda: seen(unit, "adopted", "adopted", "adopted"))
            assert agent.pid == unit.pid and agent.restarts == 0
            assert "runs as it should" in await reload()
        assert answers.keys() == {"200"} and answers["200"] > 50, answers


async def test_a_reload_that_would_leave_a_gap_is_refused(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    host = unit.host
    async with running(unit.agent()), unit.active():
        await within(10, lambda: seen(unit, "adopted"))
        monkeypatch.setattr("meshagent.envoy.handover.hot_restart_version", another_hot_restart)
        (host.data / "envoy-bootstrap.json").write_bytes(bootstrap(replace(host.settings, max_connections=7)))
        with pytest.raises(EnvoyFailed, match="without a gap: its hot restart is of version") as told:
            await renew_envoy(host.data, host.settings.admin_socket, timedelta(0), print)
        assert told.value.next_step == "systemctl restart meshagent-envoy.service" and await host.serves()


async def another_hot_restart(binary: Path) -> str:
    return "12.1"


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
