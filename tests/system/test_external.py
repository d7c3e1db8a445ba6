"""Names outside the mesh: reached as the document says, by whom an intention allows, and by nobody and nothing else."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from contextlib import suppress

import pytest
import pytest_asyncio

from meshagent.state.records import InstanceRecord, encode
from meshagent.store.base import Put
from tests.system.apps import Caller, TcpApp, get, raw
from tests.system.live import KEYS, eventually, free_port, live_mesh
from tests.system.outside import Http2App, OutsideCa, TlsApp

CALLED = ("pay", "misnamed", "foreign")
NAMES = (*CALLED, "relay", "feed", "modern", "bytes", "shop", "wire", "tunnel")
ONE_PATH = [{"action": "allow", "http": {"methods": ["GET"], "path_prefix": "/v1"}}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outside():
    """web, which calls the externals. Gives (mesh, agent, the port of each external, the local port of each)."""
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        ports, local = ({name: free_port() for name in NAMES} for _ in range(2))
        upstreams = [{"service": name, "local_port": local[name]} for name in NAMES]
        await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
        yield mesh, agent, ports, local


pytestmark = pytest.mark.asyncio(loop_scope="module")


def external(name, port, mode, host="localhost", protocol="tcp", **tls):
    tls = {key: str(value) for key, value in tls.items()}
    return {
        "kind": "external",
        "name": name,
        "hosts": [host],
        "port": port,
        "protocol": protocol,
        "tls": {"mode": mode, **tls},
    }


def intention(name, *permissions, action="allow"):
    source = {"name": "web", "permissions": list(permissions)} if permissions else {"name": "web", "action": action}
    return {"kind": "intention", "name": name, "sources": [source]}


async def answered(port, wanted, path="/v1", wait=5.0):
    """Call until the status is as wanted (names have to be resolved first), and give the answer."""
    until, last = time.monotonic() + wait, ""
    while time.monotonic() < until:
        with suppress(OSError, asyncio.IncompleteReadError):
            if (answer := await get(port, path)).status == wanted:
                return answer
            last = f"{answer.status}: {answer.text}"
        await asyncio.sleep(0.02)
    raise AssertionError(f"not {wanted}, but {last}")


async def test_the_proxy_speaks_tls_to_who_proves_the_name_by_the_pinned_roots_and_judges_by_request(outside, tmp_path):
    ours, theirs = OutsideCa(tmp_path, "ours"), OutsideCa(tmp_path, "theirs")
    pinned = tmp_path / "pinned.pem"
    pinned.write_bytes(ours.root.read_bytes())
    mesh, agent, ports, local = outside
    documents = [
        external(name, ports[name], "originate", protocol="http", sni="pay.example", ca_file=pinned) for name in CALLED
    ]
    revision = await mesh.apply(*documents)
    await mesh.applied(revision)
    async with (
        TlsApp(ports["pay"], "pay", ours.server("pay.example")) as pay,
        TlsApp(ports["misnamed"], "misnamed", ours.server("other.example")) as misnamed,
        TlsApp(ports["foreign"], "foreign", theirs.server("pay.example")) as foreign,
    ):
        refused = await answered(local["pay"], 403)
        assert refused.headers["x-mesh-refused"] == "intention" and "web pay" in refused.text
        await mesh.applied(await mesh.apply(*(intention(name, *ONE_PATH) for name in CALLED)))
        answer = await answered(local["pay"], 200)
        seen = answer.text.lower()
        assert f"host: pay.example:{ports['pay']}" in seen
        assert not any(word in seen for word in ("x-forwarded", "x-envoy", "x-request-id", "x-mesh", "spiffe"))
        assert (await get(local["pay"], "/v2")).status == 403
        assert (await get(local["pay"], "/v1/../v2")).status == 403
        assert (await get(local["pay"], "/v1", "POST")).status == 403
        assert (await get(local["pay"], "/v1", headers="x_team: a\r\n")).status == 400
        for name, app in (("misnamed", misnamed), ("foreign", foreign)):
            answer = await get(local[name], "/v1")
            assert answer.status == 503 and app.seen == []
        assert _counted(agent, "misnamed", "fail_verify_san") and not _counted(agent, "misnamed", "fail_verify_error")
        assert _counted(agent, "foreign", "fail_verify_error")
        await _wins_over_a_registration(agent, local["pay"])
        other = tmp_path / "other.pem"
        other.write_bytes(theirs.root.read_bytes())
        other.replace(pinned)
        await answered(local["foreign"], 200)
        await _ends_what_is_open(mesh, local["foreign"])
        assert len(pay.seen) == 2


def _counted(agent, name, what):
    """How many handshakes with an external failed by this."""
    lines = agent.admin(f"/stats?filter=external/{name}.*{what}").decode().split()
    return int(lines[-1]) if lines else 0


async def _wins_over_a_registration(agent, local):
    """No service comes up under the name, and one that is in the catalog all the same takes nothing over."""
    port = free_port()
    async with TcpApp(port) as impostor:
        told = await asyncio.to_thread(agent.call, "PUT", "/v1/services", {"name": "pay", "port": port})
        assert told["http"] == 400 and "pay is a name outside the mesh" in told["message"], told
        assert "pay" not in agent.status()["services"]
        record = InstanceRecord(service="pay", host="vm-9", id="pay", address="127.0.0.1", port=port, protocol="http")
        await agent.mesh.store.commit([Put(KEYS.instance("pay", "vm-9", "pay"), encode(record))])
        assert (await answered(local, 200)).headers["x-app"] == "pay"
        assert impostor.connections == 0


async def _ends_what_is_open(mesh, local):
    caller = Caller(local)
    assert (await caller.get("/v1")).status == 200
    await mesh.applied(await mesh.apply(intention("foreign", action="deny")))
    assert (await get(local, "/v1")).status == 403
    reader, _ = caller.streams
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    caller.close()


async def _by_name(port, name, roots):
    """TLS from end to end with this server name; gives the answer's first line, or the error's name."""
    context = ssl.create_default_context(cafile=str(roots))
    context.check_hostname = False
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            line = (await reader.readline()).decode().strip()
            writer.close()
            return line
    except (OSError, asyncio.IncompleteReadError) as error:
        return type(error).__name__


async def test_http_2_and_plain_bytes_are_wrapped_in_tls_too(outside, tmp_path):
    mesh, _, ports, local = outside
    ca = OutsideCa(tmp_path, "theirs")
    told = {"sni": "pay.example", "ca_file": ca.root}
    documents = [
        external("modern", ports["modern"], "originate", protocol="http2", **told),
        external("bytes", ports["bytes"], "originate", **told),
    ]
    allowed = (intention("modern", *ONE_PATH), intention("bytes"))
    await mesh.applied(await mesh.apply(*documents, *allowed))
    async with (
        Http2App(ports["modern"], ca.server("pay.example")),
        TlsApp(ports["bytes"], "bytes", ca.server("pay.example")),
    ):
        seen = (await answered(local["modern"], 200)).text
        assert f":authority: pay.example:{ports['modern']}" in seen and ":scheme: https" in seen
        assert (await get(local["modern"], "/v2")).status == 403
        answer = await answered(local["bytes"], 200)
        assert "host: app" in answer.text


async def test_what_the_app_encrypts_passes_by_a_named_host_alone_and_plain_bytes_only_where_allowed(outside, tmp_path):
    ca = OutsideCa(tmp_path, "theirs")
    mesh, agent, ports, local = outside
    documents = [
        external("relay", ports["relay"], "passthrough"),
        external("feed", ports["feed"], "none", host="127.0.0.1"),
    ]
    await mesh.applied(await mesh.apply(*documents))
    async with (
        TlsApp(ports["relay"], "relay", ca.server("localhost")) as relay,
        TcpApp(ports["feed"], b"HELLO\n") as feed,
    ):
        assert await raw(local["feed"], b"") == b"" and await raw(local["feed"], b"x") == b""
        assert await _by_name(local["relay"], "localhost", ca.root) != "HTTP/1.1 200 Said"
        assert feed.connections == relay.connections == 0
        await mesh.applied(await mesh.apply(intention("relay"), intention("feed")))
        until = time.monotonic() + 5
        while (line := await _by_name(local["relay"], "localhost", ca.root)) != "HTTP/1.1 200 Said":
            assert time.monotonic() < until, line
        calls = relay.connections
        assert await _by_name(local["relay"], "evil.example", ca.root) != "HTTP/1.1 200 Said"
        assert await raw(local["relay"], b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n") == b""
        assert relay.connections == calls
        log = agent.directory / "data" / "access.log"
        await eventually(lambda: _told(log, "evil.example"), 5)
        await _cut(mesh, local["feed"])
        assert (await raw(local["feed"], b"")) == b"" and feed.connections == 1


def _told(log, name):
    """Whether the log tells of a connection by this name that led nowhere."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return any(line["server_name"] == name and line["side"] == "external relay" for line in lines)


async def _cut(mesh, local):
    """An open connection ends when its service is denied."""
    reader, writer = await asyncio.open_connection("127.0.0.1", local)
    async with asyncio.timeout(5):
        assert await reader.readline() == b"HELLO\n"
    await mesh.apply(intention("feed", action="deny"))
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_an_external_that_is_deleted_is_not_called_any_more_and_what_is_open_to_it_ends(outside, tmp_path):
    mesh, agent, ports, local = outside
    ca = OutsideCa(tmp_path, "theirs")
    documents = [
        external("shop", ports["shop"], "originate", protocol="http", sni="shop.example", ca_file=ca.root),
        external("wire", ports["wire"], "none", host="127.0.0.1"),
        external("tunnel", ports["tunnel"], "passthrough"),
    ]
    names = ("shop", "wire", "tunnel")
    await mesh.applied(await mesh.apply(*documents, *(intention(name) for name in names)))
    async with (
        TlsApp(ports["shop"], "shop", ca.server("shop.example")) as shop,
        TcpApp(ports["wire"], b"HELLO\n") as wire,
        TlsApp(ports["tunnel"], "tunnel", ca.server("localhost")) as tunnel,
    ):
        await answered(local["shop"], 200)
        caller = Caller(local["shop"])
        assert (await caller.get("/v1")).status == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", local["wire"])
        assert await reader.readline() == b"HELLO\n"
        context = ssl.create_default_context(cafile=str(ca.root))
        told = {"ssl": context, "server_hostname": "localhost"}
        led, leading = await asyncio.open_connection("127.0.0.1", local["tunnel"], **told)
        await mesh.applied(await mesh.delete(*(("external", name) for name in names)))

        # what is open ends, as a deny ends it
        async with asyncio.timeout(5):
            assert await caller.streams[0].read() == b"" and await reader.read() == b""
            with suppress(OSError):
                assert await led.read() == b""
        for each in (writer, leading):
            each.close()
        caller.close()

        # and nothing new gets there, also not after the proxy and the agent begin anew
        calls = (shop.connections, wire.connections, tunnel.connections)
        for restarted in (False, True):
            if restarted:
                await agent.kill()
                await agent.start()
            with suppress(OSError, asyncio.IncompleteReadError):
                assert (await get(local["shop"], "/v1")).status == 503
            assert await raw(local["wire"], b"x") == b""
            assert await _by_name(local["tunnel"], "localhost", ca.root) != "HTTP/1.1 200 Said"
        assert (shop.connections, wire.connections, tunnel.connections) == calls
        problems = agent.status()["problems"]
        assert not [key for key in problems if any(name in key for name in names)], problems
