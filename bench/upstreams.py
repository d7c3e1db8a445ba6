"""What 1,000 mTLS upstreams on one host cost Envoy: memory, and the time from its start until it listens for all of them.

Once called by a gateway, so that there is one listener, and once by a service that has a listener for each. Beside
hand-written configurations of the same sizes with Envoy's defaults (HTTP/1.1, every statistic, all at once). Every Envoy runs
one worker. A start of ours is one that the agent makes after the Envoy died, so it includes what the agent has to send.
Medians of the ratios of pairs of starts, one after the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import time
from contextlib import closing
from pathlib import Path

import yaml

from bench.dataplane import anew, certificates, envoy
from bench.population import Population, populate
from bench.rivals import wide
from tests.system.live import Agent, LiveMesh, free_port, live_mesh

UPSTREAMS = 1000
STARTS = 7
FIRST_PORT = 22_000
_GATEWAY = "edge"


async def run() -> dict:
    """Megabytes, seconds, and the ratios generated / defaults, by who calls."""
    result = {}
    for who, prepare, count in (("a gateway", _gateway, 1), ("a service", _service, UPSTREAMS)):
        async with live_mesh() as mesh:
            certificates(mesh.directory / "bench")
            where = mesh.directory / "bench", FIRST_PORT + count, UPSTREAMS, free_port()
            file = mesh.directory / "defaults.json"
            file.write_text(json.dumps(wide(*where, listeners=count > 1)))
            agent = await prepare(mesh, Population(UPSTREAMS + 1, instances=1, sources=1))
            await asyncio.to_thread(_all_listen, FIRST_PORT, count)
            ours, theirs = [], []
            for _ in range(STARTS):
                ours.append(await _again(agent, count))
                theirs.append(await asyncio.to_thread(_defaults, file, count))
        result[who] = _told(ours, theirs)
        for name, value in result[who].items():
            print(f"by {who}, {name:36s} {value:.2f}")
    return result


async def _gateway(mesh: LiveMesh, population: Population) -> Agent:
    """A host with a gateway that leads to all of them by their names."""
    agent = await mesh.agent(within=("env", f"MESHAGENT_GATEWAYS={_GATEWAY}"))
    await populate(mesh.store, population)
    routes = [{"hosts": [f"{name}.example.org"], "service": name} for name in population.names[1:]]
    listeners = [{"address": "127.0.0.1", "port": FIRST_PORT}]
    await mesh.apply({"kind": "gateway", "name": _GATEWAY, "listeners": listeners, "routes": routes})
    return agent


async def _service(mesh: LiveMesh, population: Population) -> Agent:
    """A host with a service that calls all of them."""
    agent = await mesh.agent()
    await populate(mesh.store, population)
    caller, *names = population.names
    calls = [{"service": name, "local_port": FIRST_PORT + number} for number, name in enumerate(names)]
    definitions = agent.directory / "services.d"
    definitions.mkdir()
    definition = {"name": caller, "port": free_port(), "protocol": "http", "upstreams": calls}
    (definitions / "caller.yaml").write_text(yaml.safe_dump(definition))
    await agent.stop()
    await agent.start(wait=0)
    return agent


def _told(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> dict[str, float]:
    return {
        "generated, RSS in MB": statistics.median(memory for memory, _ in ours),
        "defaults, RSS in MB": statistics.median(memory for memory, _ in theirs),
        "generated, start in s": statistics.median(took for _, took in ours),
        "defaults, start in s": statistics.median(took for _, took in theirs),
        "RSS, generated / defaults": _ratio(ours, theirs, 0),
        "start, generated / defaults": _ratio(ours, theirs, 1),
        "control: RSS, defaults / defaults": _ratio(theirs[1:], theirs[:-1], 0),
        "control: start, defaults / defaults": _ratio(theirs[1:], theirs[:-1], 1),
    }


def _ratio(ones: list[tuple[float, float]], others: list[tuple[float, float]], column: int) -> float:
    return statistics.median(one[column] / other[column] for one, other in zip(ones, others, strict=True))


async def _again(agent: Agent, count: int) -> tuple[float, float]:
    """The agent's Envoy dies and comes back: (its memory, the seconds it took)."""
    return await asyncio.to_thread(_measured, await anew(agent), FIRST_PORT, count)


def _defaults(file: Path, count: int) -> tuple[float, float]:
    """An Envoy of the hand-written configuration."""
    process = subprocess.Popen(envoy(file))
    try:
        return _measured(process.pid, FIRST_PORT + count, count)
    finally:
        process.terminate()
        process.wait()


def _measured(pid: int, first: int, count: int) -> tuple[float, float]:
    """Until all listen; then what it holds after a second in which nothing happens."""
    _all_listen(first, count)
    took = time.clock_gettime(time.CLOCK_BOOTTIME) - _started(pid)
    time.sleep(1)
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024, took


def _all_listen(first: int, count: int) -> None:
    for port in range(first, first + count):
        _listening(port)


def _listening(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.005)
    raise AssertionError(f"nobody listens on {port}")


def _started(pid: int) -> float:
    """When the process began, in seconds since the machine did, to a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")
