"""The pages of `meshagent ui` in a real Chromium, on a live mesh."""

from __future__ import annotations

from contextlib import asynccontextmanager

from tests.system.apps import HttpApp, Load
from tests.system.browser import chromium
from tests.system.live import free_port, live_mesh
from tests.system.pages import PAGES, enter, served, visit

FIRST_PAINT = 1000.0  # milliseconds


@asynccontextmanager
async def small_shop():
    """web calls payments, orders is denied there, reports fails every call; under load from all three."""
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        app, web, orders = free_port(), free_port(), free_port()
        async with HttpApp(app, "payments"):
            await agent.up(name="payments", port=app, protocol="http")
            for name, local in (("web", web), ("orders", orders)):
                upstreams = [{"service": "payments", "local_port": local}]
                await agent.up(name=name, port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.intend("payments", web="allow", orders="deny")
            by_version = {"kind": "service", "name": "payments", "subsets": {"v1": {"version": "1"}}}
            split = {"kind": "route", "name": "payments", "rules": [{"name": "all", "timeout": "2s"}]}
            await mesh.applied(await mesh.apply(by_version, split))
            async with Load(web, 1, 40), Load(orders, 1, 5):
                yield mesh, agent


async def test_every_page_shows_a_live_mesh_without_an_error_and_without_a_serious_fault_of_access():
    async with small_shop() as (mesh, agent), served(mesh.url, agent.api) as ui, chromium() as page:
        assert await enter(page, ui) < FIRST_PAINT
        assert "enter=" not in str(await page.evaluate("location.href"))
        await page.until("[...document.querySelectorAll('td')].some(each => /[1-9].*\\/s/.test(each.textContent))")
        for scheme in ("light", "dark"):
            await page.colours(scheme)
            for where in PAGES:
                await visit(page, ui, where, f"live-{scheme}")
                assert await page.faults() == [], (where, scheme)
        assert page.errors == []
