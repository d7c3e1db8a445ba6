"""What a store must be to several processes: exact, whole, and sound after one of them is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from meshagent.store.base import Delete, Put, Store
from tests.conformance.conftest import Provider
from tests.conformance.mirror import PATIENCE, Mirror, values_of

pytestmark = pytest.mark.conformance

Open = Callable[[], Awaitable[Store]]
Start = Callable[..., Awaitable[Process]]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
async def start(provider: Provider, root: str) -> AsyncIterator[Start]:
    """Starts store_worker.py with a job, and returns once it has opened the store."""
    started: list[Process] = []

    async def start_worker(job: str, number: object = 0) -> Process:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.conformance.store_worker",
            *(provider.url, job, root, str(number), str(provider.access.token_file or "")),
            *(provider.access.username, str(provider.access.password_file or "")),
            stdout=PIPE,
            cwd=REPOSITORY,
        )
        started.append(worker)
        await said(worker, "ready")
        return worker

    yield start_worker
    for worker in started:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        await worker.communicate()


async def line(worker: Process) -> str:
    assert worker.stdout is not None
    return (await asyncio.wait_for(worker.stdout.readline(), PATIENCE)).decode().strip()


async def said(worker: Process, word: str) -> None:
    # Whatever else a worker prints on the way is a log line.
    while (heard := await line(worker)) != word:
        assert heard, "the worker ended"


async def test_writers_in_several_processes_lose_no_increment(store: Store, root: str, start: Start) -> None:
    workers = [await start("count", 60) for _ in range(4)]

    assert [await asyncio.wait_for(worker.wait(), PATIENCE) for worker in workers] == [0] * 4

    assert values_of(await store.read(root)) == {f"{root}counter": b"240"}


async def test_a_watcher_in_another_process_sees_all(store: Store, root: str, start: Start) -> None:
    await store.commit([Put(f"{root}before", b"0"), Put(f"{root}doomed", b"0")])
    watcher = await start("watch")
    await said(watcher, "watching")
    for number in range(100):
        await store.commit([Put(f"{root}{number % 10}", str(number).encode())])
    await store.commit([Delete(f"{root}doomed"), Put(f"{root}end", b"")])

    seen = json.loads(await line(watcher))

    assert {key: value.encode() for key, value in seen.items()} == values_of(await store.read(root))
    assert await asyncio.wait_for(watcher.wait(), PATIENCE) == 0


@pytest.mark.parametrize("moment", [0.0, 0.011, 0.03])
async def test_a_writer_killed_midway_leaves_a_sound_store(
    store_factory: Open, root: str, start: Start, moment: float
) -> None:
    store = await store_factory()
    mirror = Mirror()
    begin = (await store.read(root)).revision
    writer = await start("churn")
    await mirror.follow(store, [root], after=begin, until=lambda mirror: len(mirror.values) > 20)
    await asyncio.sleep(moment)
    writer.kill()
    await writer.wait()

    end = await store.commit([Put(f"{root}end", b"")])
    await mirror.follow(store, [root], after=mirror.revision, until=lambda mirror: mirror.revision >= end)
    content = values_of(await (await store_factory()).read(root))

    assert (await store.check()).ok
    assert mirror.values == content
    assert content[f"{root}left"] == content[f"{root}right"]
    assert len(content) == int(content[f"{root}left"]) + 1 + 3, "every commit before the last is there"


async def test_a_killed_holder_loses_its_keys(store: Store, root: str, start: Start, provider: Provider) -> None:
    holder = await start("hold", provider.ttl.total_seconds())
    mirror = Mirror()
    begin = (await store.read(root)).revision - 1
    await mirror.follow(store, [root], after=begin, until=lambda mirror: f"{root}held" in mirror.values)
    await asyncio.sleep(provider.ttl.total_seconds() * 2)
    assert set((await store.read(root)).entries) == {f"{root}held"}

    holder.kill()
    async with asyncio.timeout((provider.ttl + provider.grace).total_seconds()):
        await mirror.follow(store, [root], after=mirror.revision, until=lambda mirror: not mirror.values)

    assert values_of(await store.read(root)) == {}


async def test_stores_opened_at_the_same_moment_are_one_store(root: str, start: Start, store_factory: Open) -> None:
    workers = await asyncio.gather(*(start("count", 5) for _ in range(4)))
    assert [await asyncio.wait_for(worker.wait(), PATIENCE) for worker in workers] == [0] * 4

    assert values_of(await (await store_factory()).read(root)) == {f"{root}counter": b"20"}
