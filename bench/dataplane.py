"""CPU per request of the configuration that the agent generates, as a ratio to hand-written ones on the same binary.

Both are loaded at the same time (16 connections each), all proxies on one core, load and backend on the other, and the
CPU time of every Envoy thread is divided by its requests; the figure is the median of the rounds' ratios. Measured one
after the other, the same chain differs by up to 15 % within minutes (facts of this kind of machine); side by side the
control (the same configuration twice) tells how far to trust a ratio. Needs wrk and nginx.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.rivals import rival
from bench.shapes import haproxy
from meshagent.ca.builtin import open_builtin
from meshagent.ca.keys import new_key_and_csr
from meshagent.envoy.locate import locate
from tests.system.live import free_port, live_mesh
from tests.system.shop import until_status

ROUNDS = 15
SECONDS = 2
CONNECTIONS = 16
COUNT = re.compile(r"(\d+) requests in")
ERRORS = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")


async def run() -> dict:
    """Each ratio with its rounds; below 1.00 the first one named is cheaper."""
    need("wrk", "nginx", "taskset", "haproxy")
    async with live_mesh() as mesh, live_mesh() as unseen:
        backend = free_port()
        agent = await mesh.agent()
        blind = await unseen.agent("blind", within=(sys.executable, "-m", "bench.blind"))
        with nginx(mesh.directory, backend):
            web, tcp, carried = await _generated(mesh, agent, backend)
            await unseen.apply({"kind": "mesh", "access_log": {"only": "none"}})
            uncounted, _, _ = await _generated(unseen, blind, backend)
            kinds = ("lean", "lean", "defaults", "kuma", "consul", "istio")
            with rivals(mesh.directory, backend, kinds) as found, haproxies(mesh.directory, backend) as others:
                lean, control, defaults, kuma, consul, istio = found
                ours, unseeing = await anew(agent), await anew(blind)
                for port in (web, tcp, carried, uncounted, *(port for _, port in (*found, *others))):
                    await until_status(port, 200)
                pin(ours)
                pin(unseeing)
                pairs = {
                    "A/A control: lean H2 / lean H2": (control, lean),
                    "generated L7 / hand-written lean H2": ((ours, web), lean),
                    "generated L7 / Envoy's defaults over H1": ((ours, web), defaults),
                    "generated L7 / Kuma-shaped": ((ours, web), kuma),
                    "generated L7 / Consul-shaped": ((ours, web), consul),
                    "generated L7 / Istio-shaped": ((ours, web), istio),
                    "generated L7 / HAProxy http": ((ours, web), others[0]),
                    "generated L4 / hand-written lean H2": ((ours, tcp), lean),
                    "generated data_path l4 / hand-written lean H2": ((ours, carried), lean),
                    "generated L4 / HAProxy tcp": ((ours, tcp), others[1]),
                    "generated L7 / the same without statistics and logs": (
                        (ours, web),
                        (unseeing, uncounted),
                    ),
                }
                return {name: await _ratio(name, *pair) for name, pair in pairs.items()}


def need(*tools: str) -> None:
    """End here unless all of them are installed."""
    packages = {"taskset": "util-linux", "callgrind_control": "valgrind"}
    for tool in tools:
        if not shutil.which(tool):
            sys.exit(f"{tool} is needed: apt-get install {packages.get(tool, tool)}")


def envoy(file: Path) -> list[str]:
    """The command of an Envoy that has all its configuration in a file."""
    return [str(locate()), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "-l", "error"]


async def anew(agent) -> int:
    """The agent's Envoy dies and comes back. Gives the new one's pid.

    It is told at once what the old one was told in turn, as an Envoy with a file is: in turn costs 2 to 3 % of a request more
    (measured beside the same configuration in a file).
    """
    before = agent.envoy_pid()
    agent.end_envoy(signal.SIGKILL)
    while (pid := agent.envoy_pid()) in (0, before):
        await asyncio.sleep(0.005)
    return pid


async def _generated(mesh, agent, backend: int) -> tuple[int, int, int]:
    """Local ports of an HTTP service, a TCP service, and an HTTP service with data_path l4."""
    web, tcp, carried = free_port(), free_port(), free_port()
    await agent.up(name="payments", port=backend, protocol="http")
    await agent.up(name="ledger", port=backend, protocol="tcp")
    await agent.up(name="stock", port=backend, protocol="http")
    ports = {"payments": web, "ledger": tcp, "stock": carried}
    upstreams = [{"service": name, "local_port": port} for name, port in ports.items()]
    await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
    await mesh.intend("ledger", web="allow")
    await mesh.intend("stock", web="allow")
    await mesh.apply({"kind": "service", "name": "stock", "data_path": "l4"})
    await mesh.applied(await mesh.intend("payments", web="allow"))
    return web, tcp, carried


async def _ratio(name: str, one: tuple[int, int], other: tuple[int, int]) -> dict:
    rounds = []
    for _ in range(ROUNDS):
        before = cpu(one[0]), cpu(other[0])
        counts = await asyncio.gather(load(one[1]), load(other[1]))
        after = cpu(one[0]), cpu(other[0])
        each = [(end - start) / 1000 / count for start, end, count in zip(before, after, counts, strict=True)]
        rounds.append((each[0] / each[1], *each))
    ratio = statistics.median(row[0] for row in rounds)
    micro = [statistics.median(row[column] for row in rounds) for column in (1, 2)]
    low, high = min(row[0] for row in rounds), max(row[0] for row in rounds)
    print(
        f"{name:42s} {ratio:5.2f}   ({low:.2f} to {high:.2f} in {ROUNDS} rounds; {micro[0]:.0f} and {micro[1]:.0f} us a request)"
    )
    return {"ratio": ratio, "rounds": [row[0] for row in rounds], "us": micro}


async def load(port: int) -> int:
    """Requests answered in SECONDS over CONNECTIONS kept open. Anything but 200 ends the benchmark."""
    command = ["taskset", "-c", "0", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", f"http://127.0.0.1:{port}/"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    text = (await process.communicate())[0].decode()
    assert not ERRORS.search(text), text
    return int(COUNT.search(text)[1])


def cpu(pid: int) -> int:
    """CPU time of all threads in nanoseconds."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def pin(pid: int) -> None:
    """All threads on the second core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {1})


@contextmanager
def nginx(directory: Path, port: int):
    """A backend with one worker and 1 KiB answers, on the first core."""
    body = "x" * 1024
    paths = " ".join(
        f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr warn;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; {paths}\n"
        f" server {{ listen 127.0.0.1:{port}; location / {{ default_type text/plain; return 200 '{body}'; }} }} }}\n"
    )
    command = ["taskset", "-c", "0", "nginx", "-c", str(directory / "nginx.conf"), "-p", str(directory)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def rivals(directory: Path, backend: int, kinds: tuple[str, ...]):
    """(pid, port) of an Envoy for each kind, pinned to the second core."""
    certificates(directory / "bench")
    processes, found = [], []
    for number, kind in enumerate(kinds):
        port = free_port()
        file = directory / f"rival-{number}.json"
        file.write_text(json.dumps(rival(kind, directory / "bench", port, free_port(), backend)))
        # In a session of its own as the agent's Envoy: the kernel shares a core by session first, and a proxy that is given
        # less of it finds more requests at a time, which are cheaper then (measured: by 5 %).
        process = subprocess.Popen(envoy(file), start_new_session=True)
        processes.append(process)
        found.append((process.pid, port))
    try:
        for process, port in zip(processes, [port for _, port in found], strict=True):
            wait_for(port)
            pin(process.pid)
        yield found
    finally:
        for process in processes:
            process.terminate()
            process.wait()


@contextmanager
def haproxies(directory: Path, backend: int):
    """(pid, port) of a HAProxy for HTTP and of one for TCP, each with both hops, pinned to the second core."""
    for service in ("web", "payments"):
        pair = (directory / "bench" / f"{service}.{kind}" for kind in ("pem", "key"))
        (directory / "bench" / f"{service}.both").write_bytes(b"".join(path.read_bytes() for path in pair))
    processes, found = [], []
    for mode in ("http", "tcp"):
        port = free_port()
        file = directory / f"haproxy-{mode}.cfg"
        file.write_text(haproxy(str(directory / "bench"), mode, port, free_port(), backend))
        process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(file)], start_new_session=True)
        processes.append(process)
        found.append((process.pid, port))
    try:
        for pid, port in found:
            wait_for(port)
            pin(pid)
        yield found
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def certificates(directory: Path) -> None:
    """A root, and SVIDs of web and payments, as files."""
    authority = open_builtin(directory, "bench", clock=lambda: datetime.now(UTC))
    for service in ("web", "payments"):
        key, csr = new_key_and_csr()
        chain = authority._sign(csr, f"spiffe://bench/svc/{service}", timedelta(hours=1))
        (directory / f"{service}.pem").write_bytes(chain)
        (directory / f"{service}.key").write_bytes(key)


def wait_for(port: int) -> None:
    """Until somebody listens, at most 10 s."""
    import socket
    import time

    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nobody listens on {port}")
