"""The pages of `meshagent ui` in a real Chromium, on a live mesh of two hosts.

web calls payments, and orders on the other host tries to, in vain.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from itertools import pairwise
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import pytest_asyncio

from meshagent.ui.prometheus import Prometheus
from tests.servers.prometheus import prometheus
from tests.system.apps import Caller, HttpApp, Load
from tests.system.browser import Page, chromium
from tests.system.live import Agent, LiveMesh, free_port, live_mesh
from tests.system.pages import PAGES, SHOTS, SHOWN, Served, enter, paint, served, visit

pytestmark = pytest.mark.asyncio(loop_scope="module")
FIRST_PAINT = 1000.0  # milliseconds
MARKUP = "<img src=x onerror=document.title='caught'>"
RATE = 40
COLOURED = (
    "topology",
    "intentions",
    "services/payments",
    "history/2",
    "refusals",
)  # between them they have every colour


@dataclass
class It:
    mesh: LiveMesh
    agent: Agent
    orders: int
    metrics: int
    ui: Served
    page: Page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def it():
    async with live_mesh() as mesh:
        metrics, app, web, orders = (free_port() for _ in range(4))
        agent = await mesh.agent(metrics=f"127.0.0.1:{metrics}")
        other = await mesh.agent("vm-2", metrics=f"127.0.0.1:{free_port()}")
        async with HttpApp(app, "payments"):
            await agent.up(name="payments", port=app, protocol="http", meta={"version": "1"})
            for host, name, local in ((agent, "web", web), (other, "orders", orders)):
                upstreams = [{"service": "payments", "local_port": local}]
                await host.up(name=name, port=free_port(), protocol="http", upstreams=upstreams)
            denied = {"name": "orders", "action": "deny", "reason": MARKUP}
            allowed = {"name": "web", "action": "allow", "reason": "INC-7"}
            await mesh.apply({"kind": "intention", "name": "payments", "sources": [allowed, denied]})
            subsets = {
                "kind": "service",
                "name": "payments",
                "subsets": {"v1": {"version": "1"}, "v2": {"version": "2"}},
            }
            split = [{"subset": "v1", "weight": 90}, {"subset": "v2", "weight": 10}]
            rules = [{"match": {"path_prefix": "/new"}, "to": split}, {"name": "all", "timeout": "2s"}]
            two = {"kind": "service", "name": "web", "subsets": subsets["subsets"]}
            await mesh.apply(two, {"kind": "rollout", "name": "web", "base": "v1", "to": "v2", "state": "paused"})
            await mesh.applied(await mesh.apply(subsets, {"kind": "route", "name": "payments", "rules": rules}))
            async with Load(web, 1, RATE), Load(orders, 1, 2), served(mesh.url, agent.api) as ui, chromium() as page:
                await enter(page, ui)
                yield It(mesh, agent, orders, metrics, ui, page)


async def click(page: Page, selector: str) -> None:
    await page.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


async def test_the_first_words_are_there_within_a_second_and_the_link_is_forgotten(it):
    assert await paint(it.page, it.ui) < FIRST_PAINT
    assert it.ui.token not in str(
        await it.page.evaluate("location.href + document.cookie + JSON.stringify(localStorage)")
    )
    link = (await it.ui.said()) + (await it.ui.said())
    assert "good once" in link
    assert it.ui.base in link
    assert it.ui.token not in link


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_shows_the_live_mesh_and_keeps_nobody_out(it, scheme):
    await it.page.colours(scheme)
    for where in PAGES:
        await visit(it.page, it.ui, where, f"live-{scheme}")
        assert "[object" not in await it.page.text(), where
        if scheme == "light" or where in COLOURED:
            assert await it.page.faults(*(("color-contrast",) if scheme == "dark" else ())) == [], where
    assert it.page.errors == []


async def test_live_numbers_are_those_of_the_callers(it):
    await visit(it.page, it.ui, "topology")
    await it.page.until(r"[...document.querySelectorAll('#main td')].some(each => /\d ms/.test(each.textContent))")
    row = "[...document.querySelectorAll('#main tr')].find(each => each.cells[0].innerText === 'web').innerText"
    cells = str(await it.page.evaluate(row)).split("\t")
    assert cells[1:3] == ["payments", "allowed"]
    assert 0.6 * RATE <= float(cells[3].removesuffix("/s")) <= 1.1 * RATE, cells
    elsewhere = row.replace("'web'", "'orders'")  # what the other host's metrics page tells
    await it.page.until(f"{elsewhere}.includes('/s') && {elsewhere}.includes(' ms')")
    drawn = str(await it.page.evaluate("document.querySelector('.graph').textContent"))
    assert "orders" in drawn
    assert await it.page.evaluate("document.querySelectorAll('path.edge.denied').length") == 1


async def test_the_matrix_says_by_keys_alone_who_decides(it):
    await visit(it.page, it.ui, "topology")
    await it.page.press("g", "i")
    await it.page.until(SHOWN.format(title="Intentions"))
    assert await it.page.evaluate("document.activeElement.textContent") == "Intentions"
    await it.page.evaluate("document.querySelector('.matrix td[tabindex=\"0\"]').focus()")
    await it.page.press("ArrowDown", "ArrowDown", "ArrowRight", "Enter")
    pair = str(await it.page.until("document.querySelector('#part-the-pair').parentElement.innerText"))
    assert "web → payments allowed" in " ".join(pair.split())
    assert "INC-7" in pair
    assert "test.yaml:1" in pair
    label = await it.page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label == "web to payments: allowed, by payments/web"
    await it.page.press("?")
    assert await it.page.until("document.querySelector('dialog').open")
    assert await it.page.faults() == []
    await it.page.press("Enter")  # its only button closes it
    await click(it.page, "dialog button")


async def test_a_rollout_is_told_on_the_page_of_its_service(it):
    await it.page.goto(f"{it.ui.base}#/services/web")
    await it.page.until(SHOWN.format(title="web"))
    said = str(await it.page.evaluate("document.querySelector('#part-rollout').parentElement.innerText"))
    assert "rollout web: paused, 100 % to v1, 0 % to v2" in said, said
    assert await it.page.faults() == []


async def test_what_if_says_what_explain_and_plan_say_and_changes_nothing(it):
    before = it.agent.status()["revision"]
    await visit(it.page, it.ui, "what-if")
    for field, text in (("source", "web"), ("destination", "payments"), ("method", "GET"), ("path", "/new/x")):
        await it.page.type(f"#ask-{field}", text)
    await click(it.page, "#ask-send")
    said = str(await it.page.until("document.querySelector('.note pre')?.innerText"))
    assert "web -> payments GET /new/x: allowed" in said
    assert "route    rule 0 of route payments: to payments (subset v1)" in said
    await it.page.type("#documents", "kind: intention\nname: payments\nsources: [{name: orders, action: allow}]\n")
    await click(it.page, "#plan")
    effects = str(await it.page.until("document.querySelector('[aria-label=\"What would change\"]')?.innerText"))
    assert "orders gains payments" in effects
    assert "web loses payments" in effects
    await it.page.screenshot(SHOTS / "live-what-if-answered.png")
    await it.page.evaluate("document.querySelector('#documents').value = ''")
    await it.page.type("#documents", "kind: intention\nname: payments\nsources: [{name: web, action: perhaps}]\n")
    await click(it.page, "#plan")
    assert await it.page.until("document.querySelector('#main').innerText.includes('pasted:3: sources[0].action')")
    assert it.agent.status()["revision"] == before


async def test_a_link_that_was_used_opens_nothing_more(it):
    async with chromium() as page:
        await page.goto(it.ui.link)
        said = str(await page.until("document.querySelector('main [role=alert]')?.innerText"))
        assert "this link was used before" in said
        assert "payments" not in await page.text()


async def test_words_of_others_are_never_markup(it):
    caller = Caller(it.orders)
    assert (await caller.get("/<script>document.title='caught'</script>")).status == 403
    caller.close()
    for where in ("intentions", "services/payments", "history/2", "refusals"):
        await visit(it.page, it.ui, where)
    assert await it.page.until(r"/(<|%3C)script(>|%3E)document.title=/.test(document.querySelector('#main').innerText)")
    await click(it.page, "#main td button")
    assert await it.page.until("document.querySelector('#part-why').parentElement.innerText.includes('intention')")
    await visit(it.page, it.ui, "services/payments")
    assert MARKUP in str(await it.page.evaluate("document.querySelector('#main').innerText"))
    assert await it.page.evaluate("document.querySelectorAll('#main img, #main script').length") == 0
    assert await it.page.evaluate("document.title") == "payments · Services · meshagent"
    assert it.page.errors == []


async def test_nobody_else_is_told_anything(it):
    def asked(path: str, headers: dict[str, str]) -> int:
        try:
            with urlopen(Request(f"{it.ui.base.rstrip('/')}{path}", b"{}", headers), timeout=10) as answer:
                return answer.status
        except HTTPError as error:
            return error.code

    session = {"Authorization": f"Bearer {await it.page.evaluate('localStorage.getItem(`session`)')}"}
    assert await asyncio.to_thread(asked, "/api/mesh", session) == 200
    assert await asyncio.to_thread(asked, "/api/mesh", {}) == 401
    for more in ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert await asyncio.to_thread(asked, "/api/mesh", session | more) == 403


async def test_one_host_without_a_store_shows_what_its_agent_knows(it):
    async with served("sqlite:///nowhere/mesh.db", it.agent.api) as ui:
        await enter(it.page, ui)
        text = await it.page.text()
        assert "Of this host alone: there is no store at" in text
        assert "web\tpayments\tnot known here" in text
        await it.page.goto(f"{ui.base}#/refusals")
        await it.page.until(SHOWN.format(title="Refusals"))
    await it.page.goto(f"{it.ui.base}#/topology")
    await it.page.until(SHOWN.format(title="Topology"))
    assert all(
        "503" in each for each in it.page.errors
    )  # the browser notes each refusal of the store that is not there
    it.page.errors.clear()


async def test_every_service_of_any_mesh_has_a_place_of_its_own_in_the_drawing(it):
    pick = random.Random(7)
    for count, calls in ((0, 0), (1, 1), (2, 4), (30, 20), (60, 200), (200, 700)):
        nodes = [{"name": f"s{number}"} for number in range(count)]
        edges = [
            {"source": pick.choice(nodes)["name"], "destination": pick.choice(nodes)["name"]} for _ in range(calls)
        ]
        drawn = "import('/layout.js').then(({layout}) => { const d = layout(%s, %s); return JSON.stringify([...d.places]) })"
        found = json.loads(str(await it.page.evaluate(drawn % (json.dumps(nodes), json.dumps(edges)))))
        assert {name for name, _ in found} == {node["name"] for node in nodes}
        boxes = sorted((place["x"], place["y"]) for _, place in found)
        for (x, y), (other_x, other_y) in pairwise(boxes):
            assert other_x - x >= 158 or (other_x == x and other_y - y >= 36), (count, x, y, other_x, other_y)
            assert min(x, y) >= 0


async def test_a_prometheus_gives_the_numbers_where_one_is_named(it):
    async with prometheus(free_port(), f"127.0.0.1:{it.metrics}") as url:
        asked = Prometheus(url)
        for _ in range(100):
            found = (await asked.numbers()).pairs.get(("web", "payments"))
            if found and found["rps"] and found["p99_ms"]:
                break
            await asyncio.sleep(0.2)
        assert found is not None
        assert found["rps"] > 0
        assert 0 < found["p50_ms"] <= found["p99_ms"]
        assert found["error_ratio"] == 0
