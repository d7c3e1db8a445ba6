"""Attack tests 36, 47 and 48 of facts/security.md 1.4: files of secrets, and secrets where they must not be."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import stat
from pathlib import Path

import pytest
import pytest_asyncio

from meshagent.errors import MeshError, UnsafeFile
from meshagent.private import read_private, write_private
from tests.system.apps import HttpApp, get
from tests.system.live import free_port, live_mesh

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def busy():
    """An agent with debug logs and metrics on, which has served and been asked for everything. Gives (mesh, agent)."""
    async with live_mesh() as mesh:
        metrics = free_port()
        os.environ["MESHAGENT_LOG_LEVEL"] = "debug"
        try:
            agent = await mesh.agent(metrics=f"127.0.0.1:{metrics}")
        finally:
            del os.environ["MESHAGENT_LOG_LEVEL"]
        app, local = free_port(), free_port()
        async with HttpApp(app):
            await agent.up(name="payments", port=app, protocol="http")
            await agent.up(
                name="web", port=free_port(), protocol="http", upstreams=[{"service": "payments", "local_port": local}]
            )
            await mesh.applied(await mesh.intend("payments", web="allow"))
            assert (await get(local)).status == 200
            agent.metrics_port = metrics
            yield mesh, agent


async def test_attack_47_every_file_of_the_agent_is_for_its_user_alone(busy):
    mesh, agent = busy
    found = [path for path in agent.directory.rglob("*") if path.name not in ("agent.log", "agent.yaml", "services.d")]
    found += list((mesh.directory / "ca").rglob("*"))
    keys = [path for path in found if path.suffix in (".key", ".pem") and path.is_file()]
    assert len(keys) >= 3
    for path in found:
        mode = path.lstat().st_mode
        allowed = 0o770 if stat.S_ISSOCK(mode) and path.name == "agent.sock" else 0o700
        assert not mode & 0o777 & ~allowed, (path, oct(mode))


@pytest.mark.parametrize("plant", ["symlink", "hard link", "fifo", "open directory"])
async def test_attack_47_a_planted_link_or_pipe_is_refused_and_nothing_outside_is_written(tmp_path, plant):
    tmp_path.chmod(0o700)
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    place = tmp_path / "secrets"
    place.mkdir(mode=0o700)
    target = place / "web.pem"
    if plant == "symlink":
        target.symlink_to(outside)
    elif plant == "hard link":
        target.hardlink_to(outside)
    elif plant == "fifo":
        os.mkfifo(target)
    else:
        place.chmod(0o777)
    with pytest.raises(UnsafeFile):
        write_private(target, b"key")
    assert outside.read_text() == "untouched"
    if plant != "open directory":
        with pytest.raises(MeshError):
            read_private(target)


async def test_attack_47_an_agent_does_not_use_a_key_that_was_planted(busy):
    mesh, agent = busy
    serial = agent.status()["svids"]["web"]["serial"]
    identity = agent.directory / "data" / "identities" / "web.pem"
    outside = mesh.directory / "planted.pem"
    identity.rename(outside)
    identity.symlink_to(outside)
    before = outside.read_bytes()
    await agent.kill()
    await agent.start()
    status = agent.status()
    assert outside.read_bytes() == before
    assert "web" not in status["svids"] or status["svids"]["web"]["serial"] != serial
    identity.unlink()
    await agent.kill()
    await agent.start()


def secrets_of(mesh, agent):
    """The bodies of all private keys: any line of them anywhere is a leak."""
    files = [mesh.directory / "ca" / "root.key", *(agent.directory / "data" / "identities").glob("*.pem")]
    found = set()
    for path in files:
        for body in re.findall(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.+?)-----END", path.read_bytes(), re.DOTALL):
            found.update(line for line in body.split(b"\n") if len(line) > 20)
    assert len(found) >= 3
    return found


async def test_attack_48_no_private_key_is_in_argv_environment_logs_metrics_api_dumps_or_the_store(busy):
    mesh, agent = busy
    import urllib.request

    pids = (agent.process.pid, agent.envoy_pid())
    places = {
        f"{name} of {pid}": Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids for name in ("cmdline", "environ")
    }
    data = agent.directory / "data"
    for path in (
        agent.log,
        data / "envoy.log",
        data / "access.log",
        data / "envoy.stderr",
        data / "snapshot.json",
        data / "services.json",
    ):
        places[str(path)] = path.read_bytes()
    for path in mesh.directory.glob("mesh.db*"):
        if path.is_file():
            places[str(path)] = path.read_bytes()
    with urllib.request.urlopen(f"http://127.0.0.1:{agent.metrics_port}/metrics", timeout=5) as page:
        places["metrics"] = page.read()
    for path in ("/v1/status", "/v1/services", "/v1/proxy/status", "/v1/proxy/config", "/v1/proxy/stats"):
        places[path] = str(agent.call("GET", path)).encode()
    for path in ("/config_dump?include_eds", "/certs", "/server_info", "/listeners"):
        places[f"admin {path}"] = agent.admin(path)
    for name, content in places.items():
        for secret in secrets_of(mesh, agent):
            assert secret not in content, name
        assert b"BEGIN EC PRIVATE" not in content and b"BEGIN PRIVATE" not in content, name
    assert base64.b64encode(b"[redacted]") in places["admin /config_dump?include_eds"]
    assert len(places["metrics"]) > 500 and b"meshagent_info" in places["metrics"]


async def test_attack_36_a_health_check_that_redirects_leads_nowhere():
    """An app that answers its check with a redirect to somewhere internal: nobody is asked there, and the app is not well."""
    inner_port, app_port = free_port(), free_port()
    asked = []

    async def inner(_reader, writer):
        asked.append(1)
        writer.close()

    async def app(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:%d/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            % inner_port
        )
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(inner, "127.0.0.1", inner_port),
        await asyncio.start_server(app, "127.0.0.1", app_port),
        live_mesh() as mesh,
    ):
        agent = await mesh.agent()
        check = {"http": f"http://127.0.0.1:{app_port}/", "interval": "100ms", "timeout": "1s"}
        definition = {"name": "app", "port": app_port, "protocol": "http", "checks": [check]}
        answer = await asyncio.to_thread(agent.call, "PUT", "/v1/services?wait=2", definition)
        assert answer["http"] in (200, 503), answer
        await asyncio.sleep(1.0)
        (row,) = agent.call("GET", "/v1/services")["services"]
        assert row["health"] != "passing"
        assert asked == []
