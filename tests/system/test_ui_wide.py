"""The pages of `meshagent ui` with 200 services: drawn at once, and as easy to get at."""

from __future__ import annotations

from tests.system.browser import Page, chromium
from tests.system.live import live_mesh
from tests.system.pages import PAGES, enter, paint, served, visit
from tests.system.wide import widen

FIRST_PAINT = 1000.0  # milliseconds
DRAWN = 500.0  # milliseconds: alone it takes 40
LARGE = ("topology", "intentions")


async def turned(page: Page, button: str) -> float:
    """How long the matrix takes to other rows, laid out, in milliseconds."""
    drawn = f"document.querySelector('#rows-{button}').click(); document.querySelector('main').offsetHeight"
    return float(str(await page.evaluate(f"performance.mark('a'); {drawn}; performance.measure('m', 'a').duration")))


async def test_200_services_are_drawn_at_once_on_every_page():
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        await agent.up(name="payments", port=20999, protocol="http")
        await mesh.intend("payments", web="allow")
        await widen(mesh)
        async with served(mesh.url, agent.api) as ui, chromium() as page:
            await enter(page, ui)
            assert await paint(page, ui) < FIRST_PAINT
            for where in PAGES:
                await visit(page, ui, where, "wide")
                if where in LARGE:
                    assert await page.faults() == [], where
            await visit(page, ui, "intentions")
            assert min([await turned(page, button) for button in ("on", "back", "on")]) < DRAWN
            assert await page.evaluate("document.querySelectorAll('.matrix td').length") == 1600
            await page.type("#sources-filter", "billing-")
            await page.until("document.querySelectorAll('.matrix tbody tr').length === 20")
            assert page.errors == []
