"""A real Prometheus that scrapes what it is told, in a directory of its own."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.servers.programs import program


@asynccontextmanager
async def prometheus(port: int, *targets: str) -> AsyncIterator[str]:
    """Its URL; it scrapes the targets (host:port) every second."""
    directory = Path(tempfile.mkdtemp(prefix="prometheus-"))
    listed = ", ".join(f"'{each}'" for each in targets)
    config = directory / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: meshagent, static_configs: [{{targets: [{listed}]}}]}}]\n"
    )
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(directory, ignore_errors=True)
