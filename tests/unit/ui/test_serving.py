"""The server: nobody looks without a session, under another name, or for another page; and nothing can be changed."""

from __future__ import annotations

import itertools
import re
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from meshagent.errors import NotFound, StoreUnavailable
from meshagent.ui.entry import Door
from meshagent.ui.serving import HEADERS, STATIC, application, files

NEAR = {"Host": "127.0.0.1:8500"}


class Told:
    """Pages that answer as they are told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    @property
    def answers(self):
        return {"mesh": self.mesh, "service": self.service, "hosts": self.hosts}

    async def mesh(self, asked):
        self.asked.append(asked)
        return {"words": "é <b>"}

    async def service(self, _):
        raise NotFound("there is no service x", next_step="look")

    async def hosts(self, _):
        raise StoreUnavailable("away")


@asynccontextmanager
async def server(tmp_path: Path):
    numbers = itertools.count()
    door, told, entered = Door(lambda: f"secret-{next(numbers)}"), Told(), []
    runner = web.AppRunner(application(door, told, lambda: entered.append(1)), access_log=None)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(tmp_path / "ui.sock")).start()
        connector = aiohttp.UnixConnector(str(tmp_path / "ui.sock"))
        async with aiohttp.ClientSession("http://127.0.0.1", connector=connector, headers=NEAR) as http:
            yield door, told, entered, http
    finally:
        await runner.cleanup()


async def entered_by(http, door) -> dict[str, str]:
    async with http.post("/api/enter", json={"token": door.token}) as answer:
        return {"Authorization": f"Bearer {(await answer.json())['session']}"}


async def test_a_link_is_good_once_and_its_session_opens_the_pages(tmp_path):
    async with server(tmp_path) as (door, told, entered, http):
        token = door.token
        session = await entered_by(http, door)
        assert entered == [1]
        async with http.post("/api/mesh", json={"path": "/x", "number": 5}, headers=session) as answer:
            assert (answer.status, await answer.json()) == (200, {"words": "é <b>"})
            assert answer.headers["Cache-Control"] == "no-store"
        assert told.asked == [{"path": "/x", "number": "5"}]
        async with http.post("/api/enter", json={"token": token}) as answer:
            assert answer.status == 401
        assert entered == [1]


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Bearer x", "Basic eDp5"])
async def test_without_a_session_nothing_is_told(tmp_path, authorization):
    async with server(tmp_path) as (_, told, _, http):
        headers = {} if authorization is None else {"Authorization": authorization}
        async with http.post("/api/mesh", headers=headers) as answer:
            assert answer.status == 401
        assert told.asked == []


@pytest.mark.parametrize(
    ("headers", "link"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 200),  # a link in a terminal in a browser
        ({"Sec-Fetch-Site": "same-site"}, 200),
    ],
)
async def test_nobody_is_answered_under_another_name_or_for_another_page(tmp_path, headers, link):
    async with server(tmp_path) as (door, told, _, http):
        session = await entered_by(http, door)
        for path in ("/api/mesh", "/api/enter"):
            async with http.post(path, headers={**session, **headers}, json={"token": door.token}) as answer:
                assert answer.status == 403, path
        async with http.get("/", headers=headers) as answer:
            assert answer.status == link
        assert told.asked == []


async def test_errors_are_told_with_their_next_step(tmp_path):
    async with server(tmp_path) as (door, _, _, http):
        session = await entered_by(http, door)
        async with http.post("/api/service", headers=session) as answer:
            assert answer.status == 404
            assert await answer.json() == {"code": "E103", "message": "there is no service x", "next_step": "look"}
        async with http.post("/api/hosts", headers=session) as answer:
            assert answer.status == 503
        for body in (b"[]", b"{", b"\xff"):
            async with http.post("/api/mesh", headers=session, data=body) as answer:
                assert answer.status == 400
        async with http.post("/api/nothing", headers=session) as answer:
            assert (answer.status, (await answer.json())["message"]) == (404, "Not Found")


async def test_every_answer_forbids_what_pages_do_not_need(tmp_path):
    async with server(tmp_path) as (_, _, _, http):
        for path in [*files(), "/nothing", "/../serving.py", "/api/mesh"]:
            async with http.get(path) as answer:
                assert {name: answer.headers[name] for name in HEADERS} == HEADERS, path
                assert answer.status == (200 if path in files() else 404 if "api" not in path else 405), path


async def test_a_browser_that_has_a_file_is_not_sent_it_again(tmp_path):
    async with server(tmp_path) as (_, _, _, http):
        async with http.get("/main.js") as answer:
            tag = answer.headers["ETag"]
        async with http.get("/main.js", headers={"If-None-Match": tag}) as answer:
            assert answer.status == 304


def test_text_of_others_never_becomes_markup_and_nothing_is_loaded_from_elsewhere():
    for path in sorted(STATIC.iterdir()):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        wild = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|\son\w+=\"", text
        )
        assert not wild, (path, wild)
        foreign = set(re.findall(r"https?://[^\s\"'`]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not foreign, (path, foreign)
    assert "style=" not in (STATIC / "index.html").read_text()
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
