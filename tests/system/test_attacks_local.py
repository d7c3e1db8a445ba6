"""Attack tests 46, 49, 54, 55 and 56 of facts/security.md 1.4: who is on the same host, and who writes the same store."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress
from types import SimpleNamespace

import pytest
import pytest_asyncio

from meshagent.state.records import BundleRecord, InstanceRecord, Manifest, PolicyRecord, encode
from meshagent.state.rights import Grantee, catalog_rights, key_rights
from meshagent.store.base import Put
from tests.system.apps import Caller, HttpApp, get
from tests.system.forged import DOMAIN, Forger, Peer
from tests.system.live import KEYS, eventually, free_port, live_mesh

pytestmark = pytest.mark.asyncio(loop_scope="module")
STRANGER = "51003"  # a user that this machine need not have
PYTHON = "/usr/bin/python3"  # one that every user may run
KNOCK = """
import socket, sys
for path in sys.argv[1:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try: socket.socket(socket.AF_UNIX, kind).connect(path); print("in", path)
        except PermissionError: print("refused")
        except OSError as error: print(error, path)
"""
PROBES = 150  # at least, while agent and Envoy come back
MANY = 600  # distinct paths and hosts


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shop():
    """web and orders call payments on one host; only web may. A second agent has ledger, which web calls too."""
    async with live_mesh() as mesh:
        page = free_port()
        agent = await mesh.agent("vm-1", metrics=f"127.0.0.1:{page}")
        other = await mesh.agent("vm-2")
        app, ledger = free_port(), free_port()
        local = {name: free_port() for name in ("web", "orders", "ledger")}
        async with HttpApp(app, "payments") as payments, HttpApp(ledger, "ledger"):
            await agent.up(name="payments", port=app, protocol="http")
            await other.up(name="ledger", port=ledger, protocol="http")
            calls = [
                {"service": "payments", "local_port": local["web"]},
                {"service": "ledger", "local_port": local["ledger"]},
            ]
            await agent.up(name="web", port=free_port(), protocol="http", upstreams=calls)
            calls = [{"service": "payments", "local_port": local["orders"]}]
            await agent.up(name="orders", port=free_port(), protocol="http", upstreams=calls)
            await mesh.intend("ledger", web="allow")
            await mesh.applied(await mesh.intend("payments", web="allow", orders="deny"))
            assert (await get(local["web"])).status == 200
            yield SimpleNamespace(mesh=mesh, agent=agent, other=other, page=page, local=local, payments=payments)


def listening(*pids):
    """(what listens over TCP, which abstract sockets there are) of these processes."""
    shown = [
        subprocess.run(["ss", words], capture_output=True, text=True, check=True).stdout
        for words in ("-Hlntp", "-Haxp")
    ]
    own = [[line.split() for line in text.splitlines() if any(f"pid={pid}," in line for pid in pids)] for text in shown]
    return {line[3] for line in own[0]}, {line[4] for line in own[1] if line[4].startswith("@")}


async def test_attack_46_no_other_user_reaches_a_socket_of_agent_or_envoy_and_nothing_else_listens(shop):
    run = shop.agent.directory / "run"
    shop.mesh.directory.chmod(0o711)  # so that nothing but the runtime directory itself is in the way
    sockets = [path for path in run.iterdir() if stat.S_ISSOCK(path.stat().st_mode)]
    assert {"admin.sock", "xds.sock", "agent.sock"} < {path.name for path in sockets}
    assert len(sockets) > 3, "those over which one Envoy takes over from another are files too"
    words = [
        "setpriv",
        "--reuid",
        STRANGER,
        "--regid",
        STRANGER,
        "--clear-groups",
        PYTHON,
        "-c",
        KNOCK,
        *map(str, sockets),
    ]
    knocked = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=True)
    assert knocked.stdout.split() == ["refused"] * 2 * len(sockets)
    tcp, abstract = listening(shop.agent.process.pid, shop.agent.envoy_pid())
    assert tcp == {f"127.0.0.1:{port}" for port in (shop.page, shop.agent.inbound_port, *shop.local.values())}
    assert abstract == set()


@pytest.mark.parametrize("path", ["/v1/status", "/v1/leave", "/v1/proxy/config", "/"])
async def test_attack_46_a_page_of_somebody_elses_gets_nothing_from_the_port_that_browsers_reach(shop, path):
    headers = {"Host": "evil.example", "Origin": "http://evil.example"}
    for method in ("GET", "POST", "OPTIONS"):
        asked = urllib.request.Request(f"http://127.0.0.1:{shop.page}{path}", headers=headers, method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(urllib.request.urlopen, asked, timeout=5)
        with refused.value as answer:
            assert answer.code in (404, 405)
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/v1/leave", "/v1/services/payments", "/quitquitquit", "/shutdown", "/drain_listeners"]
)
async def test_attack_49_a_request_through_a_peer_in_the_name_of_localhost_ends_nothing(shop, path):
    pids = shop.agent.process.pid, shop.agent.envoy_pid()
    seen = len(shop.payments.seen)
    for host in ("localhost", "127.0.0.1", "[::1]", str(shop.agent.directory / "run" / "agent.sock")):
        for method in ("POST", "DELETE"):
            sent = (
                f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
            )
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                answer = await Caller(shop.local["web"]).send(sent)
                assert answer.status in (200, 400, 404)
    assert len(shop.payments.seen) > seen, "it is an app's request like any other"
    assert {row["name"] for row in shop.agent.call("GET", "/v1/services")["services"]} == {"payments", "web", "orders"}
    assert (shop.agent.process.pid, shop.agent.envoy_pid()) == pids and shop.agent.process.returncode is None
    assert (await get(shop.local["web"])).status == 200


def series(shop):
    """Their names and labels, on the metrics page and in Envoy."""
    with urllib.request.urlopen(f"http://127.0.0.1:{shop.page}/metrics", timeout=5) as page:
        text = page.read().decode()
    ours = {line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}
    envoys = {line.partition(b":")[0] for line in shop.agent.admin("/stats").splitlines()}
    return ours, envoys


async def test_attack_54_thousands_of_paths_hosts_and_callers_words_make_no_series(shop):
    async def send(numbers, caller):
        for number in numbers:
            lines = (
                f"host: h{number}.example\r\nuser-agent: a{number}\r\nx-request-id: {number}\r\ntraceparent: {number}"
            )
            raw = f"GET /p{number}?q={number} HTTP/1.1\r\n{lines}\r\n\r\n"
            assert (await caller.send(raw.encode())).status in (200, 404)
        caller.close()

    await send(range(40), Caller(shop.local["web"]))
    before = await asyncio.to_thread(series, shop)
    await asyncio.gather(*(send(range(40 + part, MANY, 4), Caller(shop.local["web"])) for part in range(4)))
    after = await asyncio.to_thread(series, shop)
    assert len(before[0]) > 50 and len(before[1]) > 50
    for old, new in zip(before, after, strict=True):
        assert len(new - old) < 100, "some buckets of durations are new, and no more"
        assert not [each for each in new if re.search(r"example|/p\d|\ba\d", str(each))]


def configured(agent, without):
    """What Envoy is configured with, but for what is named after one service, and when it came."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items() if key not in ("last_updated", "version_info")}
        if isinstance(value, list):
            return [plain(each) for each in value if not any(without in name for name in names(each))]
        return value

    def names(value):
        inner = [value, *value.values()] if isinstance(value, dict) else []
        return [str(each.get(key, "")) for each in inner if isinstance(each, dict) for key in ("name", "cluster_name")]

    return plain(json.loads(agent.admin("/config_dump?include_eds")))


def lies():
    """Values that might be believed to be something else than they are."""
    intention = {"kind": "intention", "name": "payments", "sources": [{"name": "*", "action": "allow"}]}
    for document in (intention, {"kind": "mesh", "name": "mesh", "default_action": "allow"}):
        yield encode(PolicyRecord(revision=10**6, document=document, replaces=None))
    yield encode(Manifest(revision=10**6))
    yield encode(BundleRecord(roots={DOMAIN: ["-----BEGIN CERTIFICATE-----\n"]}))
    stolen = {"service": "payments", "host": "vm-1", "id": "payments", "address": "10.66.0.1", "port": 6666}
    yield encode(InstanceRecord.model_validate(stolen))
    yield json.dumps({"envoy": {"listener": "0.0.0.0:1"}, "filters": [{"lua": "os.exit()"}]}).encode()
    yield b"\x00\xff" * 100
    yield b"[" * 10_000
    yield b"{}"


async def test_attack_55_nothing_that_one_service_may_write_changes_the_proxy_of_another(shop):
    """All that the least rights of vm-2, the host of ledger, let it write."""
    thief = Grantee("agent", host="vm-2", services=("ledger",))
    places = [right.place for right in (*key_rights(thief, KEYS), *catalog_rights(thief, KEYS)) if right.write]
    keys = [f"{place}stolen" if place.endswith("/") else place for place in places]
    keys += [f"{place}payments/deeper" for place in places if place.endswith("/")]
    assert KEYS.instance("ledger", "vm-2", "stolen") in keys and KEYS.report("vm-2") in keys
    await asyncio.sleep(4.0)  # what an earlier test changed has drained by then
    before = configured(shop.agent, "ledger")
    assert "payments" in json.dumps(before)
    shop.other.process.send_signal(signal.SIGSTOP)  # it would put its own in place again
    try:
        for lie in lies():
            await shop.mesh.store.commit([Put(key, lie) for key in keys])
            await asyncio.sleep(0.05)
        revision = await shop.mesh.intend("payments", web="allow", orders="deny")
        await shop.mesh.applied(revision, shop.agent)
        assert configured(shop.agent, "ledger") == before
        assert (await get(shop.local["web"])).status == 200
        assert (await get(shop.local["orders"])).status == 403
    finally:
        shop.other.process.send_signal(signal.SIGCONT)


async def test_attack_56_while_agent_and_envoy_come_back_without_their_files_nobody_gets_in_who_may_not(shop):
    """Asked all the while: in plain text, by a service that is denied, by a stranger's certificate, by nobody's."""
    port = shop.agent.inbound_port
    forger = Forger(shop.mesh.directory, shop.mesh.directory / "ca")
    orders = Peer(port, forger.service("orders"), f"orders.payments.{DOMAIN}")
    stranger = Peer(port, Forger(shop.mesh.directory / "vm-2").service("web"), f"web.payments.{DOMAIN}")
    got, stop, asked = [], asyncio.Event(), 0

    async def probe(ask):
        nonlocal asked
        while not stop.is_set():
            with suppress(OSError, EOFError, TimeoutError):
                answer = await ask()
                got.append(answer if isinstance(answer, int) else getattr(answer, "status", 0))
            asked += 1
            await asyncio.sleep(0.001)

    async def plain():
        return (await get(port)).status

    ways = (plain, lambda: get(shop.local["orders"]), lambda: orders.get("/"), lambda: stranger.get("/"))
    probes = [asyncio.create_task(probe(way)) for way in ways]
    seen = len(shop.payments.seen)
    await shop.agent.kill()
    shop.agent.end_envoy(signal.SIGKILL)
    data = shop.agent.directory / "data"
    (data / "snapshot.json").unlink()
    shutil.rmtree(data / "identities")
    await shop.agent.start()
    came_back = eventually(lambda: "payments" in shop.agent.status().get("svids", {}), 15)
    await came_back
    await asyncio.sleep(0.5)
    stop.set()
    await asyncio.gather(*probes)
    assert asked > PROBES and not [status for status in got if status and 200 <= status < 300], set(got)
    assert len(shop.payments.seen) == seen, "no request reached the app"
    with socket.create_connection(("127.0.0.1", shop.local["web"]), 5):
        assert (await get(shop.local["web"])).status == 200
