"""Instructions per request of the configuration that the agent generates, and of hand-written ones on the same binary.

Processor time is what counts, but on a machine that others use it repeats to some percent. The instructions of Envoy's own
code, which callgrind counts, repeat to 0.3 % with one connection. What the kernel does is not among them, how well code fits
into caches neither, nor what is saved where requests travel together. Needs valgrind, wrk and nginx.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from bench.dataplane import COUNT, ERRORS, certificates, envoy, need, nginx
from bench.frozen import frozen, managers
from bench.rivals import rival
from bench.tapping import _generated
from tests.servers.waiting import until_served
from tests.system.live import free_port, live_mesh

SECONDS = 4
PATIENCE = 60.0  # seconds: valgrind makes a start slow
_KINDS = ("lean", "lean", "defaults", "kuma", "consul", "istio")


async def run() -> dict[str, Any]:
    """Instructions a request of each, and the ratio of the generated configuration to it."""
    need("valgrind", "callgrind_control", "wrk", "nginx")
    async with live_mesh() as mesh:
        backend = free_port()
        with nginx(mesh.directory, backend):
            _, port = await _generated(mesh, backend)
            dump = json.loads(mesh.agents[0].admin("/config_dump?include_eds"))
            await mesh.agents[0].stop()
            certificates(mesh.directory / "bench")
            ours = frozen(dump, mesh.directory / "bench", mesh.directory / "frozen.log")
            found = {"generated": await _counted("generated", ours, port, mesh.directory)}
            found["blind"] = await _counted("the same without statistics and logs", _blind(ours), port, mesh.directory)
            for number, kind in enumerate(_KINDS):
                own = free_port()
                config = rival(kind, mesh.directory / "bench", own, free_port(), backend)
                name = f"{kind} again" if kind in _KINDS[:number] else kind
                found[name] = await _counted(name, config, own, mesh.directory)
    ratios = {name: found["generated"] / count for name, count in found.items()}
    for name, ratio in ratios.items():
        print(f"generated / {name:20s}{ratio:8.3f}")
    return {"instructions": found, "ratios": ratios}


def _blind(config: dict[str, Any]) -> dict[str, Any]:
    other: dict[str, Any] = json.loads(json.dumps(config))
    other["stats_config"] = {"stats_matcher": {"reject_all": True}}
    for manager in managers(other):
        manager.pop("access_log", None)
    return other


async def _counted(name: str, config: dict[str, Any], port: int, directory: Path) -> float:
    count = await asyncio.to_thread(_count, config, port, directory)
    print(f"{name:40s}{count / 1000:8.1f} thousand instructions a request")
    return count


def _count(config: dict[str, Any], port: int, directory: Path) -> float:
    file, told = directory / "counted.json", directory / "callgrind"
    file.write_text(json.dumps(config))
    for old in directory.glob("callgrind*"):
        old.unlink()
    counting = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={told}"]
    log = directory / "counted.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*counting, *envoy(file)], stderr=out)
    try:
        until_served(lambda: urlopen(f"http://127.0.0.1:{port}/", timeout=10), process, log, PATIENCE, "Envoy")
        return _per_request(process.pid, port, directory)
    finally:
        process.terminate()
        process.wait()


def _per_request(pid: int, port: int, directory: Path) -> float:
    _load(port)
    _control(pid, "-i", "on")
    requests = _load(port)
    _control(pid, "-i", "off")
    _control(pid, "-d")
    time.sleep(1)
    newest = max(directory.glob("callgrind.*"), key=lambda path: int(path.suffix[1:]))
    return max(map(int, re.findall(r"^(?:totals|summary): (\d+)", newest.read_text(), re.MULTILINE))) / requests


def _control(pid: int, *words: str) -> None:
    subprocess.run(["callgrind_control", *words, str(pid)], check=True, capture_output=True)


def _load(port: int) -> int:
    command = ["wrk", "-t1", "-c1", f"-d{SECONDS}s", "--timeout", "30s", f"http://127.0.0.1:{port}/"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert not ERRORS.search(text), text
    return int(COUNT.search(text)[1])
