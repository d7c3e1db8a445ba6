"""A real ACME CA on loopback: Let's Encrypt's pebble, and its DNS server, by which every name leads to 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from tests.servers.programs import program
from tests.system.live import free_port
from tests.system.outside import OutsideCa

_PATIENCE = 15.0


class Pebble:
    """`http_port`: where it asks for http-01, in place of port 80. It forgets everything when it ends; its address stays."""

    def __init__(self, directory: Path, http_port: int) -> None:
        self._directory = directory
        self._http_port = http_port
        self._port, self._management, self._dns = (free_port() for _ in range(3))
        self._processes: list[subprocess.Popen[bytes]] = []
        ca = OutsideCa(directory, "pebble")
        ca.server("localhost")
        self.root = ca.root
        self.url = f"https://localhost:{self._port}/dir"

    async def start(self, *, life: int = 86400, refused: tuple[str, ...] = (), rejected_nonces: int = 0) -> None:
        """Start it. `life`: seconds of a certificate. `refused`: names that it certifies to nobody. `rejected_nonces`: %."""
        pem = str(self._directory / "pebble-localhost.pem")
        settings = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": pem,
            "privateKey": pem,
            "httpPort": self._http_port,
            "tlsPort": 1,
            "certificateValidityPeriod": life,
            "domainBlocklist": list(refused),
        }
        config = self._directory / "pebble.json"
        config.write_text(json.dumps({"pebble": settings}))
        told = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": str(rejected_nonces), "PEBBLE_AUTHZREUSE": "0"}
        dns = f"127.0.0.1:{self._dns}"
        nowhere = ("-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{free_port()}")
        names = ("-dnsserver", dns, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "")
        self._run("pebble-challtestsrv", "-dns01", dns, *nowhere, *names[2:])
        self._run("pebble", "-config", str(config), *names[:2], **told)
        until = time.monotonic() + _PATIENCE
        while not await asyncio.to_thread(self._answers):
            assert time.monotonic() < until, (self._directory / "pebble.log").read_text()
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(10)
        self._processes = []

    def issuing_root(self) -> str:
        """PEM of the root that its certificates lead to, another one at each start."""
        url = f"https://localhost:{self._management}/roots/0"
        with urllib.request.urlopen(url, timeout=5, context=self._trusted()) as answer:
            return answer.read().decode()

    def _trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.root))

    @property
    def log(self) -> str:
        """What it said."""
        return (self._directory / "pebble.log").read_text()

    def _run(self, name: str, *arguments: str, **environment: str) -> None:
        with (self._directory / f"{name}.log").open("ab") as log:
            command = [program(name), *arguments]
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        self._processes.append(process)

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(self.url, timeout=2, context=self._trusted()) as answer:
            return answer.status == 200
        return False
