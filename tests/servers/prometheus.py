"""A real Prometheus on loopback, in a directory of its own. Ended by pid."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.servers.consul import free_port
from tests.servers.programs import program
from tests.servers.waiting import until_served

PATIENCE = 30.0


@dataclass
class Prometheus:
    """One server process."""

    port: int
    process: subprocess.Popen[bytes]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now. Raises AssertionError for one that cannot be evaluated."""
        found = self._call("query", query=expression)
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def targets(self) -> dict[str, str]:
        """The health (up, down, unknown) of what is scraped, by address."""
        found = self._call("targets", state="active")["data"]["activeTargets"]
        return {each["labels"]["instance"]: each["health"] for each in found}

    def hosts(self) -> dict[str, str]:
        """The label `host` of what is scraped, by address."""
        found = self._call("targets", state="active")["data"]["activeTargets"]
        return {each["labels"]["instance"]: each["labels"].get("host", "") for each in found}

    def _call(self, what: str, **words: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{words}: {error.read().decode()}") from None


@asynccontextmanager
async def prometheus(port: int, *targets: str) -> AsyncIterator[str]:
    """The URL of one that scrapes these (host:port) every second."""
    job = {"job_name": "meshagent", "static_configs": [{"targets": list(targets)}]}
    settings = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    running = server({"global": settings, "scrape_configs": [job]}, port)
    await asyncio.to_thread(running.__enter__)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


@contextmanager
def server(config: Mapping[str, Any], port: int = 0) -> Iterator[Prometheus]:
    """A running server, on this port or another; it and what it holds are gone afterwards."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="prometheus-") as directory:
        file, log = Path(directory, "prometheus.yaml"), Path(directory, "log")
        file.write_text(yaml.safe_dump(dict(config)))
        command = [program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={directory}/data"]
        with log.open("wb") as out:
            listen = f"--web.listen-address=127.0.0.1:{port}"
            process = subprocess.Popen([*command, listen], cwd=directory, stdout=out, stderr=subprocess.STDOUT)
        made = Prometheus(port, process)
        try:
            until_served(made.targets, process, log, PATIENCE, "Prometheus")
            yield made
        finally:
            process.kill()
            process.wait()
