"""Transparent capture: apps that know nothing of the mesh land by mTLS, nothing goes round it, nobody is locked out."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import pytest_asyncio

from tests.system.capturing import APP, BATCH, OTHER, STRANGER, SYSTEM_PYTHON, WEB, captured_mesh, virtual
from tests.system.live import eventually
from tests.system.upgrades import another_envoy

UDP = """
import socket, sys, time
info = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_DGRAM)[0]
s = socket.socket(info[0], info[1])
try:
    s.connect(info[4])
    for _ in range(2): s.send(b"x"); time.sleep(0.05)
    print("sent")
except OSError as error: print(type(error).__name__)
"""
CONNECT = """
import socket, sys
try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 1); print("connected")
except OSError as error: print(type(error).__name__)
"""
MARKED = """
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, 36, 0x6D65)  # SO_MARK
s.connect((sys.argv[1], int(sys.argv[2])))
s.sendall(b"GET / HTTP/1.1\\r\\nhost: api\\r\\nconnection: close\\r\\n\\r\\n")
print(s.makefile().read())
"""
KEPT = """
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=5)
for said in ("open", "kept"):
    c.request("GET", "/"); c.getresponse().read(); print(said, flush=True); sys.stdin.readline()
"""
UNIFIED = next(path for path in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if path.is_dir())
CGROUPS = ("sh", "-ec", 'mount -t cgroup2 none /sys/fs/cgroup; exec "$@"', "sh")  # `ip netns exec` hides it
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world():
    async with captured_mesh() as made:
        yield made


@pytest.mark.parametrize("ipv6", [False, True])
async def test_an_app_that_knows_nothing_calls_a_name_and_lands_by_mtls_as_the_service_that_it_is(world, ipv6):
    for port in (80, 8443):  # any port of a virtual address is that service
        answer = await world.call("api", WEB, ipv6=ipv6, port=port)
        assert answer.said.endswith("\n200"), answer
        assert answer.said.startswith("b api.mesh"), answer
        assert "URI=spiffe://mesh.internal/svc/web" in answer.said


async def test_services_of_one_host_are_told_apart_by_their_names_alone(world):
    for name in ("api", "stock"):
        for ipv6 in (False, True):
            answer = await world.call(name, WEB, ipv6=ipv6)
            assert answer.said.startswith(f"b {name}.mesh By=spiffe://mesh.internal/svc/{name};"), answer
    loud = await world.curl("a", WEB, "http://STOCK.Mesh/")
    assert loud.said.endswith("\n200") and "svc/stock" in loud.said


async def test_a_name_that_nothing_here_calls_is_unknown_at_once(world):
    began = time.monotonic()
    answer = await world.curl("a", WEB, "http://nobody.mesh/")
    assert answer.error.startswith("curl: (6)") and time.monotonic() - began < 1.5, answer


async def test_who_calls_is_told_by_whose_the_process_is_and_a_denied_one_gets_the_reason(world):
    answer = await world.call("api", BATCH)
    assert answer.said.endswith("\n403"), answer
    assert "no intention in force lets the caller make this call to api" in answer.said
    assert "svc/batch" in answer.said


@pytest.mark.parametrize("ipv6", [False, True])
async def test_tcp_is_captured_too(world, ipv6):
    assert (await world.talk(WEB, virtual("ledger", ipv6=ipv6), 5432)).said == "ledger hello\n"
    assert (await world.talk(WEB, "ledger.mesh", 5432)).said == "ledger hello\n"
    assert (await world.talk(BATCH, virtual("ledger", ipv6=ipv6), 5432)).said.strip() == ""


async def test_everything_else_goes_out_untouched(world):
    for address in (world.made.address("b"), f"[{world.ipv6('b')}]"):
        answer = await world.curl("a", WEB, f"http://{address}:{OTHER}/")
        assert answer.said.endswith("plain\n200"), answer


async def test_a_name_outside_the_mesh_is_called_by_a_name_of_the_mesh_and_judged_here(world):
    tls = {"mode": "none"}
    told = {"name": "outside", "hosts": [world.made.address("b")], "port": OTHER, "protocol": "http", "tls": tls}
    await world.mesh.apply({"kind": "external", **told})
    await world.mesh.applied(await world.mesh.intend("outside", web="allow"))
    for ipv6 in (False, True):
        answer = await world.call("outside", WEB, ipv6=ipv6)
        assert answer.said.endswith("plain\n200"), answer
    answer = await world.call("outside", BATCH)
    assert answer.said.endswith("\n403") and "make this call to outside" in answer.said


async def test_with_envoy_dead_calls_are_refused_and_not_made_in_plain_text(world):
    pid = world.a.envoy_pid()
    world.a.process.send_signal(signal.SIGSTOP)  # else it starts another at once
    try:
        world.a.end_envoy(signal.SIGKILL)
        for ipv6 in (False, True):
            assert (await world.call("api", WEB, ipv6=ipv6, known=True)).refused
    finally:
        world.a.process.send_signal(signal.SIGCONT)
    until = time.monotonic() + 15
    while not (answer := await world.call("api", WEB)).said.endswith("\n200"):
        assert time.monotonic() < until, answer
    assert world.a.envoy_pid() != pid


async def test_the_rules_outlive_the_agent_and_its_ports_stay(world):
    await world.a.kill()
    assert (await world.call("api", WEB, known=True)).said.endswith("\n200")
    await world.a.start()
    assert (await world.call("api", WEB)).said.endswith("\n200")
    assert "in force" in (await world.redirect("a", "show")).said


async def test_another_envoy_takes_over_and_no_captured_call_is_refused(world):
    said = []

    async def calls(ipv6):
        while True:
            said.append(await world.call("api", WEB, ipv6=ipv6, known=True))

    before = world.a.envoy_pid()
    tasks = [asyncio.create_task(calls(ipv6)) for ipv6 in (False, True)]
    await world.a.kill()
    world.a.settings["envoy_path"] = another_envoy(world.mesh.directory)
    await world.a.start()
    await eventually(lambda: world.a.events("envoy_retired"), 40)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert world.a.envoy_pid() not in (0, before)
    assert len(said) > 10 and not [each for each in said if not each.said.endswith("\n200")]


async def test_direct_access_to_the_app_from_outside_is_refused_and_mtls_is_not(world):
    for address in (world.made.address("b"), f"[{world.ipv6('b')}]"):
        for user in (WEB, STRANGER):
            assert (await world.curl("a", user, f"http://{address}:{APP}/")).refused
    assert (await world.curl("b", STRANGER, f"http://127.0.0.1:{APP}/")).said.endswith("plain\n200")
    address = world.made.address("b")
    assert (await world.talk(STRANGER, address, world.b.inbound_port)).error.count(
        "refused"
    ) == 0  # mTLS's port is open
    open_one = await world.curl("b", STRANGER, f"http://{world.made.address('a')}:{OTHER}/")
    assert open_one.said.endswith("plain\n200")  # batch says inbound: open


async def test_what_is_not_confirmed_undoes_itself_and_what_is_stays(world):
    said = await world.redirect("b", "up", "--undo", "4s")
    assert "undone in 4 s" in said.error
    address = f"http://{world.made.address('b')}:{APP}/"
    assert (await world.curl("a", STRANGER, address)).refused
    until = time.monotonic() + 8
    while (answer := await world.curl("a", STRANGER, address)).refused:
        assert time.monotonic() < until
    assert answer.said.endswith("plain\n200")
    late = await world.redirect("b", "confirm", check=False)
    assert late.code == 1 and "the timer ran out" in late.error
    await world.redirect("b", "up", "--undo", "1m")
    await world.redirect("b", "confirm")
    assert (await world.curl("a", STRANGER, address)).refused
    assert "in force\n" in (await world.redirect("b", "show")).said


async def test_attack_50_who_is_not_captured_reaches_no_virtual_address_and_nor_does_a_packet_of_another_kind(world):
    for ipv6 in (False, True):
        assert (await world.call("api", STRANGER, ipv6=ipv6)).refused
        assert (await world.call("api", 0, ipv6=ipv6)).refused  # the user of Envoy and agent
        sent = await world.python("a", WEB, UDP, virtual("api", ipv6=ipv6), 80)
        assert sent.said.strip() in ("ConnectionRefusedError", "PermissionError", "OSError"), sent
        unknown = "fda4:dd8:6e82::7" if ipv6 else "248.1.2.3"
        closed = await world.talk(WEB, unknown, 80)
        assert closed.said.strip() == ""  # accepted by the kernel's redirection, closed by Envoy


async def test_attack_50_a_mark_or_the_port_of_another_service_does_not_change_who_calls(world):
    may = ("--inh-caps", "+net_admin", "--ambient-caps", "+net_admin")
    web = ("setpriv", "--reuid", str(WEB), "--clear-groups", *may, SYSTEM_PYTHON)
    marked = await world.run("a", *web, "-c", MARKED, virtual("api"), "80")
    assert "svc/web" in marked.said, marked
    rows = {row["name"]: row["capture"]["port"] for row in world.a.call("GET", "/v1/services")["services"]}
    for address in ("127.0.0.1", "::1"):
        assert (await world.talk(BATCH, address, rows["web"], "GET / HTTP/1.1")).said.strip() == ""


async def test_attack_50_the_capture_port_is_closed_outside_and_leads_nowhere_inside_not_to_itself(world):
    port = world.a.call("GET", "/v1/services")["services"][-1]["capture"]["port"]
    for host in (world.made.address("a"), world.ipv6("a")):
        answer = await world.python("b", STRANGER, CONNECT, host, port)
        assert answer.said.strip() in ("TimeoutError", "ConnectionRefusedError"), answer
    opened = len(list(Path(f"/proc/{world.a.envoy_pid()}/fd").iterdir()))
    for address in ("127.0.0.1", "::1"):
        assert (await world.talk(STRANGER, address, port)).said.strip() == ""
    assert len(list(Path(f"/proc/{world.a.envoy_pid()}/fd").iterdir())) < opened + 20


async def test_attack_50_an_app_that_runs_as_envoys_user_or_as_root_is_not_captured_and_that_is_said(world):
    said = await world.redirect("a", "up", "--no-undo", check=False, exclude_users=[str(WEB)])
    assert said.code == 2 and "cannot be captured" in said.error
    assert (await world.call("api", WEB)).said.endswith("\n200")  # nothing has changed


async def test_attack_51_with_egress_registered_nothing_else_is_reached_but_what_is_excluded(world):
    address = world.made.address("b")
    words = ("setpriv", "--reuid", str(WEB), "--clear-groups", SYSTEM_PYTHON, "-c", KEPT, address, str(OTHER))
    async with world.program("a", *words) as before:
        assert await before.stdout.readline() == b"open\n"
        await world.redirect("a", "up", "--no-undo", egress="registered", exclude_ports=[8443])
        try:
            assert (await world.call("api", WEB)).said.endswith("\n200")
            for host in (address, f"[{world.ipv6('b')}]"):
                assert (await world.curl("a", WEB, f"http://{host}:{OTHER}/")).refused
            sent = await world.python("a", WEB, UDP, address, 5353)
            assert sent.said.strip() != "sent", sent
            assert (await world.curl("a", STRANGER, f"http://{address}:{OTHER}/")).said.endswith("200")
            assert (await world.curl("a", WEB, f"http://127.0.0.1:{OTHER}/")).said.endswith("200")
            assert (await world.curl("b", WEB, f"http://{world.made.address('a')}:{OTHER}/")).said.endswith("200")
            assert (await world.call("api", WEB, port=8443)).refused  # left alone, and no virtual address leaves
            excluded = await world.python("a", WEB, CONNECT, address, 8443)
            assert excluded.said.strip() == "ConnectionRefusedError"  # by host b, where nobody listens
            before.stdin.write(b"go on\n")
            assert await before.stdout.readline() == b"kept\n"
        finally:
            await world.redirect("a", "up", "--no-undo")


async def test_a_service_is_told_by_its_cgroup_too_whatever_user_its_processes_have(world):
    name = f"meshagent-test-{os.getpid()}"
    group = UNIFIED / name
    group.mkdir()
    try:
        jobs = {"name": "jobs", "port": OTHER, "protocol": "http", "upstreams": [{"service": "api"}]}
        await world.a.up(**jobs, capture={"cgroup": name, "inbound": "open"})
        await world.redirect("a", "up", "--no-undo", within=CGROUPS)
        join = f"echo $$ > {group}/cgroup.procs; exec ip netns exec {world.made.namespace('a')} setpriv --reuid "
        url = f"http://{virtual('api')}/"
        for user in (STRANGER, WEB):
            words = ("sh", "-c", f"{join}{user} --clear-groups curl -sS -m 5 {url}")
            said = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False)
            assert "svc/jobs" in said.stdout, said
        assert (await world.call("api", WEB)).said.endswith("\n200")  # outside of it, the user counts
        await world.a.down("jobs")
        await world.redirect("a", "up", "--no-undo")
    finally:
        group.rmdir()
