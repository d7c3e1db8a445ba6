"""`meshagent ui` of a live mesh, and a walk through its pages."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from tests.system.browser import Page

SHOTS = Path("test-artifacts/ui")
PAGES = {
    "topology": "Topology",
    "intentions": "Intentions",
    "what-if": "What if",
    "services": "Services",
    "services/payments": "payments",
    "hosts": "Hosts",
    "certificates": "Certificates",
    "history": "History",
    "history/2": "Revision 2",
    "history/3": "Revision 3",
    "refusals": "Refusals",
}
SHOWN = "!document.querySelector('main [role=alert]') && document.querySelector('main h1')?.textContent === {title!r}"


class Served:
    """A running `meshagent ui`: its link, its port, and where it says more."""

    def __init__(self, process: asyncio.subprocess.Process, link: str) -> None:
        self.process, self.link = process, link
        self.base, _, fragment = link.partition("#")
        self.token = fragment.removeprefix("enter=")
        self.port = int(self.base.rsplit(":", 1)[1].strip("/"))

    async def said(self) -> str:
        """Its next line on stderr."""
        return (await asyncio.wait_for(self.process.stderr.readline(), 20)).decode()


@asynccontextmanager
async def served(store: str, api: str = "unix:///nowhere/agent.sock"):
    """`meshagent ui` on a store, and an agent if there is one; ended as with Ctrl-C, and it has to end well."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshagent", "ui", "--store", store, "--api", api),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XDG_CONFIG_HOME": "/nowhere"},
    )
    try:
        link = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        assert link.startswith("http://127.0.0.1:"), (await process.stderr.read()).decode()
        yield Served(process, link)
    finally:
        if process.returncode is None:
            process.send_signal(2)
        code = await asyncio.wait_for(process.wait(), 20)
    assert code == 0, (await process.stderr.read()).decode()


async def enter(page: Page, ui: Served) -> None:
    """Open the link."""
    await page.goto(ui.link)
    await page.until(SHOWN.format(title="Topology"))


async def paint(page: Page, ui: Served) -> float:
    """How long after its address was gone to the page shows first words, in milliseconds: the best of three."""
    found = []
    await page.goto(f"{ui.base}#/topology")
    for _ in range(3):
        await page.send("Network.clearBrowserCache")
        await page.send("Page.reload", ignoreCache=True)
        entry = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
        found.append(float(str(await page.until(f"{entry} && {SHOWN.format(title='Topology')} && {entry}"))))
    return min(found)


async def visit(page: Page, ui: Served, where: str, shot: str = "") -> None:
    """Go to a page and wait until it is there; a picture of it with `shot`."""
    await page.goto(f"{ui.base}#/{where}")
    await page.until(SHOWN.format(title=PAGES[where]))
    if shot:
        await page.screenshot(SHOTS / f"{shot}-{where.replace('/', '-')}.png")
