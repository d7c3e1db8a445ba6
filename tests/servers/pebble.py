"""A real ACME CA: Let's Encrypt's pebble, and its DNS server, by which every name leads to one address."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path

from tests.servers.programs import program
from tests.system.live import free_port
from tests.system.outside import OutsideCa

_PATIENCE = 15.0
_READY = "ACME directory available"


class Pebble:
    """`http_port`: where it asks for http-01, in place of port 80. It forgets everything when it ends; its address stays.

    `address`: its own. `names_at`: where all names lead. `within` goes before its commands, to run it elsewhere.
    """

    def __init__(
        self,
        directory: Path,
        http_port: int,
        address: str = "127.0.0.1",
        names_at: str = "127.0.0.1",
        within: tuple[str, ...] = (),
    ) -> None:
        self._directory = directory
        self._http_port = http_port
        self._address, self._names_at, self._within = address, names_at, within
        self._port, self._management, self._dns = (f"{address}:{free_port()}" for _ in range(3))
        self._processes: list[subprocess.Popen[bytes]] = []
        ca = OutsideCa(directory, "pebble")
        ca.server(address)
        self.root = ca.root
        self.url = f"https://{self._port}/dir"

    async def start(self, *, life: int = 86400, refused: tuple[str, ...] = (), rejected_nonces: int = 0) -> None:
        """Start it. `life`: seconds of a certificate. `refused`: names that it certifies to nobody. `rejected_nonces`: %."""
        pem = str(self._directory / f"pebble-{self._address}.pem")
        settings = {
            "listenAddress": self._port,
            "managementListenAddress": self._management,
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
        nowhere = ("-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{free_port()}")
        leading = ("-defaultIPv4", self._names_at, "-defaultIPv6", "")
        self._run("pebble-challtestsrv", "-dns01", self._dns, *nowhere, *leading)
        before = self.log.count(_READY)
        self._run("pebble", "-config", str(config), "-dnsserver", self._dns, **told)
        until = time.monotonic() + _PATIENCE
        while self.log.count(_READY) == before:
            assert time.monotonic() < until, self.log
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
        trusted = ssl.create_default_context(cafile=str(self.root))
        with urllib.request.urlopen(f"https://{self._management}/roots/0", timeout=5, context=trusted) as answer:
            return answer.read().decode()

    @property
    def log(self) -> str:
        """What it said."""
        file = self._directory / "pebble.log"
        return file.read_text() if file.exists() else ""

    def _run(self, name: str, *arguments: str, **environment: str) -> None:
        with (self._directory / f"{name}.log").open("ab") as log:
            command = [*self._within, program(name), *arguments]
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        self._processes.append(process)
