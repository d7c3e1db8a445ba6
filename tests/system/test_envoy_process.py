"""The Envoy that an agent supervises: the real binary, killed, left behind, taken over, drained."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from meshagent.envoy.handle import load_handle
from meshagent.envoy.logs import follow
from meshagent.envoy.process import EnvoyEvent, EnvoyProcess
from meshagent.errors import EnvoyFailed, EnvoyMissing, EnvoyTooOld
from tests.system.envoy_host import Host, host, running, start_elsewhere, within

pytestmark = pytest.mark.system
__all__ = ["host"]


async def test_it_is_ready_and_serves_within_a_second(host: Host) -> None:
    agent = host.agent()
    began = time.monotonic()
    async with running(agent):
        await within(1, agent.admin.ready)
        await within(1, host.serves)
        assert time.monotonic() - began < 1
        assert str(agent.version).startswith("1.")
        assert not agent.adopted
        assert host.kinds() == ["started"]
        assert os.getsid(agent.pid) == agent.pid, "what ends the agent's session does not end it"
    assert host.kinds() == ["started", "stopped"]
    assert agent.pid == 0


async def test_it_inherits_nothing_and_nobody_else_can_read_what_it_writes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHAGENT_STORE_TOKEN", "secret")
    async with running(host.agent()) as agent:
        await within(2, agent.admin.ready)
        process = Path(f"/proc/{agent.pid}")
        assert b"secret" not in (process / "environ").read_bytes()
        assert (process / "fd" / "0").readlink() == Path("/dev/null")
        assert {(process / "fd" / str(number)).readlink() for number in (1, 2)} == {host.data / "envoy.stderr"}
        limits = (process / "limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
        paths = [*host.data.iterdir(), host.settings.admin_socket]
        assert {path.name for path in paths} >= {"envoy.json", "envoy.log", "access.log", "envoy.stderr"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}


async def test_killed_it_serves_again_within_a_second_and_leaves_no_zombie(host: Host) -> None:
    async with running(host.agent()) as agent:
        await within(2, host.serves)
        first = agent.pid
        os.kill(first, signal.SIGKILL)

        async def serves_anew() -> bool:
            return agent.pid not in {0, first} and await host.serves()

        assert await within(1, serves_anew) < 1
        assert host.processes() == [agent.pid]
        assert agent.restarts == 1
        assert host.kinds() == ["started", "ended", "started"]
        assert host.events[1] == EnvoyEvent("ended", first, "SIGKILL")


async def test_what_keeps_failing_is_tried_ever_more_rarely_and_says_why(host: Host) -> None:
    nowhere = replace(host.settings, admin_socket=host.directory / "nowhere" / "admin.sock")
    async with running(host.agent(nowhere)) as agent:

        async def tried_four_times() -> bool:
            return host.kinds().count("ended") == 4

        assert await within(5, tried_four_times) > 0.3, "0, 0.1 and 0.2 s lie between them"
        assert {event.detail for event in host.events if event.kind == "ended"} == {"exit 1"}
        assert "unable to bind" in agent._records.last_words("exit 1")
        assert not agent._records.last_words("SIGSEGV"), "a crash dumps headers"


async def test_a_killed_agent_leaves_it_serving_and_the_next_one_adopts_it(host: Host) -> None:
    first = await start_elsewhere(host)
    await within(2, host.serves)
    os.kill(first.agent, signal.SIGKILL)
    os.waitpid(first.agent, 0)
    assert await host.serves()

    agent = host.agent()
    assert agent.running_here
    async with running(agent):
        assert agent.adopted
        assert agent.pid == first.envoy
        assert str(agent.version).startswith("1.")
        assert host.kinds() == ["adopted"]
        assert await host.serves()

        os.kill(first.envoy, signal.SIGKILL)  # it is no child of ours, and is watched all the same
        await within(1, host.serves)
        assert host.kinds() == ["adopted", "ended", "started"]
        assert not agent.adopted


async def test_one_that_no_state_file_tells_of_is_found_by_its_socket(host: Host) -> None:
    first = host.agent()
    await first.start()
    await within(2, first.admin.ready)
    (host.data / "envoy.json").unlink()
    async with running(host.agent()) as agent:
        assert agent.adopted
        assert agent.pid == first.pid
        kept = load_handle(host.data / "envoy.json")
        assert kept is not None
        assert kept.pid == first.pid


async def test_another_agents_envoy_is_left_alone(host: Host) -> None:
    async with running(host.agent()) as agent:
        await within(2, agent.admin.ready)
        other = EnvoyProcess(host.directory / "other", host.settings, path="auto", concurrency=1)
        assert not other.running_here
        with pytest.raises(EnvoyFailed, match=f"another Envoy, pid {agent.pid}"):
            await other.start()
        assert await agent.admin.ready()


async def test_a_frozen_one_is_replaced(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshagent.envoy.process._ADOPT_SECONDS", 0.3)
    monkeypatch.setattr("meshagent.envoy.handle._KILL_AFTER_SECONDS", 0.3)
    first = host.agent()
    await first.start()
    await within(2, first.admin.ready)
    before = first.pid
    os.kill(before, signal.SIGSTOP)
    async with running(host.agent()) as agent:
        assert agent.pid not in {0, before}
        assert host.events[1] == EnvoyEvent("replaced", before, "it does not answer")
        await within(2, host.serves)


async def test_a_stop_lets_requests_and_connections_end_and_refuses_new_ones(host: Host) -> None:
    async with running(host.agent()) as agent:
        await within(2, host.serves)
        slow = asyncio.create_task(host.status("/slow"))
        reader, writer = await asyncio.open_connection("127.0.0.1", host.db)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"

        stopping = asyncio.create_task(agent.stop(timedelta(seconds=20)))

        async def refused() -> bool:
            return await host.status() == 0

        await within(5, refused)
        writer.write(b"GET /again HTTP/1.1\r\nhost: a\r\n\r\n")
        assert await reader.readuntil(b"200 OK"), "a TCP connection under way goes on"
        host.release.set()
        assert await slow == 200
        await asyncio.sleep(0.3)
        assert not stopping.done(), "a TCP connection is open"
        writer.close()
        async with asyncio.timeout(5):
            await stopping
        assert agent.pid == 0
        assert not host.settings.admin_socket.exists()
        assert not (host.data / "envoy.json").exists()


async def test_a_stop_does_not_wait_longer_than_it_is_told(host: Host) -> None:
    async with running(host.agent()) as agent:
        await within(2, host.serves)
        slow = asyncio.create_task(host.status("/slow"))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await agent.stop(timedelta(seconds=0.5))
        assert 0.5 <= time.monotonic() - began < 1.5
        assert await slow == 0


async def test_an_idle_one_stops_at_once_however_long_it_might_take(host: Host) -> None:
    async with running(host.agent()) as agent:
        await within(2, host.serves)
        reader, writer = await asyncio.open_connection("127.0.0.1", host.web)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readuntil(b"ok")
        began = time.monotonic()
        await agent.stop(timedelta(seconds=20))
        assert time.monotonic() - began < 1, "a kept-alive connection is not work"
        writer.close()


async def test_one_stopped_while_it_is_restarted_stays_stopped(host: Host) -> None:
    agent = host.agent()
    await agent.start()
    watching = asyncio.create_task(agent.run())
    await within(2, agent.admin.ready)
    (host.data / "envoy-bootstrap.json").unlink()
    (host.data / "envoy-bootstrap.json").mkdir()  # so that no start succeeds
    os.kill(agent.pid, signal.SIGKILL)

    async def gave_up_twice() -> bool:
        return host.kinds().count("not_started") == 2

    await within(3, gave_up_twice)
    await agent.stop(timedelta(0))
    (host.data / "envoy-bootstrap.json").rmdir()
    await asyncio.sleep(0.5)
    assert host.processes() == []
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_an_envoy_that_is_too_old_is_said_to_be_and_does_not_stay(host: Host) -> None:
    old = host.directory / "old-envoy"
    old.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "envoy  version: abc/1.33.9/Clean/RELEASE" && exit\n'
        "while :; do sleep 0.1; done\n"
    )
    old.chmod(0o755)
    with pytest.raises(EnvoyTooOld, match="is Envoy 1.33.9; 1.34 is the oldest"):
        await host.agent(path=str(old)).start()
    assert host.processes() == []


async def test_no_envoy_at_all_is_said(host: Host) -> None:
    with pytest.raises(EnvoyMissing, match="there is no Envoy at"):
        await host.agent(path=str(host.directory / "none")).start()


async def test_log_files_are_followed_and_put_aside_without_losing_a_line(host: Host) -> None:
    async with running(host.agent()) as agent:
        await within(2, host.serves)
        path = host.data / "access.log"
        seen: list[str] = []

        async def read() -> None:
            nonlocal seen
            async for event in follow(path, agent.admin, every=0.02, rotate_bytes=2000):
                seen += [event["path"]]

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        for number in range(200):
            assert await host.status(f"/{number}") == 200

        async def all_seen() -> bool:
            return len(seen) >= 200

        await within(5, all_seen)
        reading.cancel()
        assert [one for one in seen if one != "/"] == [f"/{number}" for number in range(200)]
        assert (host.data / "access.log.1").exists()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_envoys_statistics_are_kept_that_people_and_drain_need(host: Host) -> None:
    async with running(host.agent()) as agent:
        await within(2, host.serves)
        _, writer = await asyncio.open_connection("127.0.0.1", host.db)
        stats: dict[str, int] = {}

        async def both_are_counted() -> bool:
            stats.update(await agent.admin.stats())
            return stats.get(f"listener.127.0.0.1_{host.db}.downstream_cx_active") == 1

        await within(2, both_are_counted)
        wanted = {
            "http.in.web.downstream_rq_2xx",
            "http.in.web.downstream_rq_active",
            "cluster.app.upstream_rq_2xx",
            "cluster.app.membership_healthy",
            "tcp.in.db.downstream_cx_total",
            "control_plane.connected_state",
            "listener_manager.lds.update_success",
            "server.live",
        }
        assert wanted <= stats.keys()
        assert "http.in.web.downstream_cx_protocol_error" not in stats
        assert (await agent.admin.server_info())["state"] == "LIVE"
        assert b"in.web" in await agent.admin.config_dump()
        assert "certificates" in await agent.admin.certs()
        with pytest.raises(EnvoyFailed, match="answers 400"):
            await agent.admin.stats("(")
        writer.close()
