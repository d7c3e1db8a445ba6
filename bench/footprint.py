"""Memory of agent and Envoy, and the time from `meshagent agent` to the first answered request."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import yaml

from tests.system.apps import HttpApp, get
from tests.system.live import Agent, free_port, live_mesh

STARTS = 7


async def run() -> dict:
    """Megabytes and milliseconds."""
    async with live_mesh() as mesh:
        app, local = free_port(), free_port()
        async with HttpApp(app):
            first = await mesh.agent()
            definitions = first.directory / "services.d"
            definitions.mkdir()
            web = {
                "name": "web",
                "port": free_port(),
                "protocol": "http",
                "upstreams": [{"service": "payments", "local_port": local}],
            }
            payments = {"name": "payments", "port": app, "protocol": "http"}
            (definitions / "all.yaml").write_text(yaml.safe_dump_all([payments, web]))
            await mesh.intend("payments", web="allow")
            await first.stop()
            times = [await _start(first, local) for _ in range(STARTS)]
            result = {"start to first 200, ms": statistics.median(times), "starts": times}
            await _started(first, local)
            await asyncio.sleep(2)
            result["agent RSS, MB"] = _memory(first.process.pid, "VmRSS")
            result["agent PSS, MB"] = _shared_out(first.process.pid)
            first.status()
            await asyncio.sleep(1)
            result["agent RSS after the API was used, MB"] = _memory(first.process.pid, "VmRSS")
            envoy = first.envoy_pid()
            result["Envoy RSS, MB"] = _memory(envoy, "VmRSS")
            result["Envoy PSS, MB"] = _shared_out(envoy)
            result["agent idle CPU, %"] = await _idle(first.process.pid)
    for name, value in result.items():
        print(
            f"{name:40s} {value:.1f}" if isinstance(value, float) else f"{name:40s} {[round(each) for each in value]}"
        )
    return result


async def _start(agent: Agent, local: int) -> float:
    """Start agent and Envoy from nothing but their files; milliseconds until a call is answered 200."""
    began = time.perf_counter()
    await _started(agent, local)
    took = (time.perf_counter() - began) * 1000
    await agent.stop()
    return took


async def _started(agent: Agent, local: int) -> None:
    await agent.start(wait=0)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if (await get(local)).status == 200:
                return
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.002)
    raise AssertionError(agent.tail())


def _memory(pid: int, name: str) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def _shared_out(pid: int) -> float:
    """PSS: what others map too is counted by their number."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Pss:")) / 1024


async def _idle(pid: int) -> float:
    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    await asyncio.sleep(5)
    return (ticks() - before) / 5.0
