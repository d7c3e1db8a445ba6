"""Names of the mesh, asked of a real agent by real resolvers: attack test 52 of facts/security.md 1.4, and dnsmasq."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import asynccontextmanager, closing, suppress
from ipaddress import ip_address
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
import pytest_asyncio

from meshagent.host import responder as responding
from meshagent.host.responder import Responder
from meshagent.model.virtual import virtual_addresses
from tests.system.live import eventually, free_port, live_mesh
from tests.system.named import LOOK_UP, Elsewhere, cli

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAME = "payments.mesh"
IPV4, IPV6 = map(str, virtual_addresses("payments"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def host():
    """An agent that answers names; web calls payments. Gives the agent, with the port of its names."""
    os.environ["MESHAGENT_DNS"] = f"127.0.0.1:{(port := free_port())}"
    try:
        async with live_mesh() as mesh:
            metrics = free_port()
            agent = await mesh.agent(metrics=f"127.0.0.1:{metrics}")
            agent.dns_port, agent.metrics_port = port, metrics
            upstreams = [{"service": "payments", "local_port": free_port()}]
            await agent.up(name="web", port=free_port(), upstreams=upstreams)
            yield agent
    finally:
        del os.environ["MESHAGENT_DNS"]


async def ask(port, name, kind="A", tcp=False, **more):
    """(the code of the answer, its texts), by a real resolver's library."""
    query = dns.message.make_query(name, kind, **more)
    how = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    answer = await how(query, "127.0.0.1", port=port, timeout=5)
    assert not answer.flags & dns.flags.RA
    return dns.rcode.to_text(answer.rcode()), [str(each) for rrset in answer.answer for each in rrset]


@pytest.mark.parametrize("tcp", [False, True])
async def test_upstreams_of_this_host_have_names_and_names_of_their_addresses(host, tcp):
    assert await ask(host.dns_port, NAME, "A", tcp) == ("NOERROR", [IPV4])
    assert await ask(host.dns_port, NAME, "AAAA", tcp, use_edns=0) == ("NOERROR", [IPV6])
    assert await ask(host.dns_port, ip_address(IPV4).reverse_pointer, "PTR", tcp) == ("NOERROR", [f"{NAME}."])
    assert await ask(host.dns_port, ip_address(IPV6).reverse_pointer, "PTR", tcp) == ("NOERROR", [f"{NAME}."])


async def test_a_name_comes_with_the_service_that_calls_it_and_goes_with_it(host):
    assert (await ask(host.dns_port, "ledger.mesh"))[0] == "NXDOMAIN"
    await host.up(name="batch", port=free_port(), upstreams=[{"service": "ledger", "local_port": free_port()}])
    assert await ask(host.dns_port, "ledger.mesh") == ("NOERROR", [str(virtual_addresses("ledger")[0])])
    assert host.status()["dns"]["names"] == ["ledger", "payments"]
    await host.down("batch")
    assert (await ask(host.dns_port, "ledger.mesh"))[0] == "NXDOMAIN"


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("PAYMENTS.MESH", "A", ("NOERROR", [IPV4])),
        ("pAyMeNtS.MeSh", "AAAA", ("NOERROR", [IPV6])),
        (NAME, "ANY", ("NOERROR", [IPV4, IPV6])),
        (NAME, "SRV", ("NOERROR", [])),
        ("web.mesh", "A", ("NXDOMAIN", [])),
        ("nobody.mesh", "A", ("NXDOMAIN", [])),
        ("a." * 110 + "mesh", "A", ("NXDOMAIN", [])),
        ("mesh", "AXFR", ("REFUSED", [])),
        ("example.com", "A", ("REFUSED", [])),
        (".", "NS", ("REFUSED", [])),
    ],
)
async def test_attack_52_only_names_of_the_mesh_are_answered_in_any_case_and_over_both(host, name, kind, answer, tcp):
    assert await ask(host.dns_port, name, kind, tcp) == answer


async def test_attack_52_over_long_names_and_garbage_are_refused_and_the_agent_goes_on(host):
    query = dns.message.make_query(NAME, "A").to_wire()
    over_long = query[:12] + (b"\x3f" + b"a" * 63) * 5 + b"\0" + query[-4:]
    looping = query[:12] + b"\xc0\x0c" + query[-4:]
    before = host.status()["dns"]["queries"]
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as raw:
        raw.connect(("127.0.0.1", host.dns_port))
        raw.settimeout(5)
        for packet in (over_long, looping, query[:-1]):
            raw.send(packet)
            assert raw.recv(4096)[3] & 15 == dns.rcode.FORMERR
        response = dns.message.make_response(dns.message.from_wire(query)).to_wire()
        for packet in (b"", b"\0", os.urandom(11), b"\xff" * 60000, response):
            raw.send(packet)
        raw.settimeout(0.2)
        with pytest.raises(TimeoutError):
            raw.recv(4096)
    for sent in (b"\xff\xff", b"\0\0" * 50, b"\0\5abc", b"\0\x40" + os.urandom(64)):
        reader, writer = await asyncio.open_connection("127.0.0.1", host.dns_port)
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(5):
            assert len(await reader.read()) <= 14
        writer.close()
    assert await ask(host.dns_port, NAME) == ("NOERROR", [IPV4])
    assert host.status()["dns"]["queries"]["malformed"] >= before["malformed"] + 8


async def test_attack_52_a_flood_of_queries_holds_up_neither_names_nor_the_agent(host):
    """Many times what is answered in a second, of names that are not known: known ones are still found, and quickly."""
    packets = [dns.message.make_query(f"x{number}.mesh", "A").to_wire() for number in range(500)]
    sent, slowest, until = 0, 0.0, time.monotonic() + 1.5
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as raw:
        raw.connect(("127.0.0.1", host.dns_port))
        raw.setblocking(False)
        while time.monotonic() < until:
            for packet in packets:
                with suppress(BlockingIOError):
                    sent += bool(raw.send(packet))
            begun = time.monotonic()
            assert await ask(host.dns_port, NAME, tcp=True) == ("NOERROR", [IPV4])
            assert (await asyncio.to_thread(host.status))["dns"]["listening"]
            slowest = max(slowest, time.monotonic() - begun)
    assert sent > 2000 and slowest < 2.0


async def test_attack_52_nobody_but_this_host_can_ask(host):
    open_ = subprocess.run(["ss", "-Hlnut", f"sport = :{host.dns_port}"], capture_output=True, text=True, check=True)
    assert {line.split()[4] for line in open_.stdout.splitlines()} == {f"127.0.0.1:{host.dns_port}"}
    assert len(open_.stdout.splitlines()) == 2


async def test_queries_are_counted_by_how_they_ended(host):
    def counted():
        with urllib.request.urlopen(f"http://127.0.0.1:{host.metrics_port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        told = [line for line in lines if line.startswith("meshagent_dns_queries_total")]
        return {line.split('"')[1]: float(line.split()[-1]) for line in told}

    before = await asyncio.to_thread(counted)
    for name in (NAME, NAME, "nobody.mesh", "example.com"):
        await ask(host.dns_port, name)
    after = await asyncio.to_thread(counted)
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "answered": 2,
        "nxdomain": 1,
        "refused": 1,
    }


async def test_a_port_that_is_taken_is_a_problem_that_ends_by_itself(monkeypatch):
    monkeypatch.setattr(responding, "_RETRY_SECONDS", 0.05)
    port = free_port()
    mine = Responder(("127.0.0.1", port), "mesh", lambda: frozenset({"payments"}))
    with socket.create_server(("127.0.0.1", port)):
        task = asyncio.create_task(mine.run())
        await eventually(lambda: mine.problem, 5)
        assert f"127.0.0.1:{port}: Address already in use" in mine.problem and not mine.listening
    await eventually(lambda: mine.listening, 5)
    assert mine.problem == "" and await ask(port, NAME) == ("NOERROR", [IPV4])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_connections_are_answered_in_their_order_end_when_idle_and_are_bounded(monkeypatch):
    monkeypatch.setattr(responding, "_IDLE_SECONDS", 0.3)
    port = free_port()
    mine = Responder(("127.0.0.1", port), "mesh", lambda: frozenset({"payments"}))
    task = asyncio.create_task(mine.run())
    await eventually(lambda: mine.listening, 5)
    queries = [dns.message.make_query(NAME, kind).to_wire() for kind in ("A", "AAAA", "SRV")]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(len(query).to_bytes(2) + query for query in queries))
    for query in queries:
        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        assert dns.message.from_wire(query).is_response(dns.message.from_wire(answer))
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(responding._MOST_CONNECTIONS)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    for _, other in (*idle, (reader, writer)):
        other.close()
    await eventually(lambda: not mine._talking, 5)
    assert await ask(port, NAME, tcp=True) == ("NOERROR", [IPV4])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await eventually(lambda: mine._talking, 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await eventually(lambda: not mine._talking, 5)
    assert await reader.read() == b""


# --- through a resolver, as applications do


@asynccontextmanager
async def dnsmasq(host, address):
    """A dnsmasq on port 53 of a loopback address, with the file that `meshagent dns install` writes. Gives Elsewhere."""
    root = Path(tempfile.mkdtemp(prefix="dns-"))
    loop = asyncio.get_running_loop()
    transport, elsewhere = await loop.create_datagram_endpoint(Elsewhere, local_addr=("127.0.0.1", free_port()))
    await cli(host, "dns", "install", "--resolver", "dnsmasq", "--root", str(root))
    upstream = transport.get_extra_info("sockname")[1]
    words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", f"--conf-dir={root}/etc/dnsmasq.d"]
    words += [
        "--no-resolv",
        "--no-hosts",
        f"--server=127.0.0.1#{upstream}",
        f"--listen-address={address}",
        "--bind-interfaces",
    ]
    words += ["--stop-dns-rebind", "--bogus-priv", "--user=root", f"--pid-file={root}/pid"]
    process = subprocess.Popen(words, env={"PATH": f"{os.environ['PATH']}:/usr/sbin"})
    try:
        await eventually((root / "pid").exists, 5)
        yield elsewhere
    finally:
        process.terminate()
        process.wait()
        transport.close()
        shutil.rmtree(root)


async def found(address, *names):
    """What getaddrinfo of a process finds whose resolv.conf names the address: for each name its addresses."""
    script = 'echo "nameserver $1" > "$2"; mount --bind "$2" /etc/resolv.conf; shift 2; exec "$@"'
    with tempfile.NamedTemporaryFile() as resolv:
        words = [
            "unshare",
            "--mount",
            "sh",
            "-ec",
            script,
            "-",
            address,
            resolv.name,
            sys.executable,
            "-c",
            LOOK_UP,
            *names,
        ]
        made = await asyncio.create_subprocess_exec(*words, stdout=-1)
        return [line.split() for line in (await made.communicate())[0].decode().split("\n")[:-1]]


async def test_applications_find_services_through_dnsmasq_and_no_name_goes_where_it_should_not(host):
    address = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
    async with dnsmasq(host, address) as elsewhere:
        names = [NAME, "PAYMENTS.Mesh", "nobody.mesh", "example.com", "mesh.example.com"]
        assert await found(address, *names) == [[IPV4, IPV6], [IPV4, IPV6], [], ["9.0.0.7"], ["9.0.0.7"]]
        assert set(elsewhere.asked) == {"example.com.", "mesh.example.com."}
        for pointer in (IPV4, IPV6):
            query = dns.message.make_query(ip_address(pointer).reverse_pointer, "PTR")
            answer = await dns.asyncquery.udp(query, address, timeout=5)
            assert [str(each) for rrset in answer.answer for each in rrset] == [f"{NAME}."]
