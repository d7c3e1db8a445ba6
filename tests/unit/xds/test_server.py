"""The server over a real Unix socket, with gRPC's own client on the other side."""

from __future__ import annotations

import asyncio
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from meshagent.errors import DataDirInUse, DataDirUnusable, UnsafeFile, UsageProblem
from meshagent.xds.cache import Cache
from meshagent.xds.outcome import Applied, Rejected
from meshagent.xds.server import XdsServer
from meshagent.xds.status import Client
from meshagent.xds.types import CDS, EDS, LDS

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Talk:
    """One stream from the client's side."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        start = channel.stream_stream(
            METHOD, DeltaDiscoveryRequest.SerializeToString, DeltaDiscoveryResponse.FromString
        )
        self.call = start()

    async def ask(self, type_url: str, *names: str, held: Mapping[str, str] | None = None) -> None:
        request = DeltaDiscoveryRequest(
            type_url=type_url, resource_names_subscribe=names, initial_resource_versions=held or {}
        )
        request.node.id = "vm-1"
        await self.call.write(request)

    async def read(self) -> DeltaDiscoveryResponse:
        async with asyncio.timeout(5):
            return await self.call.read()

    async def judge(self, response: DeltaDiscoveryResponse, error: str = "") -> None:
        request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if error:
            request.error_detail.message = error
        await self.call.write(request)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # shorter than tmp_path: a socket's path may have 107 bytes
        yield Path(folder) / "xds" / "xds.sock"


@pytest.fixture
def cache() -> Cache:
    cache = Cache()
    cache.update({(CDS, "a"): b"1"})
    return cache


@pytest.fixture
async def server(cache: Cache, path: Path) -> AsyncIterator[XdsServer]:
    server = XdsServer(cache, clock=lambda: NOON)
    await server.start(path)
    yield server
    await server.stop(1)


@asynccontextmanager
async def talk(path: Path) -> AsyncIterator[Talk]:
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own, as another process would have
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        talk = Talk(channel)
        yield talk
        talk.call.cancel()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


async def test_a_client_gets_resources_and_changes_and_is_seen(server: XdsServer, cache: Cache, path: Path) -> None:
    async with talk(path) as client:
        await client.ask(CDS)
        first = await client.read()
        assert [(found.name, found.resource.value) for found in first.resources] == [("a", b"1")]
        await client.judge(first)
        assert await server.wait_applied(1, 5)
        (stream,) = server.streams
        assert (stream.client, stream.connected_at, stream.applied_generation) == (Client("vm-1"), NOON, 1)
        assert (stream.types[CDS].subscribed, stream.types[CDS].applied, stream.types[CDS].resources_sent) == (1, 1, 1)
        cache.update({(CDS, "a"): b"2"})
        assert [found.resource.value for found in (await client.read()).resources] == [b"2"]
    await until(lambda: not server.streams)


async def test_a_client_that_comes_before_the_first_snapshot_waits_for_it(path: Path) -> None:
    cache = Cache()
    server = XdsServer(cache)
    await server.start(path)
    async with talk(path) as client:
        await client.ask(CDS, held={"a": "1", "gone": "1"})
        await until(lambda: bool(server.streams) and bool(server.streams[0].types))
        assert server.streams[0].types[CDS].responses_sent == 0
        cache.update({(CDS, "a"): b"1"})
        assert [found.name for found in (await client.read()).resources] == ["a"]
        assert list((await client.read()).removed_resources) == ["gone"]
    await server.stop(1)


async def test_a_restarted_server_sends_no_resource_to_a_client_that_has_them_all(path: Path) -> None:
    resources = {(CDS, f"c{number}"): b"%d" % number for number in range(500)}
    held: dict[str, str] = {}
    for restart in (False, True):
        cache = Cache()
        cache.update(resources)
        server = XdsServer(cache)
        await server.start(path)
        async with talk(path) as client:
            await client.ask(CDS, held=held)
            response = await client.read()
            held |= {found.name: found.version for found in response.resources}
            await client.judge(response)
            assert await server.wait_applied(1, 5)
            status = server.streams[0].types[CDS]
            assert (status.applied, status.resources_sent) == (500, 0 if restart else 500)
            assert status.bytes_sent < 100 or not restart
        await server.stop(1)
    assert not path.exists()


async def test_outcomes_reach_every_listener_and_end_with_the_server(cache: Cache, path: Path) -> None:
    server = XdsServer(cache)
    await server.start(path)
    listeners = [server.outcomes(), server.outcomes()]
    cache.update({(LDS, "l"): b"bad"})
    async with talk(path) as client:
        await client.ask(CDS)
        await client.judge(await client.read())
        await client.ask(LDS)
        await client.judge(await client.read(), "port in use")
        assert await server.wait_applied(2, 5)
        assert server.retry_rejected(CDS) == 0
        assert server.retry_rejected(LDS) == 1
        await client.judge(await client.read())
        assert await server.wait_applied(cache.update({}, [(LDS, "never")]), 5)
    await server.stop(1)
    for listener in listeners:
        assert [outcome async for outcome in listener] == [Rejected(LDS, ("l",), "port in use", 2), Applied(2)]


async def test_a_generation_is_applied_when_the_last_of_the_clients_has_it_or_is_gone(
    server: XdsServer, cache: Cache, path: Path
) -> None:
    assert not await server.wait_applied(1, 0), "there is no client"
    async with talk(path) as quick:
        await quick.ask(CDS)
        await quick.judge(await quick.read())
        assert await server.wait_applied(1, 5)
        async with talk(path) as slow:
            await slow.ask(CDS)
            await slow.read()
            cache.update({(CDS, "a"): b"2"})
            await quick.judge(await quick.read())
            await until(lambda: max(stream.applied_generation for stream in server.streams) == 2)
            assert not await server.wait_applied(2, 0)
            waiting = asyncio.create_task(server.wait_applied(2, 5))
        assert await waiting


async def test_a_client_that_vanishes_in_the_middle_of_a_write_is_forgotten(
    server: XdsServer, cache: Cache, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with talk(path) as client:
        await client.ask(CDS)
        await client.read()
        for number in range(200):  # more than the windows of the connection hold, and nobody reads
            cache.update({(CDS, "a"): b"%d" % number * 50_000})
            await asyncio.sleep(0)
        client.call.cancel()
        cache.update({(CDS, "a"): b"last" * 100_000})
        await until(lambda: not server.streams)
    assert caplog.text == "", "gRPC logs what a handler lets through"


async def test_stopping_does_not_wait_longer_than_allowed_for_a_client_that_does_not_read(
    cache: Cache, path: Path
) -> None:
    server = XdsServer(cache)
    await server.start(path)
    async with talk(path) as client:
        await client.ask(CDS)
        await client.read()
        for number in range(200):
            cache.update({(CDS, "a"): b"%d" % number * 50_000})
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await server.stop(0.1)
        assert server.streams == ()
        await server.stop(0.1)


async def test_a_client_that_says_goodbye_ends_the_stream(server: XdsServer, path: Path) -> None:
    async with talk(path) as client:
        await client.ask(EDS, "unknown")
        assert list((await client.read()).removed_resources) == ["unknown"]
        await client.call.done_writing()
        assert await client.call.code() == grpc.StatusCode.OK
        await until(lambda: not server.streams)


async def test_the_socket_is_for_this_user_only(server: XdsServer, path: Path) -> None:
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


async def test_the_socket_of_a_killed_server_is_replaced(cache: Cache, path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = XdsServer(cache)
    await server.start(path)
    async with talk(path) as client:
        await client.ask(CDS)
        assert [found.name for found in (await client.read()).resources] == ["a"]
    await server.stop(1)


async def test_the_socket_of_a_living_server_is_refused_and_stays(server: XdsServer, cache: Cache, path: Path) -> None:
    with pytest.raises(DataDirInUse, match="another process serves"):
        await XdsServer(cache).start(path)
    async with talk(path) as client:
        await client.ask(CDS)
        assert (await client.read()).resources


async def test_a_server_that_ends_late_leaves_the_socket_of_its_successor(cache: Cache, path: Path) -> None:
    old, new = XdsServer(cache), XdsServer(cache)
    await old.start(path)
    path.unlink()
    await new.start(path)
    await old.stop(1)
    async with talk(path) as client:
        await client.ask(CDS)
        assert (await client.read()).resources
    await new.stop(1)
    path.parent.rmdir()


async def test_a_place_that_is_not_ours_alone_is_refused(cache: Cache, path: Path) -> None:
    server = XdsServer(cache)
    path.parent.mkdir()
    path.write_text("not a socket")
    with pytest.raises(UnsafeFile, match="is not a socket"):
        await server.start(path)
    path.parent.chmod(0o1777)
    with pytest.raises(UnsafeFile, match="shared between users"):
        await server.start(path)
    with pytest.raises(UsageProblem, match="107 bytes"):
        await server.start(path.parent / ("x" * 100))
    with pytest.raises(DataDirUnusable):
        await server.start(path / "below a file" / "xds.sock")
    await server.stop(1)


def test_grpc_is_not_loaded_before_a_server_starts() -> None:
    code = "import sys, meshagent.xds.server; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
