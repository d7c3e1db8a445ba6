"""The root above a real authority is replaced: the authority, the host's own certificate and its services' go over to it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshagent.ca.root_files import digest_of, load_root
from tests.system.machines import machines

HERE = Path(__file__).parents[2]
STORE = "sqlite:///var/lib/meshagent/mesh.db"
CALLS = 'while :; do curl -s -m 2 -o /dev/null -w "%{http_code}\\n" http://127.0.0.1:9191/; sleep 0.02; done'
pytestmark = [pytest.mark.timeout(240)]


class Host:
    """A machine on which commands are typed."""

    def __init__(self, machine, directory):
        self.machine = machine
        script = directory / "bin/meshagent"
        script.parent.mkdir()
        script.write_text(f'#!/bin/sh\nPYTHONPATH={HERE} exec {sys.executable} -m meshagent "$@"\n')
        script.chmod(0o755)
        self.env = {"PATH": f"{script.parent}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"}

    async def types(self, *words, code=0):
        """A command of meshagent, as data where it gives any."""
        done = await asyncio.to_thread(self.machine.run, "meshagent", *words, env=self.env, timeout=180)
        assert done.returncode == code, (words, done.stdout, done.stderr, self.log("authority"), self.log(""))
        return json.loads(done.stdout) if "json" in words else {}

    def log(self, which):
        name = f"/var/lib/meshagent-{which}/{which}.log" if which else "/var/lib/meshagent/agent.log"
        return self.machine.path(name).read_text()[-6000:]

    def events(self, name):
        lines = self.machine.path("/var/lib/meshagent/agent.log").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def root(self):
        return digest_of(load_root(self.machine.path("/var/lib/meshagent-authority/root")).certificate)


@asynccontextmanager
async def running(host, *words, output=subprocess.DEVNULL):
    """A process of the host, ended with the block."""
    process = subprocess.Popen([*host.machine.within(), *words], stdout=output, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_the_root_above_an_authority_is_replaced_under_load(tmp_path):
    async with machines(tmp_path, "vm-a") as (_, (machine,)):
        host = Host(machine, tmp_path)
        settings = machine.path("/etc/meshagent/authority.yaml")
        settings.parent.mkdir()
        settings.touch(0o600)
        settings.write_text("max_ttl: 8s\n")
        await host.types("init", "--store", STORE, "--ca", "authority", "--services", "web,payments", "--start")
        await host.types("up", "payments", "--port", "8080", "--protocol", "http")
        await host.types("up", "web", "--port", "8081", "--protocol", "http", "--upstream", "payments:9191")
        await host.types("intention", "allow", "web", "payments", "--wait")
        machine.path("/var/lib/www").mkdir()
        old, statuses = host.root(), tmp_path / "statuses"
        served = ("http.server", "8080", "--bind", "127.0.0.1", "--directory", "/var/lib/www")
        async with running(host, sys.executable, "-m", *served):
            await asyncio.sleep(1.0)
            with statuses.open("wb") as file:
                async with running(host, "sh", "-c", CALLS, output=file):
                    await host.types("ca", "rotate", "--timeout", "120s")
                    await asyncio.sleep(2.0)
        answered = statuses.read_text().split()
        assert len(answered) > 100 and set(answered) == {"200"}
        assert host.root() != old
        held = await host.types("status", "-o", "json")
        assert held and not host.events("svid_not_renewed") and host.events("host_certificate_renewed")
        after = await host.types("ca", "rotate", "--status", "-o", "json")
        assert after == {"stage": "none", "live_hosts": 1}
        keys = sorted(file.name for file in machine.path("/var/lib/meshagent-authority/root").glob("*.key"))
        assert keys == ["root.key"]
