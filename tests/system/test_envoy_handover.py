"""Another Envoy takes over from the one that runs: with its sockets, so that nobody notices, or else after a drain."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshagent.envoy.handle import load_handle, save_handle
from meshagent.envoy.lineage import lineage_of
from meshagent.envoy.locate import locate
from meshagent.envoy.process import EnvoyProcess
from tests.system.envoy_host import Host, host, running, within

pytestmark = pytest.mark.system
__all__ = ["host"]
EVERY = 0.02  # seconds between two requests of a caller: four of them make 200 a second
OTHER_MOST = 700  # connections at most: what makes the bootstrap another
DRAIN = timedelta(seconds=3)


@asynccontextmanager
async def calling(host: Host) -> AsyncIterator[Counter[str]]:
    """Two callers that keep their connections and two that make new ones: how many answers of which kind."""
    answers: Counter[str] = Counter()
    tasks = [asyncio.create_task(caller(host, answers)) for caller in (keeps, keeps, renews, renews)]
    try:
        yield answers
        await asyncio.sleep(0.2)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def keeps(host: Host, answers: Counter[str]) -> None:
    """As HTTP clients do: one connection until the server says that it closes."""
    writer = None
    try:
        while True:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", host.web)
            try:
                writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                answers[head.split()[1].decode()] += 1
            except (OSError, asyncio.IncompleteReadError) as error:
                answers[repr(error)] += 1
                head = b"connection: close"
            if b"connection: close" in head.lower():
                writer.close()
                writer = None
            await asyncio.sleep(EVERY)
    finally:
        if writer:
            writer.close()


async def renews(host: Host, answers: Counter[str]) -> None:
    while True:
        answers[str(await host.status())] += 1
        await asyncio.sleep(EVERY)


@asynccontextmanager
async def left_by_an_agent(host: Host, **settings: object) -> AsyncIterator[EnvoyProcess]:
    """An Envoy that serves, whose agent has gone."""
    first = host.agent(**settings)
    await first.start()
    await within(5, host.serves)
    yield first


async def renewed(host: Host) -> bool:
    return "renewed" in host.kinds()


def gone(pid: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()

    return look


def no_trace_of_the_one_before(host: Host) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return not (host.data / "envoy-before.json").exists()

    return look


def other(host: Host, path: str = "auto", most: int = 50_000) -> EnvoyProcess:
    """An agent that would start another Envoy than the one that runs."""
    settings = replace(host.settings, max_connections=most)
    return EnvoyProcess(host.data, settings, path=path, concurrency=1, drain=DRAIN, on_event=host.events.append)


def other_bootstrap(host: Host) -> EnvoyProcess:
    return other(host, most=OTHER_MOST)


async def test_another_configuration_takes_over_under_load_with_no_request_failed(host: Host) -> None:
    async with left_by_an_agent(host) as first:
        slow = asyncio.create_task(host.status("/slow"))
        reader, writer = await asyncio.open_connection("127.0.0.1", host.db)
        idle, never_ends = await asyncio.open_connection("127.0.0.1", host.db)
        await asyncio.sleep(0.3)
        before = first.pid
        async with running(other_bootstrap(host)) as agent, calling(host) as answers:
            assert agent.adopted and agent.pid == before, "it serves until the agent knows what another is to do"
            assert "configuration" in agent.outdated
            agent.renew()
            await within(10, lambda: renewed(host))
            began = time.monotonic()
            assert agent.pid not in {0, before} and not agent.outdated and not agent.adopted
            assert len(host.processes()) == 2, "both, until what is under way has ended"
            assert (await agent.admin.server_info())["command_line_options"]["restart_epoch"] == 1
            host.release.set()
            assert await slow == 200
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert await reader.readuntil(b"200 OK"), "a TCP connection under way goes on"
            writer.close()
            assert await idle.read() == b"", "a connection that does not end has as long as a drain takes"
            assert time.monotonic() - began > DRAIN.total_seconds() - 1
            never_ends.close()
            await within(2, gone(before))
            await within(2, no_trace_of_the_one_before(host))
            assert await host.serves()
            assert host.kinds() == ["started", "adopted", "renewed"]
    assert answers.keys() == {"200"} and answers["200"] > 100, answers
    assert not list((host.directory / "run").glob("envoy_*")), "its sockets go with the last"


@pytest.mark.long
async def test_another_binary_takes_over_again_and_again(host: Host) -> None:
    binary = host.directory / "envoy"
    shutil.copy(locate(), binary)
    async with left_by_an_agent(host, path=str(binary)) as first:
        shutil.copy(binary, host.directory / "new")
        (host.directory / "new").replace(binary)
        seen = {first.pid}
        async with calling(host) as answers:
            for path in (str(binary), "auto"):
                agent = other(host, path=path)
                async with crashing(agent):
                    assert agent.outdated
                    agent.renew()
                    await within(15, lambda: renewed(host))
                    host.events.clear()
                    seen.add(agent.pid)
        assert len(seen) == 3
        async with running(host.agent()) as last:
            assert last.pid in seen and not last.outdated, "an agent knows one that has followed another as its own"
    assert answers.keys() == {"200"} and answers["200"] > 100, answers


@asynccontextmanager
async def crashing(agent: EnvoyProcess) -> AsyncIterator[None]:
    """An agent that ends without a stop, as its Envoy sees it."""
    await agent.start()
    watching = asyncio.create_task(agent.run())
    yield
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


def pretending(host: Host, said: str) -> str:
    """A binary that is Envoy but for what this shell text does first."""
    path = host.directory / "pretending"
    path.write_text(f'#!/bin/sh\n{said}\nexec {locate()} "$@"\n')
    path.chmod(0o755)
    return str(path)


async def test_one_whose_hot_restart_is_of_another_version_is_replaced_after_a_drain_and_that_is_said(
    host: Host,
) -> None:
    path = pretending(host, '[ "$1" = --hot-restart-version ] && echo 12.1 && exit')
    async with left_by_an_agent(host) as first:
        before = first.pid
        with capture_logs() as logs:
            async with running(host.agent(path=path)) as agent:
                agent.renew()
                await within(15, lambda: renewed(host))
                assert agent.pid not in {0, before}
                await within(5, host.serves)
        told = [each["gap"] for each in logs if each["event"] == "envoy_replaced"]
        assert len(told) == 1 and "and that of" in told[0] and told[0].endswith("is 12.1")
        assert host.kinds()[1:] == ["adopted", "replaced", "started", "renewed", "stopped"]


async def test_one_whose_shared_memory_is_gone_is_replaced_after_a_drain(host: Host) -> None:
    async with left_by_an_agent(host), running(other_bootstrap(host)) as agent:
        row = lineage_of(load_handle(host.data / "envoy.json").arguments)
        row.memory.unlink()
        with capture_logs() as logs:
            agent.renew()
            await within(15, lambda: renewed(host))
        assert next(each["gap"] for each in logs if each["event"] == "envoy_replaced").endswith("is gone")
        await within(5, host.serves)


async def test_one_that_was_started_without_hot_restart_is_replaced_after_a_drain(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("meshagent.envoy.process.founding", lambda *_: None)
        first = host.agent()
        await first.start()
    await within(5, host.serves)
    async with running(host.agent()) as same:
        assert same.pid == first.pid and not same.outdated, "that alone makes no Envoy another"
        same.outdated = "its binary was replaced"
        same.renew()
        await within(15, lambda: renewed(host))
        assert lineage_of(load_handle(host.data / "envoy.json").arguments).epoch == 0
        await within(5, host.serves)


async def test_one_that_cannot_start_leaves_the_one_before_serving(host: Host) -> None:
    path = pretending(host, 'case "$*" in *--restart-epoch*) echo broken >&2; exit 3;; esac')
    async with left_by_an_agent(host) as first:
        with capture_logs() as logs:
            async with running(host.agent(path=path)) as agent:
                agent.renew()
                await within(15, lambda: told(logs, "envoy_not_renewed"))
                assert agent.pid == first.pid and await host.serves() and await agent.admin.ready()
                assert agent.outdated and load_handle(host.data / "envoy.json").pid == first.pid
                assert not (host.data / "envoy-before.json").exists(), "the next agent would end it"


async def told(logs: list, event: str) -> bool:
    return event in {each["event"] for each in logs}


async def test_a_stop_while_both_run_ends_both(host: Host) -> None:
    async with left_by_an_agent(host):
        async with running(other_bootstrap(host)) as agent:
            agent.renew()
            await within(10, lambda: renewed(host))
            assert len(host.processes()) == 2
        assert host.processes() == []


@pytest.mark.parametrize("which", [pytest.param("before", marks=pytest.mark.long), "after"])
async def test_whichever_of_the_two_is_killed_this_host_serves(host: Host, which: str) -> None:
    async with left_by_an_agent(host) as first:
        before = first.pid
        async with running(other_bootstrap(host)) as agent:
            agent.renew()
            await within(10, lambda: renewed(host))
            after = agent.pid
            os.kill(before if which == "before" else after, signal.SIGKILL)
            await within(10, gone(before))
            await within(5, host.serves)
            if which == "before":  # the one after will tell it to end all the same, and ask it for the socket of `more`
                await asyncio.sleep(DRAIN.total_seconds() + 0.5)
            assert await host.serves() and await agent.admin.ready()
            host.serve_more()
            await within(5, host.serves_more)
            assert (agent.pid == after) == (which == "before") and host.processes() == [agent.pid]


async def test_an_agent_that_ends_between_the_two_leaves_the_newer_one_to_the_next(host: Host) -> None:
    async with left_by_an_agent(host) as first:
        kept = load_handle(host.data / "envoy.json")
        second = other_bootstrap(host)
        async with crashing(second):
            second.renew()
            await within(10, lambda: renewed(host))
        save_handle(host.data / "envoy.json", kept)
        async with running(other_bootstrap(host)) as third:
            assert third.pid == second.pid != first.pid and not third.outdated
            await within(10, gone(first.pid))
            assert third.pid == second.pid and await host.serves()
